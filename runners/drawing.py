"""Colours, type and the few shapes that every picture of a run is drawn from."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PAPER, INK, FAINT, GRID = "#ffffff", "#1f2328", "#6e7781", "#d8dee4"
SEEN, DREAMED = "#1a7f37", "#d1242f"
SEEN_TINT, DREAMED_TINT = "#e6f4ea", "#fdebec"
BLUE, ORANGE, PURPLE = "#1f6feb", "#d9730d", "#8250df"

SMOOTH = 2
"""Lines are drawn this many times larger and averaged down, as Pillow draws them jagged."""


@cache
def font(size: int) -> Any:
    """Pillow's own typeface in `size` pixels; needs no font on the system."""
    return ImageFont.load_default(size=size)


def text(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    words: str,
    size: int = 13,
    fill: str = INK,
    anchor: str = "lm",
) -> None:
    """Write `words` at `xy`; `anchor` as in Pillow, middle left unless told."""
    draw.text(xy, words, fill=fill, font=font(size), anchor=anchor)


def fitted(words: str, size: int, width: float, end: str = "") -> str:
    """`words` and `end`, no wider than `width` pixels: of the words, what is too much is cut."""
    whole = words + end
    while len(words) > 1 and font(size).getlength(whole) > width:
        words = words[:-1]
        whole = f"{words}…{end}"
    return whole


def frame_box(draw: ImageDraw.ImageDraw, box: Sequence[int], seen: bool, width: int) -> None:
    """The mark around a picture: solid green while seen, dashed thick red once dreamed.

    `box` is the outer rectangle (left, top, right, bottom), `width` the room for the mark; the
    dashes tell the two apart without colour.
    """
    left, top, right, bottom = box
    if seen:
        room = width // 2
        inner = (left + room, top + room, right - room, bottom - room)
        draw.rectangle(inner, outline=SEEN, width=width - room)
        return
    dash = max(5, min(16, (bottom - top) // 3))
    hole = dash // 2
    for x in range(left, right, dash + hole):
        end = min(x + dash, right)
        draw.rectangle((x, top, end, top + width - 1), fill=DREAMED)
        draw.rectangle((x, bottom - width + 1, end, bottom), fill=DREAMED)
    for y in range(top, bottom, dash + hole):
        end = min(y + dash, bottom)
        draw.rectangle((left, y, left + width - 1, end), fill=DREAMED)
        draw.rectangle((right - width + 1, y, right, end), fill=DREAMED)


def phase_words(
    draw: ImageDraw.ImageDraw, xy: tuple[int, int], t: int, seen: int, num: int
) -> None:
    """The legend of the marks: which part of the clip frame `t` belongs to, in words."""
    x, y = xy
    if t < seen:
        words, fill = f"seen: real frame {t + 1} of {seen}", SEEN
    else:
        words, fill = f"dreamed: step {t - seen + 1} of {num - seen}", DREAMED
    frame_box(draw, (x, y - 7, x + 22, y + 7), t < seen, 4)
    text(draw, (x + 30, y), words, 15, fill)


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """(H,W,3) with each pixel repeated `scale` times both ways."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def heat(amount: np.ndarray) -> np.ndarray:
    """Amounts (...) in [0,1] as colours (...,3) uint8: black, red, yellow, white."""
    stops = np.array([[0, 0, 0], [178, 24, 43], [253, 174, 47], [255, 255, 240]], np.float32)
    at = np.linspace(0, 1, len(stops))
    channels = [np.interp(amount, at, stops[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def value_range(rows: Iterable[np.ndarray], least: float = 0.1) -> tuple[float, float]:
    """The range of all finite numbers, zero included, with a little room around.

    It spans at least `least`, so that a flat line is not blown up to noise.
    """
    numbers = np.concatenate([np.ravel(row) for row in rows])
    numbers = np.append(numbers[np.isfinite(numbers)], 0.0)
    low, high = float(numbers.min()), float(numbers.max())
    high = max(high, low + least)
    room = 0.08 * (high - low)
    return low - room if low < 0 else 0.0, high + room


class Plot:
    """A rectangle of a picture in which lines are drawn, by fractions 0..1 of its two sides."""

    def __init__(self, width: int, height: int, background: str = PAPER) -> None:
        self.width, self.height = width * SMOOTH, height * SMOOTH
        self._image = Image.new("RGB", (self.width, self.height), background)
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def block(self, left: float, right: float, fill: str) -> None:
        """Fill from `left` to `right`, over the whole height."""
        self._draw.rectangle((*self._at(left, 1), *self._at(right, 0)), fill=fill)

    def level(self, y: float, fill: str = GRID) -> None:
        """A thin line across."""
        self._draw.line((*self._at(0, y), *self._at(1, y)), fill=fill, width=SMOOTH)

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, fill: str) -> None:
        """A pale area between two lines; nothing where they are not finite."""
        if len(x) > 1 and np.isfinite(low).all() and np.isfinite(high).all():
            points = list(zip(x, high, strict=True)) + list(zip(x, low, strict=True))[::-1]
            self._draw.polygon(
                [self._at(*p) for p in points], fill=(*ImageColor.getrgb(fill)[:3], 48)
            )

    def line(
        self,
        x: np.ndarray,
        y: np.ndarray,
        fill: str,
        dashed: bool = False,
        dots: bool = True,
        width: float = 2.0,
    ) -> None:
        """A line through the points, `width` pixels wide; it breaks where `y` is not finite."""
        points = [self._at(a, b) if np.isfinite(b) else None for a, b in zip(x, y, strict=True)]
        for a, b in zip(points, points[1:], strict=False):
            if a is not None and b is not None:
                self._segment(a, b, fill, dashed, round(width * SMOOTH))
        radius = 2.2 * SMOOTH
        for point in points if dots else []:
            if point is not None:
                px, py = point
                self._draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=fill)

    def picture(self) -> Image.Image:
        """What was drawn, at its true size."""
        return self._image.reduce(SMOOTH)

    def _segment(
        self,
        a: tuple[float, float],
        b: tuple[float, float],
        fill: str,
        dashed: bool,
        width: int,
    ) -> None:
        if not dashed:
            self._draw.line((*a, *b), fill=fill, width=width)
            return
        start, way = np.array(a), np.array(b) - np.array(a)
        length, dash = float(np.hypot(*way)), 5.0 * SMOOTH
        for begin in np.arange(0, length, 2 * dash):
            end = min(begin + dash, length)
            first, last = start + way * begin / length, start + way * end / length
            self._draw.line((*first, *last), fill=fill, width=width)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return float(x) * (self.width - 1), (1 - float(y)) * (self.height - 1)
