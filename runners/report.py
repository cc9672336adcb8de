"""Several seeds of the same settings put together: what `tokendream report` writes.

report.md is for readers, summary.json and curves.csv for programs, curves.png for both.
"""

from __future__ import annotations

import csv
import io
import math
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runners.charts import Line, line_chart
from runners.drawing import BLUE, FAINT
from runners.durable import folder_for_output, json_text, write_atomic
from runners.intervals import interval_over_seeds
from runners.media import encode_png
from runners.needs import need_environment
from runners.report_text import markdown
from runners.results import SCORE_NAMES, SCORES, Point, RunResult, check_alike, read_result
from runners.settings.config import Config
from runners.settings.options import ReportOptions
from runners.settings.show import game
from runners.suites import axes, literature

PALE = "#9cc2f5"
BINS = 25
MOST_ENVS = 32


@dataclass(frozen=True)
class Chance:
    """A policy of uniformly random actions: mean return, 95 % interval over games, score.

    The score is NaN where the suite has none.
    """

    episodes: int
    seed: int
    ret: float
    low: float
    high: float
    score: float


def main(runs: Sequence[Path], options: ReportOptions, command: Sequence[str]) -> Path:
    """Read the runs, play with random actions, write the folder, print the report.

    Raises UserError where runs are not finished or not alike, or the folder cannot be made.
    """
    results = sorted((read_result(run) for run in runs), key=lambda result: result.seed)
    check_alike(results)
    if options.random:
        need_environment(results[0].config)
    out = folder_for_output(options.out)
    chance = play_at_random(results[0].config, options.random) if options.random else None
    found = summary(results, chance) | {"command": shlex.join(command)}
    write_atomic(out / "curves.csv", curves(results))
    (out / "curves.png").write_bytes(encode_png(charts(results, chance)))
    for result in results:
        for picture in sorted(result.path.glob("media/imagine-last/horizon*.png")):
            shutil.copyfile(picture, out / f"{picture.stem}-s{result.seed}.png")
    write_atomic(out / "summary.json", json_text(found))
    text = markdown(found, results)
    write_atomic(out / "report.md", text)
    print(text)
    print(f"Written to {out}")
    return out


def play_at_random(config: Config, episodes: int) -> Chance:
    """Uniformly random actions in fresh games, by the rules of evaluation."""
    import torch

    from envs.make import make_env
    from runners.evaluate import EVALUATION_SEED, play
    from runners.hardware import Hardware
    from runners.tally import evaluation_scores

    env = make_env(config.env.model_dump(), num_envs=min(MOST_ENVS, episodes), workers=-1)
    try:
        hardware = Hardware(torch.device("cpu"), torch.float32)
        evaluation, _ = play(None, env, hardware, episodes=episodes, seed=EVALUATION_SEED)
    finally:
        env.close()
    of_games = evaluation.summary()
    scores = evaluation_scores(config, evaluation.games)
    return Chance(
        episodes=episodes,
        seed=EVALUATION_SEED,
        ret=of_games["return"],
        low=of_games["return_ci_low"],
        high=of_games["return_ci_high"],
        score=scores.get(SCORES.get(config.env.suite, ""), math.nan),
    )


def summary(results: Sequence[RunResult], chance: Chance | None) -> dict[str, Any]:
    """All numbers of the report."""
    config = results[0].config
    means = [result.final.ret for result in results]
    mean, low, high = interval_over_seeds(means)
    others = literature(config, results[0].steps)
    score, score_low, score_high = interval_over_seeds([r.final.score for r in results])
    return {
        "presets": config.presets.model_dump(),
        "game": game(config),
        "score": SCORE_NAMES.get(config.env.suite),
        "episodes": config.run.eval_episodes,
        "runs": [_of_run(result, chance) for result in results],
        "pooled": {
            "return": mean,
            "low": low,
            "high": high,
            "interval": "95 %, Student's t over seeds",
            "score": score,
            "score_low": score_low,
            "score_high": score_high,
            "above_random": above(low, chance),
        },
        "random": None if chance is None else asdict(chance),
        **(others.numbers() if others else {}),
    }


