"""Reports of suites whose score is the return, beside what others published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runners import commands
from runners.charts import BESIDE, Line, Marks, apart, line_chart
from runners.drawing import PURPLE
from runners.results import read_result
from runners.suites import axes, literature, steps_text
from tests.test_report import make_run

CARTPOLE = ("env=dmc_state", "env.task=cartpole-swingup")


def report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str, random: int = 0
) -> tuple[dict[str, object], str]:
    """The summary and the text of a report of two runs of 50,000 steps."""
    monkeypatch.chdir(tmp_path)
    returns = [10.0 * i for i in range(1, 51)]
    runs = [str(make_run(tmp_path / "r", seed, returns, *words)) for seed in (0, 1)]
    assert commands.report([*runs, "out=o", f"random={random}"]) == 0
    found = json.loads((tmp_path / "o" / "summary.json").read_text())
    return found, (tmp_path / "o" / "report.md").read_text()


def test_dmc_runs_stand_beside_published_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, text = report(tmp_path, monkeypatch, *CARTPOLE)
    assert found["score"] is None and found["game"] == "cartpole-swingup"
    assert found["control_steps"] == 100_000 and found["nearest"] == 100_000
    assert "| policy | games | return | 95 % interval | above random |" in text
    assert "| seed 0 | 64 | 500.00 | 499.00 to 501.00 | - |" in text
    assert "human" not in text and "Crafter" not in text and "Scores are" not in text
    for words in (
        *("50,000 steps, 2 control steps each, 100,000 in all", "is 100,000, as many."),
        *("| SAC | **100,000** | 835 | 8 | 3 |", "| D4PG | 500,000 | 875 | 7 | 10 | arXiv"),
    ):
        assert words in text
    picture = np.asarray(Image.open(tmp_path / "o" / "curves.png"))
    assert picture.shape[1] == 64 + 520 + BESIDE


def test_a_budget_that_is_not_ours_is_said(tmp_path: Path) -> None:
    words = ("env=dmc_vision", "env.task=cartpole-swingup", "env.quality=fast")
    config = read_result(make_run(tmp_path, 0, [1.0], *words)).config
    others = literature(config, 25_000)
    assert others is not None
    text = "\n".join(others.text())
    assert "is 500,000, 10 times as many" in text and "| DrQ-v2 | **500,000** |" in text
    assert "| DreamerV3 | 1,000,000 |" in text and "env.quality=fast" in text
    marks = others.marks()
    assert marks.heading[1] == "500,000 control steps" and marks.x == 250
    assert marks.values == {"DrQ-v2": 838.2}


def test_nothing_published_is_nothing_said(tmp_path: Path) -> None:
    both = read_result(make_run(tmp_path / "a", 0, [1.0], *CARTPOLE, "env.observe=both")).config
    assert literature(both, 1000) is None and axes(both).y_range == (0, 1000)
    crafter = read_result(make_run(tmp_path / "b", 0, [1.0])).config
    assert literature(crafter, 1000) is None and steps_text(crafter, 1000) == "1,000 steps"


def test_any_gymnasium_environment_is_reported_with_random_games(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gymnasium")
    found, text = report(tmp_path, monkeypatch, "env=cartpole", "size=small", random=3)
    assert found["score"] is None and found["game"] == "CartPole-v1" and "published" not in found
    assert found["random"]["score"] is None and 8 < found["random"]["ret"] < 100  # type: ignore[index]
    assert "in 2 of 2 seed(s)" in text and "Published" not in text


def test_agents_on_dmc_are_compared_by_their_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [
        str(make_run(tmp_path / gamma, 0, [1.0, 5.0], *CARTPOLE, f"agent.behaviour.gamma={gamma}"))
        for gamma in ("0.5", "0.75")
    ]
    assert commands.compare([*runs, "out=o", "random=0"]) == 0
    assert "2,000 steps (4,000 control steps)" in capsys.readouterr().out
    Image.open(tmp_path / "o" / "curves.png").verify()


def test_marks_are_dots_in_a_chart_where_x_is_in_its_range() -> None:
    x = np.arange(3.0)
    line = Line("", x, x, x, "#000000")

    def chart(at: float) -> np.ndarray:
        marks = Marks(("after", "7"), at, {f"m{i}": 0.5 + i / 1000 for i in range(3)})
        return line_chart(x, [line], title="", x_name="", y_name="", y_range=(0, 1), marks=marks)

    inside, outside = chart(1.0), chart(7.0)
    colour = [int(PURPLE[i : i + 2], 16) for i in (1, 3, 5)]

    def drawn(picture: np.ndarray) -> np.ndarray:
        return (picture == colour).all(-1)

    assert drawn(inside)[:, :584].any() and not drawn(outside)[:, :584].any()


def test_names_beside_a_chart_keep_apart() -> None:
    assert apart([10.0, 50.0], 15, 100) == [10, 50]
    assert apart([10.0, 12.0, 13.0], 15, 100) == [10, 25, 40]
    assert apart([90.0, 95.0, 99.0], 15, 100) == [70, 85, 100]
