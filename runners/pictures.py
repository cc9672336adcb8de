"""Pictures of dreams side by side, clips (T,H,W,3) uint8 made with NumPy and Pillow alone.

A clip's frames are `num_seen` real ones that the world model was shown, then imagined ones.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from runners.drawing import INK, PAPER, enlarge, frame_box, heat, text
from runners.strips import LEAST_WIDTH, MARGIN, heading

GAP, MARK, TITLE = 10, 6, 22


def panels(
    real: np.ndarray,
    recon: np.ndarray,
    dream: np.ndarray,
    num_seen: int,
    *,
    amplify: float = 4.0,
    caption: str = "",
) -> np.ndarray:
    """Real, reconstruction, imagination and error, all (T,H,W,3) uint8, side by side.

    The error is the largest difference of the three colours between imagination and reality,
    `amplify` times, from black (none) to white.
    """
    columns = {
        "real": real,
        "reconstruction": recon,
        "imagination": dream,
        f"error, {amplify:g} times": error_map(real, dream, amplify),
    }
    num, rows, cols = real.shape[:3]
    scale = scale_of(real, 3)
    box_h, box_w = rows * scale + 2 * MARK, cols * scale + 2 * MARK
    width = max(2 * MARGIN + len(columns) * (box_w + GAP) - GAP, LEAST_WIDTH)
    sheet = Image.new("RGB", (width, TITLE + box_h + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN + i * (box_w + GAP) for i in range(len(columns))]
    for left, title in zip(lefts, columns, strict=True):
        text(draw, (left + box_w / 2, TITLE / 2), title, 14, INK, "mm")
    frames = []
    for t in range(num):
        page = sheet.copy()
        draw = ImageDraw.Draw(page)
        for left, clip in zip(lefts, columns.values(), strict=True):
            box = (left, TITLE, left + box_w - 1, TITLE + box_h - 1)
            frame_box(draw, box, t < num_seen, MARK)
            page.paste(Image.fromarray(enlarge(clip[t], scale)), (left + MARK, TITLE + MARK))
        frames.append(np.asarray(page))
    return np.concatenate([heading(num, num_seen, width, caption), np.stack(frames)], axis=1)


def error_map(real: np.ndarray, other: np.ndarray, amplify: float) -> np.ndarray:
    """Where and how much two pictures (...,3) uint8 differ, as colours of heat."""
    difference = np.abs(real.astype(np.int16) - other.astype(np.int16)).max(axis=-1)
    return heat(np.minimum(difference * (amplify / 255.0), 1.0))


def scale_of(pictures: np.ndarray, times: int) -> int:
    """How much larger to show pictures (...,H,W,3), so that all are about as large.

    As ones of 64 pixels shown so many `times` larger; never smaller than they are.
    """
    return max(1, 64 * times // max(pictures.shape[-3:-1]))


def dream_grid(
    dreams: np.ndarray,
    num_seen: int,
    *,
    returns: np.ndarray,
    ended: np.ndarray,
    columns: int = 4,
    caption: str = "",
) -> np.ndarray:
    """Several dreams (N,T,H,W,3) from one start, in a grid, each under its return so far.

    returns (N,T): the sum of dreamed rewards up to each frame. ended (N,T) bool: True once the
    dream has ended; what follows is shown pale, as no agent learns from it.
    """
    num, steps, height, width = dreams.shape[:4]
    columns, scale = min(columns, num), scale_of(dreams, 2)
    box_h, box_w = height * scale + 2 * MARK, width * scale + 2 * MARK
    cell_h, cell_w = TITLE + box_h + 4, box_w + GAP
    rows = -(-num // columns)
    size = (max(2 * MARGIN + columns * cell_w - GAP, 420), rows * cell_h + GAP)
    frames = []
    for t in range(steps):
        page = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(page)
        for n in range(num):
            left = MARGIN + n % columns * cell_w
            top = n // columns * cell_h + TITLE
            words = f"return {returns[n, t]:+.1f}" + (", ended" if ended[n, t] else "")
            text(draw, (left + MARK, top - TITLE / 2), words, 13)
            frame_box(draw, (left, top, left + box_w - 1, top + box_h - 1), t < num_seen, MARK)
            picture = dreams[n, t] // 3 + 160 if ended[n, t] else dreams[n, t]
            page.paste(Image.fromarray(enlarge(picture, scale)), (left + MARK, top + MARK))
        frames.append(np.asarray(page))
    return np.concatenate([heading(steps, num_seen, size[0], caption), np.stack(frames)], axis=1)
