"""Clips of dreams beside reality, arrays (T,H,W,3) uint8 made with NumPy and Pillow alone.

A clip's frames are `num_seen` real ones that the world model was shown, then imagined ones.
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
    enlarge,
    font,
    frame_box,
    heat,
    phase_words,
    text,
    value_range,
)

MARGIN, GAP, MARK = 12, 10, 6
HEAD, TITLE = 30, 22
LABEL, READOUT, ROW, ROW_GAP = 132, 140, 52, 8
LEAST_WIDTH = 640


@dataclass(frozen=True)
class Curve:
    """One line of a strip: a name, a number per frame (NaN where there is none), its look."""

    name: str
    values: np.ndarray
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Row:
    """One plot of a strip; `span` is its range, None to fit the numbers."""

    name: str
    curves: tuple[Curve, ...]
    span: tuple[float, float] | None = None


def comparison_clip(
    real: np.ndarray,
    recon: np.ndarray,
    dream: np.ndarray,
    num_seen: int,
    *,
    rew_true: np.ndarray,
    rew_pred: np.ndarray,
    end_prob: np.ndarray,
    value: np.ndarray,
    scale: int = 3,
    amplify: float = 4.0,
    caption: str = "",
) -> np.ndarray:
    """Real, reconstruction, imagination and error side by side, numbers over time below.

    real recon dream (T,H,W,3) uint8; the four curves (T,), the number that came with each frame,
    NaN where there is none. The error is the largest difference of the three colours between
    imagination and reality, `amplify` times, from black (none) to white.
    """
    error = error_map(real, dream, amplify)
    columns = {
        "real": real,
        "reconstruction": recon,
        "imagination": dream,
        f"error, {amplify:g} times": error,
    }
    rows = (
        Row("reward", (Curve("true", rew_true, BLUE), Curve("dreamed", rew_pred, ORANGE, True))),
        Row("end probability", (Curve("dreamed", end_prob, ORANGE, True),), (0.0, 1.0)),
        Row("value", (Curve("dreamed", value, PURPLE, True),)),
    )
    top = _panels(columns, num_seen, scale, caption)
    return np.concatenate([top, strip(rows, num_seen, top.shape[2])], axis=1)


def error_map(real: np.ndarray, other: np.ndarray, amplify: float) -> np.ndarray:
    """Where and how much two pictures (...,3) uint8 differ, as colours of heat."""
    difference = np.abs(real.astype(np.int16) - other.astype(np.int16)).max(axis=-1)
    return heat(np.minimum(difference * (amplify / 255.0), 1.0))


def _panels(columns: dict[str, np.ndarray], num_seen: int, scale: int, caption: str) -> np.ndarray:
    num, rows, cols = next(iter(columns.values())).shape[:3]
    box_h, box_w = rows * scale + 2 * MARK, cols * scale + 2 * MARK
    width = max(2 * MARGIN + len(columns) * (box_w + GAP) - GAP, LEAST_WIDTH)
    size = (width, HEAD + TITLE + box_h + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN + i * (box_w + GAP) for i in range(len(columns))]
    for left, title in zip(lefts, columns, strict=True):
        text(draw, (left + box_w / 2, HEAD + TITLE / 2), title, 14, INK, "mm")
    text(draw, (size[0] - MARGIN, HEAD / 2 + 2), caption, 13, FAINT, "rm")
    frames = []
    for t in range(num):
        page = sheet.copy()
        draw = ImageDraw.Draw(page)
        phase_words(draw, (MARGIN, HEAD // 2 + 2), t, num_seen, num)
        for left, clip in zip(lefts, columns.values(), strict=True):
            top = HEAD + TITLE
            frame_box(draw, (left, top, left + box_w - 1, top + box_h - 1), t < num_seen, MARK)
            page.paste(Image.fromarray(enlarge(clip[t], scale)), (left + MARK, top + MARK))
        frames.append(np.asarray(page))
    return np.stack(frames)


def strip(rows: Sequence[Row], num_seen: int, width: int) -> np.ndarray:
    """Plots over time with a cursor that moves: (T, height, width, 3)."""
    num = len(rows[0].curves[0].values)
    plot_w = width - 2 * MARGIN - LABEL - READOUT
    height = len(rows) * (ROW + ROW_GAP) + 20
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    x = (np.arange(num) + 0.5) / num
    left = MARGIN + LABEL
    for i, row in enumerate(rows):
        top = i * (ROW + ROW_GAP)
        sheet.paste(_row_plot(row, x, num_seen / num, plot_w), (left, top))
        draw.rectangle((left - 1, top - 1, left + plot_w, top + ROW), outline=GRID)
        low, high = row.span or value_range(c.values for c in row.curves)
        text(draw, (MARGIN, top + ROW / 2), row.name, 13)
        text(draw, (left - 6, top + 8), f"{high:.2g}", 10, FAINT, "rm")
        text(draw, (left - 6, top + ROW - 8), f"{low:.2g}", 10, FAINT, "rm")
    foot = height - 12
    text(draw, (left + 2, foot), "seen", 12, INK)
    text(draw, (left + plot_w * num_seen / num + 4, foot), "dreamed", 12, INK)
    frames = []
    for t in range(num):
        page = sheet.copy()
        draw = ImageDraw.Draw(page)
        at = left + x[t] * plot_w
        draw.line((at, 0, at, height - 24), fill=INK, width=2)
        for i, row in enumerate(rows):
            _readout(draw, left + plot_w + 10, i * (ROW + ROW_GAP), row, t)
        frames.append(np.asarray(page))
    return np.stack(frames)


def _row_plot(row: Row, x: np.ndarray, border: float, width: int) -> Image.Image:
    low, high = row.span or value_range(c.values for c in row.curves)
    plot = Plot(width, ROW)
    plot.block(0, border, SEEN_TINT)
    plot.block(border, 1, DREAMED_TINT)
    if low < 0:
        plot.level((0 - low) / (high - low), FAINT)
    for curve in row.curves:
        # Half a dot of room keeps lines along the edge of the range whole.
        y = 0.05 + 0.9 * (curve.values - low) / (high - low)
        plot.line(x, y, curve.colour, curve.dashed)
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


def dream_grid(
    dreams: np.ndarray,
    num_seen: int,
    *,
    returns: np.ndarray,
    ended: np.ndarray,
    scale: int = 2,
    columns: int = 4,
    caption: str = "",
) -> np.ndarray:
    """Several dreams (N,T,H,W,3) from one start, in a grid, each under its return so far.

    returns (N,T): the sum of dreamed rewards up to each frame. ended (N,T) bool: True once the
    dream has ended; what follows is shown pale, as no agent learns from it.
    """
    num, steps, height, width = dreams.shape[:4]
    columns = min(columns, num)
    box_h, box_w = height * scale + 2 * MARK, width * scale + 2 * MARK
    cell_h, cell_w = TITLE + box_h + 4, box_w + GAP
    rows = -(-num // columns)
    size = (max(2 * MARGIN + columns * cell_w - GAP, 420), HEAD + rows * cell_h + GAP)
    frames = []
    for t in range(steps):
        page = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(page)
        phase_words(draw, (MARGIN, HEAD // 2 + 2), t, num_seen, steps)
        room = size[0] - 2 * MARGIN - 260
        if font(13).getlength(caption) <= room:
            text(draw, (size[0] - MARGIN, HEAD / 2 + 2), caption, 13, FAINT, "rm")
        for n in range(num):
            left = MARGIN + n % columns * cell_w
            top = HEAD + n // columns * cell_h + TITLE
            words = f"return {returns[n, t]:+.1f}" + (", ended" if ended[n, t] else "")
            text(draw, (left + MARK, top - TITLE / 2), words, 13)
            frame_box(draw, (left, top, left + box_w - 1, top + box_h - 1), t < num_seen, MARK)
            picture = dreams[n, t] // 3 + 160 if ended[n, t] else dreams[n, t]
            page.paste(Image.fromarray(enlarge(picture, scale)), (left + MARK, top + MARK))
        frames.append(np.asarray(page))
    return np.stack(frames)
