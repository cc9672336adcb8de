"""Reports of made-up runs with known numbers, compared with real games of random actions."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runners import commands
from runners.errors import UserError
from runners.intervals import interval_over_seeds
from runners.report import Chance, charts, play_at_random, summary
from runners.report_text import markdown
from runners.results import check_alike, read_result
from runners.settings.load import load, to_yaml

HORIZON = {
    "num_windows": 8,
    "num_episodes": 2,
    "horizon": [1, 2, 3],
    **{
        name: {"mean": [x, 2 * x, 4 * x], "low": [x / 2] * 3, "high": [5 * x] * 3}
        for name, x in (
            ("mse", 0.001),
            ("copy_mse", 0.004),
            ("misled_mse", 0.003),
            ("recon_mse", 0.0005),
        )
    },
    "token_accuracy": {"mean": [0.9, 0.8, 0.7], "low": [None] * 3, "high": [None] * 3},
}


def make_run(
    root: Path, seed: int, returns: list[float], *words: str, status: str = "finished"
) -> Path:
    """A run whose evaluations, 1,000 steps apart, had these returns, give or take one."""
    run = root / "crafter" / "delta_iris" / f"2026-01-02_03-04-0{seed}_s{seed}_abcd"
    run.mkdir(parents=True)
    config = load(["size=tiny", f"seed={seed}", f"root={root}", *words]).config
    (run / "config.yaml").write_text(to_yaml(config))
    steps = 1000 * len(returns)
    files: dict[str, Any] = {
        "summary.json": {"status": status, "steps": steps, "seconds": 7200.0},
        "versions.json": {
            **{"cpu": "Some CPU", "cores": 2, "memory_gib": 8.0, "gpus": [], "python": "3.11.0"},
            **{"git": "1234abcd", "packages": {"torch": "2.13.0"}},
        },
    }
    for name, content in files.items():
        (run / name).write_text(json.dumps(content))
    (run / "command.txt").write_text(f"2026-01-02T03:04:05  tokendream train seed={seed}\n")
    records: list[dict[str, Any]] = []
    for i, ret in enumerate(returns, start=1):
        step = 1000 * i
        speeds = {"speed/env_steps_s": 100.0 * i, "memory/ram_gib": 0.5 * i}
        records.append({"step": step, "episode/return": ret - 0.5, "crafter/score": 3.0, **speeds})
        ends = {"eval/return_ci_low": ret - 1, "eval/return_ci_high": ret + 1}
        records.append({"step": step, "eval/return": ret, **ends, "eval/crafter/score": 2 * ret})
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return run


def test_report_of_two_seeds_beside_real_random_games(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path / "runs", seed, [1.0, 5.0 + seed, 9.0 + seed]) for seed in (0, 1)]
    media = runs[1] / "media" / "imagine-last"
    media.mkdir(parents=True)
    (media / "horizon.json").write_text(json.dumps(HORIZON))
    (media / "horizon.png").write_bytes(b"picture")
    # By prefixes of names, in any order.
    assert commands.report(["2026-01-02_03-04-01", "2026-01-02_03-04-00", "out=o", "random=3"]) == 0
    out = tmp_path / "o"
    found = json.loads((out / "summary.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert [run["return"] for run in found["runs"]] == [9.0, 10.0]
    assert found["pooled"]["return"] == 9.5 and found["pooled"]["score"] == 19.0
    assert found["pooled"]["low"] == pytest.approx(9.5 - 12.706 * 0.5)
    assert found["runs"][0]["speeds"]["speed/env_steps_s"] == 200.0
    assert found["runs"][0]["speeds"]["speed/updates_s"] is None
    assert found["runs"][0]["peak_gib"] == 1.5
    chance = found["random"]
    assert chance["episodes"] == 3 and chance["low"] <= chance["ret"] <= chance["high"] < 8
    assert all(run["above_random"] for run in found["runs"])
    with (out / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluations = [row for row in rows if row["games_of"] == "evaluation"]
    assert len(rows) == 12 and len(evaluations) == 6
    assert evaluations[-1] == {
        **{"step": "3000", "seed": "1", "games_of": "evaluation", "return": "10"},
        **{"ci_low": "9", "ci_high": "11", "score": "20"},
    }
    assert np.asarray(Image.open(out / "curves.png")).std() > 10
    assert (out / "horizon-s1.png").read_bytes() == b"picture"
    text = (out / "report.md").read_text()
    for words in (
        *("in 2 of 2 seed(s)", "| seed 1 | 64 | 10.00 | 9.00 to 11.00 | 20.00 | yes |"),
        *("0.00400 (0.00050 to 0.00500)", "| 0.25 |", "70.0%", "2 h 00 min", "Some CPU"),
        *("tokendream train seed=1", "random=3", "commit 1234abcd", "3.00 %"),
    ):
        assert words in text
    assert text in capsys.readouterr().out


def test_errors_that_an_older_version_did_not_work_out_are_left_open(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0, [4.0])
    media = run / "media" / "imagine-last"
    media.mkdir(parents=True)
    older = {name: band for name, band in HORIZON.items() if name != "misled_mse"}
    (media / "horizon.json").write_text(json.dumps(older))
    (media / "horizon.png").write_bytes(b"picture")
    result = read_result(run)
    assert "(0.00050 to 0.00500) | - |" in markdown(
        summary([result], None) | {"command": ""}, [result]
    )


def test_each_of_several_observations_has_its_own_errors(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0, [9.0])
    media = run / "media" / "imagine-last"
    media.mkdir(parents=True)
    for entry, unit in (("pixels", "error per pixel"), ("state", "squared error / variance")):
        report = HORIZON | {"entry": entry, "unit": unit}
        (media / f"horizon-{entry}.json").write_text(json.dumps(report))
    result = read_result(run)
    text = markdown(summary([result], None) | {"command": ""}, [result])
    first, second = (text.index(words) for words in ("pixels: error per", "state: squared error /"))
    assert first < text.index("imagined steps") < second
    assert text.count("| imagined steps |") == 2


def test_one_seed_has_no_interval_over_seeds(tmp_path: Path) -> None:
    result = read_result(make_run(tmp_path, 0, [4.0]))
    chance = Chance(episodes=2, seed=0, ret=2.0, low=1.0, high=2.9, score=1.5)
    found = summary([result], chance)
    assert math.isnan(found["pooled"]["low"]) and found["pooled"]["above_random"] is None
    assert found["runs"][0]["above_random"] is True
    assert summary([result], None)["random"] is None
    assert charts([result], chance).dtype == np.uint8


def test_random_actions_play_the_same_games_each_time() -> None:
    config = load(["size=tiny", "env.length=60"]).config
    first = play_at_random(config, 2)
    assert first == play_at_random(config, 2) and first.episodes == 2


def test_runs_that_are_not_seeds_of_one_experiment_are_refused(tmp_path: Path) -> None:
    gamma = "agent.behaviour.gamma=0.75"
    one = read_result(make_run(tmp_path / "a", 0, [1.0], gamma))
    other = read_result(make_run(tmp_path / "b", 1, [1.0], "agent.behaviour.gamma=0.5"))
    again = read_result(make_run(tmp_path / "c", 0, [2.0], gamma))
    apart = read_result(make_run(tmp_path / "d", 2, [2.0], gamma, "threads=3", "run.keep=5"))
    with pytest.raises(UserError, match="differ in agent.behaviour.gamma: 0.75 and 0.5"):
        check_alike([one, other])
    with pytest.raises(UserError, match="both have seed=0"):
        check_alike([one, again])
    check_alike([one, apart])


def test_unfinished_and_damaged_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not finished .interrupted.: tokendream resume"):
        read_result(make_run(tmp_path / "a", 0, [1.0], status="interrupted"))
    with pytest.raises(UserError, match="has no evaluation"):
        read_result(make_run(tmp_path / "b", 0, []))
    run = make_run(tmp_path / "c", 0, [1.0])
    (run / "metrics.jsonl").write_text("{}\n{")
    with pytest.raises(UserError, match="line 2: not JSON"):
        read_result(run)
    with pytest.raises(UserError, match="no such run") as error:
        commands.report(["nothing", f"root={tmp_path / 'c'}", "rndom=3"])
    assert "did you mean: random" in str(error.value)
    with pytest.raises(UserError, match="report needs a RUN"):
        commands.report(["out=x"])


def test_the_interval_over_seeds_is_that_of_student() -> None:
    mean, low, high = interval_over_seeds([1.0, 2.0, 3.0])
    half = 4.303 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    _, low, high = interval_over_seeds([0.0, 1.0] * 50)
    assert high - low == pytest.approx(2 * 1.984 * 0.5025 / 10, rel=0.01)
