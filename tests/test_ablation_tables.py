"""Tables of world models: which rows they have, their settings, and what is wrong with them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from runners.errors import UserError
from runners.settings.ablations import plan, read_table, tables, tables_text
from runners.settings.config import Config
from runners.settings.diffusion import DiffusionSettings
from runners.settings.load import load

TABLE = read_table("diffusion")
TINY = ["size=tiny"]
WHOLE = ["size=tiny", "agent=diffusion"]


def settings(words: list[str], *rows: str) -> dict[str, DiffusionSettings]:
    """Of rows that denoise."""
    found = {}
    for row in plan(TABLE, rows, words).rows:
        assert isinstance(row.config.agent.dynamics, DiffusionSettings)
        found[row.name] = row.config.agent.dynamics
    return found


def steps(words: list[str], *rows: str) -> list[int]:
    return [dynamics.sampler.steps for dynamics in settings(words, *rows).values()]


def layers(config: Config) -> int:
    layers: int = config.agent.dynamics.model_dump()["layers"]
    return layers


def write(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of one's own in a working folder."""
    (folder / "configs" / "ablation").mkdir(parents=True)
    (folder / "configs" / "ablation" / "mine.yaml").write_text(text)
    monkeypatch.chdir(folder)


def test_steps_follow_the_number_of_tokens() -> None:
    rows = ("diffusion", "steps_1", "steps_all")
    assert steps(TINY, *rows) == [2, 1, 4]
    assert steps(WHOLE, *rows) == [4, 1, 16]
    assert steps(["size=tiny", "agent.tokenizer.tokens=1"], "diffusion") == [1]
    made = plan(TABLE, ("diffusion", "steps_2", "steps_8"), TINY)
    assert [row.name for row in made.rows] == ["diffusion"]
    assert made.left_out == ["steps_2: it is diffusion", "steps_8: more than 4 tokens"]
    # It is left out only where the other is there.
    assert steps(TINY, "steps_2") == [2]
    with pytest.raises(UserError, match="no row is left\n  steps_8: more than 4 tokens"):
        plan(TABLE, ("steps_8",), TINY)


def test_only_the_steps_that_a_row_ends_with_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "{a: {kind: diffusion, sampler.steps: 8}, b: {like: a, sampler.steps: 2}, %s}"
    text = rows % "c: {like: a, kind: parallel}, d: {like: b, sampler.steps: all}"
    write(f"rows: {text}", tmp_path, monkeypatch)
    made = plan(read_table("mine"), (), [*TINY, "agent.dynamics.layers=3"])
    assert [row.name for row in made.rows] == ["b", "c", "d"]
    assert made.left_out == ["a: more than 4 tokens"]


def test_all_rows_have_as_many_layers() -> None:
    rows = ("autoregressive", "diffusion", "st", "head_2", "head_3")
    made = plan(TABLE, rows, WHOLE)
    # Two in the trunk and one in the head of the preset.
    assert {row.name: layers(row.config) for row in made.rows} == {
        "autoregressive": 3,
        "diffusion": 2,
        "st": 3,
        "head_2": 1,
    }
    assert made.left_out == ["head_3: a head of 3 layers leaves none of 3"]
    (row,) = plan(TABLE, ("diffusion",), [*TINY, "agent.dynamics.layers=5"]).rows
    assert layers(row.config) == 4


def test_rows_that_dream_otherwise_share_a_training() -> None:
    names = ("diffusion", "steps_1", "copilot4d_noise", "gibbs", "guidance_0", "guidance_2")
    groups = plan(TABLE, names, WHOLE).trainings()
    assert [[row.name for row in group] for group in groups] == [
        ["diffusion", "steps_1", "gibbs"],
        ["copilot4d_noise"],
        ["guidance_0", "guidance_2"],
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *product(["diffusion"], [TINY, ["size=tiny", "agent=rem"], ["agent=copilot4d"]]),
        *product(["numbers"], [["env=cartpole"], ["env=dmc_state"]]),
    ],
)
def test_every_row_is_sound(name: str, words: list[str]) -> None:
    table = read_table(name)
    made = plan(table, (), words)
    assert {row.name for row in made.rows} | {line.split(":")[0] for line in made.left_out} == set(
        table.rows
    )
    assert set(table.charts) <= set(table.rows)


