"""What finished runs left behind, read for a report. No torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runners.errors import UserError
from runners.run_folder import read_summary
from runners.settings.build import dotted, fields
from runners.settings.config import Config
from runners.settings.load import CHANGEABLE, read

OWN = {"seed", "name", "root", "precision", *CHANGEABLE} - {
    *("run.steps", "run.tail_epochs", "run.eval_episodes")
}
"""Settings in which runs of one report may differ."""
SCORES = {"crafter": "eval/crafter/score", "atari": "atari/hns"}
SCORE_NAMES = {"crafter": "Crafter score, %", "atari": "human-normalised score"}
"""Suites without one have their return for a score."""
TRAINING_SCORES = {"crafter": "crafter/score"}
SPEEDS = ("speed/env_steps_s", "speed/updates_s", "speed/dreamed_steps_s")
MEMORY = ("memory/gpu_peak_gib", "memory/ram_gib")
"""The first that a run logged is its peak."""


@dataclass(frozen=True)
class Point:
    """One point of a curve: a mean return with the ends of its 95 % interval, and the score.

    A point of training has no interval (NaN). The score is NaN where its suite has none.
    """

    step: int
    ret: float
    low: float
    high: float
    score: float


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    evaluations, collected: curves by step, `collected` of the games played in training.
    speeds: medians over the run. peak_gib: of the GPU's memory, of RAM without one.
    horizons: RUN/media/imagine-*/horizon*.json, one for each thing that the environment shows.
    """

    path: Path
    config: Config
    steps: int
    hours: float
    evaluations: list[Point]
    collected: list[Point]
    speeds: dict[str, float]
    peak_gib: float
    versions: dict[str, Any]
    commands: list[str]
    horizons: list[dict[str, Any]]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def final(self) -> Point:
        """The last evaluation."""
        return self.evaluations[-1]


def read_result(run: Path) -> RunResult:
    """Raises UserError where the run is not finished or its files are damaged."""
    summary = read_summary(run)
    if summary.get("status") != "finished":
        raise UserError(
            f"run {run.name} is not finished ({summary.get('status')}): "
            f"tokendream resume {run.name}"
        )
    config = read(run / "config.yaml").config
    records = list(_records(run / "metrics.jsonl"))
    suite = config.env.suite
    evaluations = [_evaluated(r, SCORES.get(suite, "")) for r in records if _has(r, "eval/return")]
    if not evaluations:
        raise UserError(f"run {run.name} has no evaluation in metrics.jsonl")
    collected = [
        Point(r["step"], r["episode/return"], *(math.nan,) * 2, _trained(r, suite))
        for r in records
        if _has(r, "episode/return")
    ]
    return RunResult(
        path=run,
        config=config,
        steps=int(summary["steps"]),
        hours=float(summary.get("seconds", math.nan)) / 3600,
        evaluations=evaluations,
        collected=collected,
        speeds={tag: _median(records, tag) for tag in SPEEDS},
        peak_gib=_peak(records),
        versions=_json(run / "versions.json") or {},
        commands=_commands(run / "command.txt"),
        horizons=_horizons(run),
    )


def check_alike(results: Sequence[RunResult]) -> None:
    """Raises UserError unless the runs are seeds of the same settings."""
    first = results[0]
    seeds = {first.seed: first}
    for other in results[1:]:
        if apart := differences(first, other):
            shown = "; ".join(f"{key}: {one} and {two}" for key, one, two in apart[:5])
            more = f"; and {len(apart) - 5} more" if len(apart) > 5 else ""
            raise UserError(
                f"runs {first.path} and {other.path} differ in {shown}{more}; "
                "a report takes several seeds of the same settings"
            )
        if other.seed in seeds:
            raise UserError(
                f"runs {seeds[other.seed].path} and {other.path} both have seed={other.seed}; "
                "each seed counts once"
            )
        seeds[other.seed] = other


def differences(one: RunResult, other: RunResult) -> list[tuple[str, object, object]]:
    """Settings in which two runs differ and need not: key, here, there; without those of OWN."""
    here, there = (
        {dotted(key): value for key, _, value in fields(result.config)} for result in (one, other)
    )
    keys = sorted({*here, *there} - OWN)
    return [(k, here.get(k), there.get(k)) for k in keys if here.get(k) != there.get(k)]


def _records(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: not JSON") from error


def _has(record: dict[str, Any], tag: str) -> bool:
    return record.get(tag) is not None


def _evaluated(record: dict[str, Any], score: str) -> Point:
    names = ("eval/return", "eval/return_ci_low", "eval/return_ci_high", score)
    ret, low, high, points = (record[n] if _has(record, n) else math.nan for n in names)
    return Point(record["step"], ret, low, high, points)


def _trained(record: dict[str, Any], suite: str) -> float:
    score = record.get(TRAINING_SCORES.get(suite, ""))
    return math.nan if score is None else float(score)


def _median(records: Sequence[dict[str, Any]], tag: str) -> float:
    """Over records in which the work was done at all."""
    values = [record[tag] for record in records if record.get(tag)]
    return float(np.median(values)) if values else math.nan


def _peak(records: Sequence[dict[str, Any]]) -> float:
    for tag in MEMORY:
        if values := [record[tag] for record in records if _has(record, tag)]:
            return float(max(values))
    return math.nan


def _commands(file: Path) -> list[str]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [re.sub(r"^\S+  ", "", line) for line in lines]


def _horizons(run: Path) -> list[dict[str, Any]]:
    """The errors of imagination, of the last checkpoint if they were measured there."""
    for checkpoint in ("last", "best"):
        files = sorted((run / "media" / f"imagine-{checkpoint}").glob("horizon*.json"))
        if found := [report for report in map(_json, files) if report is not None]:
            return found
    return []


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{file} is damaged: it is not JSON") from error
    return found if isinstance(found, dict) else None
