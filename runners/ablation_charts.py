"""Curves of world models beside each other: errors of dreams by horizon, nats by groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from runners.ablation_trials import Trial
from runners.charts import Line, line_chart
from runners.drawing import BLUE, FAINT
from runners.durable import disk_full_explained
from runners.intervals import interval_over_seeds
from runners.media import encode_png
from runners.settings.ablations import Table

MOST = 10
"""Rows that can be told apart in a chart."""
COLOURS = (
    *("#d1495b", "#2e8b57", "#8a5cc2", "#c98a1b", "#3aa6b9"),
    *("#b0559a", "#5b6b2f", "#e07a5f", "#4056a1", "#8d6e63"),
)

Groups = Mapping[str, Sequence[Trial]]


def write_charts(out: Path, groups: Groups, table: Table) -> None:
    """error_by_horizon.png, and nll.png where a row draws tokens in groups."""
    drawn = {name: those for name, those in groups.items() if name in table.charts}
    shown = groups if len(groups) <= MOST or not drawn else drawn
    pictures = {"error_by_horizon.png": horizon_chart(shown)}
    if any(len(trial.known.nats_at) > 1 for those in shown.values() for trial in those):
        pictures["nll.png"] = nll_chart(shown)
    with disk_full_explained(out):
        for name, picture in pictures.items():
            (out / name).write_bytes(encode_png(picture))


def horizon_chart(groups: Groups) -> np.ndarray:
    """Errors of dreams, (H,W,3) uint8, with those of copying and of rebuilding true frames."""
    first = next(iter(groups.values()))
    x = np.arange(1.0, len(first[0].dreamed.mse) + 1)
    lines = [
        _line("copy last frame", [t.dreamed.copy_mse for t in first], FAINT, dashed=True),
        _line("reconstruction", [t.dreamed.recon_mse for t in first], BLUE, dashed=True),
        *(
            _line(name, [t.dreamed.mse for t in those], colour)
            for (name, those), colour in zip(groups.items(), _colours(groups), strict=True)
        ),
    ]
    return line_chart(
        x,
        lines,
        title="Error by horizon, means over seeds",
        x_name="imagined steps",
        y_name="error; of a picture squared, per pixel, colours in [0,1]",
    )


def nll_chart(groups: Groups) -> np.ndarray:
    """Nats of a frame by the number of groups its tokens are drawn in, (H,W,3) uint8.

    What draws in one way only is a dashed line. Rows with the same numbers are drawn once.
    """
    counts = sorted({n for those in groups.values() for t in those for n in t.known.nats_at})
    lines: list[Line] = []
    for (name, those), colour in zip(groups.items(), _colours(groups), strict=True):
        fixed = all(len(t.known.nats_at) < 2 for t in those)
        rows = [
            [t.known.nats if fixed else t.known.nats_at.get(n, np.nan) for n in counts]
            for t in those
        ]
        line = _line(name, rows, colour, dashed=fixed)
        if np.isfinite(line.y).any() and not any(np.array_equal(line.y, o.y) for o in lines):
            lines.append(line)
    return line_chart(
        np.array(counts, float),
        lines,
        title="Nats of a true frame, means over seeds",
        x_name="groups that its tokens are drawn in",
        y_name="nats; dashed: one after the other, or all at once",
        zero=False,
    )


def _line(name: str, rows: Sequence[Sequence[float]], colour: str, dashed: bool = False) -> Line:
    mean, low, high = np.array(
        [interval_over_seeds(column) for column in zip(*rows, strict=True)]
    ).T
    return Line(name, mean, low, high, colour, dashed)


def _colours(groups: Groups) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(groups))]
