"""Measurements as a table, beside those of the published implementation. No torch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from runners.settings.config import AgentSettings, Config
from runners.settings.environments import CrafterSettings
from runners.settings.show import table

SECONDS, RATE = "s", "steps/s"
REFERENCE_WORDS = (
    "reference: the published implementation, unmodified, measured once on another machine",
    "(2 cores of an Intel Xeon with AMX-bf16, no GPU): neither this machine nor this run. AMX",
    "multiplies bfloat16 several times faster than AVX-512; see `hardware` for what is here.",
    "scaled: linearly from a smaller batch. estimated: one thread, doubled. loaded: other programs",
    "were running.",
)
ONE_THREAD_WORDS = (
    "by CPU s: processor seconds of one thread here and there, which other programs hardly change;",
    "`faster` sets one thread here against two there.",
)


@dataclass(frozen=True)
class Row:
    """One measurement: a median over `runs` in `unit`, and its extremes.

    cores: processors in use meanwhile; fewer than threads where other programs were running.
    batch: what was timed, in words. peak_gib: of the process that measured this part alone.
    """

    name: str
    value: float
    unit: str
    low: float
    high: float
    runs: int
    cores: float
    batch: str = ""
    note: str = ""
    peak_gib: float | None = None


@dataclass(frozen=True)
class Reference:
    """The same row of the published implementation; columns as in the data file."""

    value: float
    one_thread: float | None
    unit: str
    kind: str
    peak_gb: float | None
    note: str


def references() -> dict[str, Reference]:
    """The published implementation's rows, by name; where they come from is in the data file."""
    text = resources.files("runners").joinpath("data/reference_cpu.csv").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["row"]: Reference(
            float(row["value"]),
            _known(row["one_thread"]),
            row["unit"],
            row["kind"],
            _known(row["peak_gb"]),
            row["note"],
        )
        for row in csv.DictReader(lines)
    }


def comparable(config: Config, device: str) -> bool:
    """Whether these are the settings of the published Crafter run, on a CPU."""
    crafter = isinstance(config.env, CrafterSettings)
    return crafter and device == "cpu" and config.agent == AgentSettings()


def times_faster(row: Row, reference: Reference) -> float:
    """Above 1 where the row is better than the reference."""
    return _ratio(row.value, row.unit, reference.value)


def times_less_work(row: Row, reference: Reference) -> float | None:
    """The same by processor seconds of one thread, whatever else the machines were doing."""
    if reference.one_thread is None:
        return None
    seconds = row.unit == SECONDS
    value = row.value * row.cores if seconds else row.value / row.cores
    return _ratio(value, row.unit, reference.one_thread)


def _ratio(value: float, unit: str, reference: float) -> float:
    return reference / value if unit == SECONDS else value / reference


def table_text(rows: Sequence[Row], compare: bool, one_thread: bool = False) -> str:
    """All rows; with the reference's and how many times faster this is, where `compare`.

    `one_thread`: these rows were measured with one, and are compared by processor seconds too.
    """
    head = ["part", "batch", "here", "", "runs", "cores", "peak GiB"]
    cells = [
        [
            *(row.name, row.batch, number(row.value), row.unit),
            *(str(row.runs), f"{row.cores:.1f}", _peak(row.peak_gib)),
        ]
        for row in rows
    ]
    known = references() if compare else {}
    if compare:
        head += ["reference", "kind", "peak GB", "faster", *(["by CPU s"] if one_thread else [])]
        for cell, row in zip(cells, rows, strict=True):
            cell += _reference_cells(row, known.get(row.name), one_thread)
    if any(row.note for row in rows):
        head.append("note")
        for cell, row in zip(cells, rows, strict=True):
            cell.append(row.note)
    lines = [table(head, cells)]
    if compare:
        lines += ["", *REFERENCE_WORDS, *(ONE_THREAD_WORDS if one_thread else ())]
    return "\n".join(lines)


def _reference_cells(row: Row, reference: Reference | None, one_thread: bool) -> list[str]:
    if reference is None:
        return ["-", "", "", "", *([""] if one_thread else [])]
    less = times_less_work(row, reference)
    return [
        number(reference.value),
        reference.kind,
        "-" if reference.peak_gb is None else f"{reference.peak_gb:g}",
        f"{times_faster(row, reference):.1f} x",
        *([f"{less:.1f} x" if less else "-"] if one_thread else []),
    ]


def _known(text: str) -> float | None:
    return float(text) if text else None


def number(value: float) -> str:
    """A measured value in about three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.2g}"


def _peak(gib: float | None) -> str:
    return "-" if gib is None else f"{gib:.2f}"
