"""Still pictures of numbers, arrays (H,W,3) uint8 drawn with Pillow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from runners.drawing import BLUE, FAINT, GRID, INK, PAPER, PURPLE, Plot, fitted, font, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Line:
    """A curve of a chart: y and the ends low, high of its interval, all (X,); NaN draws no band.

    `width` in pixels. Lines without a name are not in the legend.
    """

    name: str
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    colour: str
    dashed: bool = False
    width: float = 2.0


@dataclass(frozen=True)
class Marks:
    """Values by name that others reached at `x`, listed right of a chart under `heading`.

    They are dots in the picture where x is in its range.
    """

    heading: tuple[str, str]
    x: float
    values: Mapping[str, float]


def unlock_bars(rates: Mapping[str, float], title: str = "achievements unlocked") -> np.ndarray:
    """A bar for each name in its order; rates in percent of episodes."""
    row, label, width, right, head = 22, 180, 320, 60, 34
    size = (label + width + right, head + row * len(rates) + 10)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    text(draw, (12, head / 2), f"{title}, % of episodes", 15)
    for i, (name, rate) in enumerate(rates.items()):
        y = head + i * row
        middle = y + row / 2 - 1
        text(draw, (label - 8, middle), name.replace("_", " "), 13, INK if rate else FAINT, "rm")
        draw.rectangle((label, y + 3, label + width, y + row - 5), fill="#f0f2f4")
        if rate > 0:
            # The rarest unlock still shows.
            length = max(2, round(width * min(rate / 100, 1.0)))
            draw.rectangle((label, y + 3, label + length, y + row - 5), fill=BLUE)
        words = f"{rate:.1f}" if rate else "0"
        text(draw, (label + width + 8, middle), words, 13, INK if rate else FAINT)
    return np.asarray(page)


def line_chart(
    x: np.ndarray,
    lines: Sequence[Line],
    *,
    title: str,
    x_name: str,
    y_name: str,
    zero: bool = True,
    y_range: tuple[float, float] | None = None,
    marks: Marks | None = None,
) -> np.ndarray:
    """Curves with their bands over x (X,); a legend names them.

    zero: y = 0 is in the picture. y_range: its ends, where not those of the numbers.
    """
    width, height, left = 520, 260, 64
    named = _legend([line for line in lines if line.name], width)
    top = 66 + ROW * len(named)
    beside = 24 if marks is None else BESIDE
    page = Image.new("RGB", (left + width + beside, top + height + 46), PAPER)
    draw = ImageDraw.Draw(page)
    text(draw, (12, 16), fitted(title, 15, page.width - 24), 15)
    numbers = np.concatenate([np.concatenate([line.y, line.low, line.high]) for line in lines])
    low, high = _range(numbers, zero) if y_range is None else y_range

    def up(y: np.ndarray) -> np.ndarray:
        return (y - low) / (high - low)

    plot = Plot(width, height)
    for tick in _ticks(low, high):
        at_tick = float(up(np.array(tick)))
        plot.level(at_tick)
        text(draw, (left - 8, top + height * (1 - at_tick)), _tick_text(tick), 12, FAINT, "rm")
    at = _along(x, x)
    for line in lines:
        plot.band(at, up(line.low), up(line.high), line.colour)
    for line in lines:
        dots = len(x) <= 40 and line.width >= 2
        plot.line(at, up(line.y), line.colour, line.dashed, dots=dots, width=line.width)
    page.paste(plot.picture(), (left, top))
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=GRID)
    box = (left, top, left + width, top + height)
    _name_x(draw, x, box, x_name)
    text(draw, (12, 38), y_name, 13, FAINT)
    for row, names in enumerate(named):
        for at_x, line in names:
            _name(draw, left + at_x, 66 + ROW * row, line)
    if marks is not None:
        _list_beside(draw, marks, box, (low, high), x)
    return np.asarray(page)


def _tick_text(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def _name_x(
    draw: ImageDraw.ImageDraw, x: np.ndarray, box: tuple[int, int, int, int], name: str
) -> None:
    """Write some of `x` and its name under the box of the curves."""
    left, _, right, bottom = box
    at = _along(x, x)
    for i in range(0, len(x), -(-len(x) // 15)):
        text(draw, (left + at[i] * (right - left), bottom + 12), f"{x[i]:g}", 12, FAINT, "mm")
    text(draw, ((left + right) / 2, bottom + 32), name, 13, INK, "mm")


def _along(at: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where x values are from the left of a picture of `x` (X,), in shares of its width."""
    share: np.ndarray = (at - x.min()) / max(float(np.ptp(x)), 1.0) * 0.96 + 0.02
    return share


BESIDE = 216
"""Room for marks right of a chart."""


def _list_beside(
    draw: ImageDraw.ImageDraw,
    marks: Marks,
    box: tuple[int, int, int, int],
    y_range: tuple[float, float],
    x: np.ndarray,
) -> None:
    """Names from the highest value down, each joined to its height; none covers another."""
    left, top, right, bottom = box
    low, high = y_range
    for row, words in enumerate(marks.heading):
        text(draw, (right + 26, top - 32 + 15 * row), words, 12, FAINT)
    ranked = sorted(marks.values.items(), key=lambda named: -named[1])
    heights = [bottom - (value - low) / (high - low) * (bottom - top) for _, value in ranked]
    for (name, value), y, beside in zip(ranked, heights, apart(heights, 15, bottom), strict=True):
        draw.line((right + 1, y, right + 8, y, right + 22, beside), fill=PURPLE, width=1)
        text(draw, (right + 26, beside), f"{name} {value:.0f}", 12)
        if x.min() <= marks.x <= x.max():
            middle = left + float(_along(np.array(marks.x), x)) * (right - left)
            draw.ellipse((middle - 4, y - 4, middle + 4, y + 4), outline=PURPLE, width=2)


def apart(heights: Sequence[float], gap: float, end: float) -> list[float]:
    """Growing `heights` moved so that they are `gap` apart and the last is at most `end`."""
    places: list[float] = []
    for i, height in enumerate(heights):
        lowest = end - gap * (len(heights) - 1 - i)
        free = max(height, places[-1] + gap) if places else height
        places.append(min(free, lowest))
    return places


def _range(numbers: np.ndarray, zero: bool) -> tuple[float, float]:
    """From where to where the picture goes."""
    numbers = numbers[np.isfinite(numbers)]
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    if zero:
        low, high = min(0.0, low) * 1.05, max(0.0, high) * 1.05
    else:
        low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    return low, high if high > low else low + 1.0


ROW = 20
"""Height of a row of the legend."""


def _legend(lines: Sequence[Line], width: float) -> list[list[tuple[float, Line]]]:
    """Rows of a legend, each line with its place from the left; none is wider than `width`."""
    rows: list[list[tuple[float, Line]]] = [[]]
    at = 0.0
    for line in lines:
        line = replace(line, name=fitted(line.name, 13, width - 28))
        wide = 28 + font(13).getlength(line.name)
        if rows[-1] and at + wide > width:
            rows.append([])
            at = 0.0
        rows[-1].append((at, line))
        at += wide + 22
    return rows


def _name(draw: ImageDraw.ImageDraw, left: float, y: float, line: Line) -> None:
    draw.line((left, y, left + 22, y), fill=line.colour, width=3)
    if line.dashed:
        draw.line((left + 9, y, left + 13, y), fill=PAPER, width=3)
    text(draw, (left + 28, y), line.name, 13)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from `low` up to `high`."""
    raw = (high - low) / 5
    unit = 10.0 ** np.floor(np.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    return [float(i * step) for i in range(ceil(low / step), floor(high / step) + 1)]
