"""How long work takes: warmed up, repeated as often as time allows, waited for on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from runners.bench_table import RATE, Row
from runners.hardware import Hardware

T = TypeVar("T")

WARM_ROWS = 4
MOST_RUNS = 20
LONGEST = 2.0
"""A batch that would take longer than this times the seconds of a part is timed in part."""


@dataclass(frozen=True)
class Span:
    """Seconds that passed, and seconds of processors that this process used meanwhile."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Timing:
    """Some runs of the same work, on `rows` rows of a batch: scaled where these are not all."""

    runs: list[Span]
    rows: int
    batch: int

    def row(self, name: str, unit: str, batch: str, work: float = 1.0) -> Row:
        """Median seconds of a run, or the rate if `work` was done in each."""
        scale = self.batch / self.rows
        times = [run.wall * scale for run in self.runs]
        values = [work / t if unit == RATE else t for t in times]
        note = f"timed with {self.rows} rows, scaled" if self.rows < self.batch else ""
        middle = statistics.median(values)
        return Row(
            name, middle, unit, min(values), max(values), len(values), self.cores, batch, note
        )

    def mean_rate(self, name: str, batch: str, work: float) -> Row:
        """The rate over all runs together, for work that differs from run to run."""
        together = Timing([Span(self.wall, self.wall * self.cores)], 1, 1)
        return replace(together.row(name, RATE, batch, work), runs=len(self.runs))

    @property
    def wall(self) -> float:
        """Seconds of all runs."""
        return sum(run.wall for run in self.runs)

    @property
    def cores(self) -> float:
        """Processors in use, on average."""
        return sum(run.cpu for run in self.runs) / self.wall


def time_batch(
    batch: int,
    prepare: Callable[[int], T],
    work: Callable[[T], object],
    hardware: Hardware,
    seconds: float,
) -> Timing:
    """Time `work` on what `prepare` makes of a number of rows, at `batch` if time allows."""
    few = min(batch, WARM_ROWS)
    data = prepare(few)
    work(data)
    first = clock(partial(work, data), hardware)
    estimate = first.wall * batch / few
    rows = batch
    if estimate > LONGEST * seconds:
        rows = max(few, int(batch * LONGEST * seconds / estimate))
        if rows == few:
            return Timing([first], rows, batch)
    data = prepare(rows)
    runs = repeat(partial(work, data), hardware, seconds)
    return Timing(runs, rows, batch)


def repeat(
    work: Callable[[], object], hardware: Hardware, seconds: float, most: int = MOST_RUNS
) -> list[Span]:
    """Run `work` once at least, then as often as is likely to fit."""
    runs: list[Span] = []
    spent = 0.0
    while not runs or (len(runs) < most and spent + spent / len(runs) <= seconds):
        runs.append(clock(work, hardware))
        spent += runs[-1].wall
    return runs


def clock(work: Callable[[], object], hardware: Hardware) -> Span:
    """How long `work` takes, on the device too."""
    _wait(hardware)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(hardware)
    return Span(time.perf_counter() - wall, time.process_time() - cpu)


def _wait(hardware: Hardware) -> None:
    if hardware.device.type == "cuda":
        torch.cuda.synchronize(hardware.device)
