"""Agents side by side: made-up runs with known numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runners import commands
from runners.charts import Line, line_chart
from runners.compare import by_agent
from runners.errors import UserError
from runners.results import read_result
from tests.test_report import make_run


def test_agents_are_put_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for root, agent, best in (("a", "delta_iris", 3.0), ("b", "iris", 5.0)):
        for seed in (0, 1):
            make_run(tmp_path / root, seed, [1.0, best + seed], f"agent={agent}")
    runs = sorted(str(path.parent) for path in tmp_path.glob("*/crafter/*/*/config.yaml"))
    assert commands.compare([*runs, "out=o", "random=2"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "o" / "compare.json").read_text())
    assert [(row["agent"], row["return"]) for row in found["agents"]] == [
        ("iris", 5.5),
        ("delta_iris", 3.5),
    ]
    # Student's t with one degree of freedom, standard error 0.5.
    assert found["agents"][0]["high"] == pytest.approx(5.5 + 12.706 * 0.5)
    assert found["agents"][0]["speeds"]["collected steps/s"] == 150.0
    # What a run did not log is null in the file and a dash in the table.
    assert found["agents"][0]["speeds"]["updates/s"] is None
    assert "| iris | 2 | 5.50 |" in printed and "| random actions |" in printed
    Image.open(tmp_path / "o" / "curves.png").verify()


def test_what_a_preset_was_changed_by_is_in_its_name(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", 0, [1.0]),
        make_run(tmp_path / "b", 0, [1.0], "agent.tokenizer.quantizer.kind=fsq"),
        # Where the files of a run lie does not make it another agent.
        make_run(tmp_path / "c", 1, [1.0], "agent.tokenizer.perceptual_weights=elsewhere"),
    ]
    groups = by_agent([read_result(run) for run in runs])
    assert {name: len(those) for name, those in groups.items()} == {
        "delta_iris": 2,
        "delta_iris, tokenizer.quantizer.kind=fsq": 1,
    }
    # Whichever is named first.
    alone = make_run(tmp_path / "d", 0, [1.0], "agent.tokenizer.context_noise=0.5")
    assert list(by_agent([read_result(run) for run in (alone, runs[0])])) == [
        "delta_iris, tokenizer.context_noise=0.5",
        "delta_iris",
    ]


def test_another_budget_is_no_comparison(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", 0, [1.0]),
        make_run(tmp_path / "b", 0, [1.0], "agent=iris", "run.steps=30000"),
    ]
    with pytest.raises(UserError, match=r"differ in run\.steps: 20000 and 30000; only agents"):
        by_agent([read_result(run) for run in runs])
    fewer = make_run(tmp_path / "e", 0, [1.0], "agent=iris", "run.eval_episodes=8")
    with pytest.raises(UserError, match=r"differ in run\.eval_episodes: 64 and 8"):
        by_agent([read_result(run) for run in (runs[0], fewer)])
    with pytest.raises(UserError, match="both have seed=0"):
        by_agent([read_result(make_run(tmp_path / x, 0, [1.0])) for x in "cd"])


def test_a_legend_too_long_for_a_row_goes_on_in_the_next() -> None:
    x = np.arange(3.0)

    def chart(names: int) -> np.ndarray:
        lines = [Line(f"an agent with a name {i}", x, x, x, "#000000") for i in range(names)]
        return line_chart(x, lines, title="", x_name="", y_name="")

    one, four = chart(1), chart(4)
    long = [Line("a name that goes on and on " * 9, x, x, x, "#000000")]
    cut = line_chart(x, long, title="", x_name="", y_name="")
    assert cut.shape == one.shape and (cut[:, -2:] == cut[0, 0]).all()
    assert four.shape[1] == one.shape[1] and four.shape[0] > one.shape[0]
    # Nothing is drawn over the right edge.
    assert (four[:, -2:] == four[0, 0]).all()
