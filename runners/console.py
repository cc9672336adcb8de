"""What a running command shows: one live block on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TextIO

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 10.0
REFRESH_SECONDS = 0.2
# Batch systems and CI keep what a live block draws as thousands of lines.
BATCH_VARIABLES = ("CI", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


@dataclass(frozen=True)
class Status:
    """One moment of a run. `phase` is what runs now, `done` of `due` how much of it is done.

    ret: mean return of the last episodes collected; eval_ret: of the last evaluation. speeds:
    words such as "collect, steps/s" -> number. more_left: some work that remains was never
    measured, and seconds_left is without it. memory: words such as "RAM" -> GiB.
    """

    phase: str
    step: int
    num_steps: int
    epoch: int = 0
    num_epochs: int = 0
    done: int = 0
    due: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    more_left: bool = False
    ret: float | None = None
    eval_ret: float | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)


class Console(Protocol):
    """Shows the status of a run; call `show` as often as you like."""

    def show(self, status: Status) -> None:
        """Replace what is shown."""

    def note(self, words: str) -> None:
        """Tell an event, which stays readable."""

    def close(self) -> None:
        """Leave the terminal as it was; a second call does nothing."""


def open_console(
    kind: Literal["auto", "rich", "plain"] = "auto", stream: TextIO | None = None
) -> Console:
    """A console on `stream` (standard output): `auto` is rich on a person's terminal."""
    stream = stream or sys.stdout
    if kind == "auto":
        kind = "rich" if _is_persons_terminal(stream) else "plain"
    return RichConsole(stream) if kind == "rich" else PlainConsole(stream)


class PlainConsole:
    """A line every ten seconds, and one when a phase begins for the first time."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._last = -LINE_SECONDS
        self._met: set[str] = set()

    def show(self, status: Status) -> None:
        """Print the status, unless the last line is recent and the phase is no news."""
        now = self._clock()
        if now - self._last < LINE_SECONDS and status.phase in self._met:
            return
        self._last = now
        self._met.add(status.phase)
        self.note("  ".join(words for _, words in describe(status)))

    def note(self, words: str) -> None:
        """Print a line."""
        print(words, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to restore."""


class RichConsole:
    """A block at the bottom of the terminal that is drawn again in place."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = Terminal(file=stream, highlight=False, force_terminal=True)
        self._live = Live(console=self._terminal, auto_refresh=False, transient=False)
        self._clock, self._last, self._phase = clock, 0.0, ""
        self._live.start()

    def show(self, status: Status) -> None:
        """Draw the block again, at most five times a second and whenever the phase changes."""
        now = self._clock()
        if now - self._last < REFRESH_SECONDS and status.phase == self._phase:
            return
        self._last, self._phase = now, status.phase
        self._live.update(block(status), refresh=True)

    def note(self, words: str) -> None:
        """Print a line above the block."""
        self._terminal.print(words, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last block standing and give the cursor back."""
        self._live.stop()