def curves(results: Sequence[RunResult]) -> str:
    """Evaluations and games of training of each seed, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "seed", "games_of", "return", "ci_low", "ci_high", "score"])
    for result in results:
        for games_of, points in _series(result).items():
            for p in points:
                numbers = (p.ret, p.low, p.high, p.score)
                shown = ["" if math.isnan(x) else f"{x:.6g}" for x in numbers]
                writer.writerow([p.step, result.seed, games_of, *shown])
    return text.getvalue()


def charts(results: Sequence[RunResult], chance: Chance | None) -> np.ndarray:
    """Returns by step: of evaluations where there are several, and of the games of training."""
    pictures = []
    if min(len(result.evaluations) for result in results) > 1:
        x = np.array([p.step for p in results[0].evaluations], float)
        rows = [_at(result.evaluations, x) for result in results]
        pictures.append(_chart("Evaluation", x, rows, results, chance))
    if all(result.collected for result in results):
        edges = np.linspace(0, results[0].steps, BINS + 1)
        rows = [_binned(result.collected, edges) for result in results]
        x = (edges[1:] + edges[:-1]) / 2
        pictures.append(_chart("Games played in training", x, rows, results, chance))
    if not pictures:
        x = np.zeros(1)
        rows = [np.array([result.final.ret]) for result in results]
        pictures.append(_chart("Evaluation", x, rows, results, chance))
    return np.concatenate(pictures)


def _chart(
    what: str,
    x: np.ndarray,
    rows: Sequence[np.ndarray],
    results: Sequence[RunResult],
    chance: Chance | None,
) -> np.ndarray:
    mean, low, high = np.array([interval_over_seeds(column) for column in np.transpose(rows)]).T
    nothing = np.full(len(x), np.nan)
    lines = []
    if chance is not None:
        lines.append(chance_line(chance, x))
    several = len(results) > 1
    for result, row in zip(results, rows, strict=True):
        name = "" if several and result is not results[0] else "each seed" if several else ""
        lines.append(Line(name, row, nothing, nothing, PALE, width=1.0))
    name = f"mean of {len(results)} seeds, 95 % interval" if several else f"seed {results[0].seed}"
    lines.append(Line(name, mean, low, high, BLUE))
    config = results[0].config
    others = literature(config, results[0].steps)
    presets, on = config.presets, axes(config)
    return line_chart(
        np.round(x / 1000, 1),
        lines,
        title=f"{what}: {presets.agent} ({presets.size}) on {presets.env}",
        x_name=on.x_name,
        y_name=on.y_name,
        y_range=on.y_range,
        marks=others.marks() if others else None,
    )


def chance_line(chance: Chance, x: np.ndarray) -> Line:
    """Random actions in a chart over x (X,): they learn nothing."""
    mean, low, high = (np.full(len(x), end) for end in (chance.ret, chance.low, chance.high))
    return Line("random actions", mean, low, high, FAINT, dashed=True)


def _series(result: RunResult) -> dict[str, list[Point]]:
    return {"evaluation": result.evaluations, "training": result.collected}


def _at(points: Sequence[Point], x: np.ndarray) -> np.ndarray:
    """Returns at steps x, as seeds need not be evaluated at exactly the same ones."""
    return np.interp(x, [p.step for p in points], [p.ret for p in points])


def _binned(points: Sequence[Point], edges: np.ndarray) -> np.ndarray:
    """Mean return in each stretch of steps; stretches in which no game ended are bridged."""
    steps, rets = np.array([p.step for p in points]), np.array([p.ret for p in points])
    place = np.clip(np.searchsorted(edges, steps, side="left") - 1, 0, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1)
    total = np.bincount(place, rets, minlength=len(edges) - 1)
    known = np.flatnonzero(count)
    return np.interp(np.arange(len(count)), known, total[known] / count[known])


def _of_run(result: RunResult, chance: Chance | None) -> dict[str, Any]:
    final = result.final
    return {
        "run": result.path.name,
        "seed": result.seed,
        "steps": result.steps,
        "hours": result.hours,
        "return": final.ret,
        "low": final.low,
        "high": final.high,
        "interval": "95 %, bootstrap over games",
        "score": final.score,
        "training_score": result.collected[-1].score if result.collected else math.nan,
        "above_random": above(final.low, chance),
        "speeds": result.speeds,
        "peak_gib": result.peak_gib,
        "machine": {
            name: result.versions.get(name)
            for name in ("cpu", "cores", "memory_gib", "gpus", "python", "git")
        }
        | {"torch": result.versions.get("packages", {}).get("torch")},
        "commands": result.commands,
        "horizons": result.horizons,
    }


def above(low: float, chance: Chance | None) -> bool | None:
    """Whether an interval begins above that of random actions; None where one is missing."""
    return None if chance is None or math.isnan(low) else low > chance.high