def test_the_row_copilot4d_is_its_preset_but_for_steps() -> None:
    dynamics = load(["agent=copilot4d"]).config.agent.dynamics
    row = settings(["agent=diffusion"], "copilot4d")["copilot4d"].model_dump()
    preset = dynamics.model_dump()
    for tree in (row, preset):
        del tree["sampler"]["steps"], tree["layers"]
    assert row == preset


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        (("steps1",), TINY, "no row 'steps1'\n  did you mean: steps_1"),
        (("xyz",), TINY, "see: tokendream list tables"),
        (("st", "st"), TINY, r"rows=\[st,st\] names one of them twice"),
        (("st",), [*TINY, "agent.dynamics.widht=3"], "did you mean: agent.dynamics.width"),
    ],
)
def test_a_wrong_row_is_told(rows: tuple[str, ...], words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(TABLE, rows, words)


@pytest.mark.parametrize(
    ("rows", "word", "said"),
    [
        ((), "guidance=0.7", "(diffusion, normal, steps_1 and "),
        ((), "kind=parallel", "(autoregressive, diffusion, autoregressive_fan_in and "),
        (("steps_1", "st"), "guidance=0.7", "(steps_1, st)"),
        (("parallel", "guidance_1"), "guidance=0.0", "(guidance_1)"),
        (("parallel", "st"), "sampler=random", "(st)"),
        (("parallel", "st"), "sampler.kind.more=2", "(st)"),
    ],
)
def test_what_a_row_sets_is_refused_on_the_command_line(
    rows: tuple[str, ...], word: str, said: str
) -> None:
    with pytest.raises(UserError) as error:
        plan(TABLE, rows, [*TINY, f"agent.dynamics.{word}"])
    text = str(error.value)
    assert text.startswith(f"agent.dynamics.{word}: the rows of table diffusion say this {said}")
    assert text.endswith("); write a table of your own in ./configs/ablation")
    assert "\n" not in text


def test_what_no_chosen_row_says_otherwise_may_be_set() -> None:
    words = ["layers=4", "width=64", "heads=2", "blocks=21", "dropout=0.1", "kind=diffusion"]
    own = [*WHOLE, *(f"agent.dynamics.{word}" for word in words)]
    found = settings(own, "diffusion", "guidance_1")
    assert [d.width for d in found.values()] == [64, 64]
    assert [d.guidance for d in found.values()] == [0.0, 1.0]
    assert plan(TABLE, ("parallel",), [*WHOLE, "agent.dynamics.guidance=0.0"]).rows
    # A preset or a file may say what rows change.
    assert settings(["agent=copilot4d", "size=tiny"], "diffusion")["diffusion"].guidance == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: {a: {kind: parallel}, b: {like: c}}", "row 'b' is like 'c', which is no row above"),
        ("rows: {a: parallel}", "row 'a' should hold settings of agent.dynamics"),
        ("row: {}", "it needs 'rows'"),
        ("rows: {a: {}}\nchart: [a]", "there is no entry 'chart'\n  did you mean: charts"),
        ("rows: {a: {}}\ndescripton: b", "entry 'descripton'\n  did you mean: description"),
        ("rows: {abc: {}}\ncharts: [abd]", "names no row: 'abd'\n  did you mean: abc"),
        ("rows: {a: {}}\ncharts: a", "'charts' should be a list of rows, not 'a'"),
        ("rows: {a: {}, a: {}}", "^[^\n]*'a' is given twice$"),
        ("rows: {a: {kind: parallell}}", r"kind='parallell' \(row a\)"),
        ("rows: {a: {sampler.steps: 2}}", "sampler"),
        ("rows: {a: {heads: 3}}", "^row a: agent.dynamics.width=256 is not divisible"),
    ],
)
def test_a_wrong_table_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    write(text, tmp_path, monkeypatch)
    assert tables() == ["diffusion", "mine", "numbers"]
    with pytest.raises(UserError, match=said):
        plan(read_table("mine"), (), TINY)


def test_a_wrong_table_leaves_the_others_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("rows: {a: 1}\ncharts: [b]", tmp_path, monkeypatch)
    text = tables_text()
    assert "steps_1 " in text
    assert "mine (table=mine)  2 wrong setting(s); configs/ablation/mine.yaml: row 'a'" in text
    assert "'charts' names no row: 'b'\n" in text


def test_a_contradiction_of_the_command_line_names_no_row() -> None:
    with pytest.raises(UserError, match="^agent.dynamics.width=256 is not divisible"):
        plan(TABLE, ("diffusion",), [*TINY, "agent.dynamics.heads=3"])
    # The preset has 4 steps, which are too many; the row has others.
    assert steps([*WHOLE, "agent.tokenizer.tokens=1"], "diffusion") == [1]


def test_a_table_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="table=difusion.*there are: diffusion.*\n.*mean: diff"):
        read_table("difusion")