def block(status: Status) -> Group:
    """The live block: a bar of the steps above a table of facts."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, words in describe(status):
        grid.add_row(name, Text(words.removeprefix(f"{name} ")))
    # In a table, as a bar alone does not end its line.
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(status.num_steps, 1), completed=status.step, width=60))
    return Group(bar, grid)


def describe(status: Status) -> list[tuple[str, str]]:
    """The facts of a status by name, each in words that also stand alone."""
    share = status.step / max(status.num_steps, 1)
    facts = [("step", f"step {status.step:,}/{status.num_steps:,} ({share:.1%})")]
    if status.num_epochs:
        facts.append(("epoch", f"epoch {status.epoch}/{status.num_epochs}"))
    phase = status.phase.replace("_", " ")
    facts.append(("now", f"{phase} {status.done:,}/{status.due:,}" if status.due else phase))
    left = "measuring" if status.seconds_left is None else duration(status.seconds_left)
    if status.more_left and status.seconds_left is not None:
        left = f"more than {left}"
    facts.append(("time", f"{duration(status.seconds)}, left: {left}"))
    returns = [
        f"{name} {number:.2f}"
        for name, number in (("return", status.ret), ("evaluation", status.eval_ret))
        if number is not None
    ]
    if returns:
        facts.append(("return", ", ".join(returns)))
    if status.speeds:
        facts.append(("speed", speeds_in_words(status.speeds)))
    if status.memory:
        facts.append(("memory", memory_in_words(status.memory)))
    return facts


class TimeLeft:
    """Estimates the time that remains from what each kind of work took lately.

    Kinds are collecting (counted in steps) and each learning phase (in updates), so the estimate
    knows of epochs that only learn and of phases that begin late. Of each kind, time spent
    `half_life` seconds ago counts half: acting by a policy is slower than acting at random.
    """

    def __init__(self, half_life: float = 120.0) -> None:
        self._half_life = half_life
        self._seen: dict[str, tuple[float, float]] = {}
        self._recent: dict[str, tuple[float, float]] = {}

    def measure(self, work: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Tell the work done and the seconds it took, both in all since the program started."""
        for kind, amount in work.items():
            took = seconds.get(kind, 0.0)
            amount_before, took_before = self._seen.get(kind, (0.0, 0.0))
            if amount <= amount_before:
                continue
            self._seen[kind] = (amount, took)
            fade = 0.5 ** ((took - took_before) / self._half_life)
            old_amount, old_took = self._recent.get(kind, (0.0, 0.0))
            self._recent[kind] = (
                old_amount * fade + amount - amount_before,
                old_took * fade + took - took_before,
            )

    def estimate(self, remaining: Mapping[str, float]) -> float | None:
        """Seconds for the work that remains; None before any of it was measured.

        A kind that has not run yet is left out: `complete` says whether there is one.
        """
        total, known = 0.0, False
        for kind, amount in remaining.items():
            if amount <= 0:
                continue
            if kind in self._recent:
                done, took = self._recent[kind]
                total, known = total + amount * took / done, True
        return total if known or self.complete(remaining) else None

    def complete(self, remaining: Mapping[str, float]) -> bool:
        """Whether every kind of work that remains has been measured."""
        return all(kind in self._recent for kind, amount in remaining.items() if amount > 0)


@dataclass(frozen=True)
class FinalReport:
    """What a finished run tells. `places` and `commands` come in the order they are shown."""

    title: str
    ret: float
    ret_low: float
    ret_high: float
    episodes: int
    steps: int
    frames: int
    seconds: float
    scores: Mapping[str, str] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()


def final_table(report: FinalReport) -> str:
    """The table at the end of a run, in plain characters."""
    interval = f"95 % interval {report.ret_low:.2f} to {report.ret_high:.2f}"
    frames = f" ({report.frames:,} frames)" if report.frames != report.steps else ""
    rows = [
        ("evaluation return", f"{report.ret:.2f}, {interval}, {report.episodes} episodes"),
        *report.scores.items(),
        ("steps", f"{report.steps:,}{frames}"),
        ("time", f"{report.seconds / 3600:.2f} hours ({duration(report.seconds)})"),
    ]
    if report.speeds:
        rows.append(("speed", speeds_in_words(report.speeds)))
    if report.memory:
        rows.append(("peak memory", memory_in_words(report.memory)))
    rows += report.places.items()
    rows += [("next" if i == 0 else "", line) for i, line in enumerate(report.commands)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {words}".rstrip() for name, words in rows]
    rule = "-" * min(max(len(line) for line in [report.title, *lines]), 100)
    return "\n".join([rule, report.title, rule, *lines, rule])


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def speeds_in_words(speeds: Mapping[str, float]) -> str:
    """Such as "collect 512 steps/s"; a name's part after a comma is the unit."""
    words = []
    for name, number in speeds.items():
        what, _, unit = name.partition(", ")
        words.append(f"{what} {_short(number)}" + (f" {unit}" if unit else ""))
    return ", ".join(words)


def memory_in_words(memory: Mapping[str, float]) -> str:
    """Such as "RAM 1.2 GiB"."""
    return ", ".join(f"{name} {number:.1f} GiB" for name, number in memory.items())


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _is_persons_terminal(stream: TextIO) -> bool:
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not dumb and not any(v in os.environ for v in BATCH_VARIABLES)
