"""Numbers over time as rows of plots: what a clip shows beside pictures, or in place of them.

Clips are arrays (T,H,W,3) uint8; their frames are `num_seen` real ones, then imagined ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from runners.drawing import (
    BLUE,
    DREAMED_TINT,
    FAINT,
    GRID,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    SEEN_TINT,
    Plot,
    fitted,
    font,
    phase_words,
    text,
    value_range,
)

MARGIN, HEAD = 12, 30
LABEL, READOUT, ROW, ROW_GAP = 132, 140, 52, 8
TOP, FOOT = 2, 20
LEAST_WIDTH = 640


@dataclass(frozen=True)
class Curve:
    """One line of a strip: a name, a number per frame (NaN where there is none), its look.

    `width` in pixels; thin lines have no dots.
    """

    name: str
    values: np.ndarray
    colour: str
    dashed: bool = False
    width: float = 2.0


@dataclass(frozen=True)
class Row:
    """One plot of a strip; `span` is its range, None to fit the numbers and zero.

    The name is cut where it is too long, the number `index` behind it never.
    """

    name: str
    curves: tuple[Curve, ...]
    span: tuple[float, float] | None = None
    index: str = ""

    def range(self) -> tuple[float, float]:
        """From where to where the plot goes."""
        return self.span or value_range(c.values for c in self.curves)


def outcome(
    *, rew_true: np.ndarray, rew_pred: np.ndarray, end_prob: np.ndarray, value: np.ndarray
) -> tuple[Row, ...]:
    """The rows of what came with each frame, all (T,), NaN where there is nothing."""
    return (
        Row("reward", (Curve("true", rew_true, BLUE), Curve("dreamed", rew_pred, ORANGE, True))),
        Row("end probability", (Curve("dreamed", end_prob, ORANGE, True),), (0.0, 1.0)),
        Row("value", (Curve("dreamed", value, PURPLE, True),)),
    )


def heading(num: int, num_seen: int, width: int, caption: str = "") -> np.ndarray:
    """What part of a clip each of its frames belongs to, in words: (T,HEAD,width,3)."""
    frames = []
    for t in range(num):
        page = Image.new("RGB", (width, HEAD), PAPER)
        draw = ImageDraw.Draw(page)
        phase_words(draw, (MARGIN, HEAD // 2 + 2), t, num_seen, num)
        if font(13).getlength(caption) <= width - 2 * MARGIN - 260:
            text(draw, (width - MARGIN, HEAD / 2 + 2), caption, 13, FAINT, "rm")
        frames.append(np.asarray(page))
    return np.stack(frames)


def strip(rows: Sequence[Row], num_seen: int, width: int) -> np.ndarray:
    """Plots over time with a cursor that moves, numbers beside it: (T,height,width,3)."""
    num, plot_w = len(rows[0].curves[0].values), width - 2 * MARGIN - LABEL - READOUT
    sheet = _sheet(rows, num_seen, width, plot_w)
    left = MARGIN + LABEL
    frames = []
    for t in range(num):
        page = sheet.copy()
        draw = ImageDraw.Draw(page)
        at = left + (t + 0.5) / num * plot_w
        draw.line((at, 0, at, sheet.height - 24), fill=INK, width=2)
        for i, row in enumerate(rows):
            _readout(draw, left + plot_w + 10, TOP + i * (ROW + ROW_GAP), row, t)
        frames.append(np.asarray(page))
    return np.stack(frames)


def trajectories(rows: Sequence[Row], num_seen: int, caption: str = "") -> np.ndarray:
    """Plots over time of many lines each, none of them named: a clip (1,H,W,3) of one frame."""
    sheet = _sheet(rows, num_seen, LEAST_WIDTH, LEAST_WIDTH - 2 * MARGIN - LABEL)
    page = Image.new("RGB", (LEAST_WIDTH, HEAD + sheet.height), PAPER)
    words = fitted(caption, 13, LEAST_WIDTH - 2 * MARGIN)
    text(ImageDraw.Draw(page), (MARGIN, HEAD / 2), words, 13)
    page.paste(sheet, (0, HEAD))
    return np.asarray(page)[None]


def _sheet(rows: Sequence[Row], num_seen: int, width: int, plot_w: int) -> Image.Image:
    """The plots with their names, what was seen and what was dreamed."""
    num = len(rows[0].curves[0].values)
    height = TOP + len(rows) * (ROW + ROW_GAP) + FOOT
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    x = (np.arange(num) + 0.5) / num
    left = MARGIN + LABEL
    for i, row in enumerate(rows):
        top = TOP + i * (ROW + ROW_GAP)
        sheet.paste(_row_plot(row, x, num_seen / num, plot_w), (left, top))
        draw.rectangle((left - 1, top - 1, left + plot_w, top + ROW), outline=GRID)
        low, high = row.range()
        text(draw, (MARGIN, top + ROW / 2), fitted(row.name, 13, LABEL - 10, row.index), 13)
        text(draw, (left - 6, top + 8), _tick(high), 10, FAINT, "rm")
        text(draw, (left - 6, top + ROW - 8), _tick(low), 10, FAINT, "rm")
    foot = height - 12
    text(draw, (left + 2, foot), "seen", 12, INK)
    # Below few frames the first word has no room of its own.
    border = left + max(plot_w * num_seen / num, font(12).getlength("seen") + 6)
    text(draw, (border + 4, foot), "dreamed", 12, INK)
    return sheet


def _tick(number: float) -> str:
    """With enough digits to tell the two ends of a range apart, as far as there is room."""
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.4g}"


def _row_plot(row: Row, x: np.ndarray, border: float, width: int) -> Image.Image:
    low, high = row.range()
    plot = Plot(width, ROW)
    plot.block(0, border, SEEN_TINT)
    plot.block(border, 1, DREAMED_TINT)
    if low < 0 < high:
        plot.level((0 - low) / (high - low), FAINT)
    for curve in row.curves:
        # Half a dot of room keeps lines along the edge of the range whole.
        y = 0.05 + 0.9 * (curve.values - low) / (high - low)
        plot.line(x, y, curve.colour, curve.dashed, dots=curve.width >= 2, width=curve.width)
    return plot.picture()


def _readout(draw: ImageDraw.ImageDraw, x: int, top: int, row: Row, t: int) -> None:
    step = ROW / (len(row.curves) + 1)
    for i, curve in enumerate(row.curves):
        number = float(curve.values[t])
        words = f"{number:.2f}" if np.isfinite(number) else "-"
        y = top + step * (i + 1)
        draw.line((x, y, x + 16, y), fill=curve.colour, width=3)
        if curve.dashed:
            draw.line((x + 6, y, x + 9, y), fill=PAPER, width=3)
        text(draw, (x + 22, y), f"{curve.name} {words}", 13)
