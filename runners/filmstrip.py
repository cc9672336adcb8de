"""A filmstrip of denoising: one row for a frame, one column for a state of it.

Axes: R frames, C states, N tokens of a frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from runners.drawing import FAINT, GRID, INK, PAPER, enlarge, font, text

if TYPE_CHECKING:
    from runners.denoising import Film

MARGIN, GAP, LABEL = 14, 10, 84
HEAD, TITLE, FOOT, SPACE = 78, 22, 20, 12
WIDTH, LEAST_PAGE = 128, 900
GREY, HATCH, RED = (201, 206, 214), (158, 166, 177), (229, 56, 59)
# From unlikely to certain; none of them is grey, and each is lighter than the one before.
STOPS = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float32
)


def confidence(prob: np.ndarray) -> np.ndarray:
    """Probabilities (...) as colours (...,3) uint8, from violet, 0, over green to yellow, 1."""
    at = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(prob, at, STOPS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def filmstrip(film: Film, caption: str = "") -> np.ndarray:
    """The whole film (H,W,3) uint8: pictures, and below each its tokens by confidence."""
    frames, states, tokens = film.tokens.shape
    scale = max(1, WIDTH // film.real.shape[2])
    high, wide = film.real.shape[1] * scale, film.real.shape[2] * scale
    cells = _cells(film, tokens, scale, wide)
    below = max(bottom for _, _, _, bottom in cells)
    step = high + 4 + below + FOOT + SPACE
    left = MARGIN + LABEL
    width = left + (states + 1) * (wide + GAP) + GAP + MARGIN
    page = Image.new("RGB", (max(width, LEAST_PAGE), HEAD + TITLE + frames * step), PAPER)
    draw = ImageDraw.Draw(page)
    _head(draw, page, film, caption)
    lefts = [left + c * (wide + GAP) for c in range(states)]
    right = left + states * (wide + GAP) + GAP
    titles = [f"after call {calls}" for calls in film.calls]
    titles[0], titles[-1] = "start", f"{titles[-1]}: finished"
    for x, words in zip([*lefts, right], [*titles, "what really came"], strict=True):
        text(draw, (x + wide / 2, HEAD + TITLE / 2), words, 13, INK, "mm")
    for r in range(frames):
        top = HEAD + TITLE + r * step
        for line, words in enumerate(("imagined", f"frame {r + 1}")):
            text(draw, (MARGIN, top + high / 2 - 9 + 18 * line), words, 14)
        for line, words in enumerate(("tokens by", "confidence")):
            text(draw, (MARGIN, top + high + 4 + below / 2 - 8 + 16 * line), words, 12, FAINT)
        for c, x in enumerate(lefts):
            masked = film.tokens[r, c] == film.vocab
            picture = Image.fromarray(enlarge(film.pictures[r, c], scale))
            if film.square:
                for box in [cell for cell, hidden in zip(cells, masked, strict=True) if hidden]:
                    _mask(picture, box)
            page.paste(picture, (x, top))
            page.paste(_token_map(film, r, c, cells), (x, top + high + 4))
            shown = f"{tokens - int(masked.sum())} of {tokens} drawn"
            if c == 0:
                shown = "all masked" if masked.all() else "random tokens"
            at = (x + wide / 2, top + high + 4 + below + FOOT / 2)
            text(draw, at, shown, 12, FAINT, "mm")
        page.paste(Image.fromarray(enlarge(film.real[r], scale)), (right, top))
    return np.asarray(page)


Box = tuple[int, int, int, int]
"""Left, top, right and bottom, the last two not included."""


def _cells(film: Film, tokens: int, scale: int, wide: int) -> list[Box]:
    """Where each token is: in its own place of the picture, or else one after the other."""
    if film.square:
        high, broad = (side * scale for side in film.square)
        columns = film.real.shape[2] // film.square[1]
    else:
        columns = tokens if tokens <= 4 else math.ceil(math.sqrt(tokens))
        broad = wide // columns
        high = min(broad, 32)
    at = [(i // columns * high, i % columns * broad) for i in range(tokens)]
    return [(x, y, x + broad, y + high) for y, x in at]


def _token_map(film: Film, r: int, c: int, cells: list[Box]) -> Image.Image:
    """Cells by the confidence of their tokens, with their numbers where these fit."""
    size = (max(box[2] for box in cells), max(box[3] for box in cells))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    now, prob = film.tokens[r, c], film.prob[r, c]
    before = film.tokens[r, c - 1] if c else now
    least = min(box[2] - box[0] for box in cells)
    type_size = next((s for s in (12, 10, 9) if _longest(film.vocab, s) + 6 <= least), None)
    for i, box in enumerate(cells):
        left, top, right, bottom = box
        if now[i] == film.vocab:
            _mask(sheet, box)
            continue
        known = math.isfinite(prob[i])
        colour = confidence(prob[i]) if known else np.array([255, 255, 255])
        fill: tuple[int, int, int] = tuple(colour.tolist())
        edge = PAPER if known else GRID
        draw.rectangle((left, top, right - 1, bottom - 1), fill=fill, outline=edge)
        dark = colour @ [0.3, 0.59, 0.11] < 140
        if now[i] != before[i]:
            _new(draw, box)
        if type_size:
            ink = PAPER if dark else INK
            middle = ((left + right) / 2, (top + bottom) / 2)
            text(draw, middle, str(now[i]), type_size, ink, "mm")
    return sheet


def _longest(vocab: int, size: int) -> float:
    return float(font(size).getlength(str(vocab - 1)))


def _new(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """The mark of a token that was not there, or was another, in the column before."""
    left, top, right, bottom = box
    draw.rectangle((left, top, right - 1, bottom - 1), outline=RED, width=2)


def _mask(picture: Image.Image, box: Box) -> None:
    """Grey with stripes, so that no colour is mistaken for it."""
    left, top, right, bottom = box
    patch = Image.new("RGB", (right - left, bottom - top), GREY)
    draw = ImageDraw.Draw(patch)
    for x in range(-patch.height, patch.width, 7):
        draw.line((x, patch.height, x + patch.height, 0), fill=HATCH)
    draw.rectangle((0, 0, patch.width - 1, patch.height - 1), outline=PAPER)
    picture.paste(patch, (left, top))


def _head(draw: ImageDraw.ImageDraw, page: Image.Image, film: Film, caption: str) -> None:
    """What the picture shows, and what its colours mean."""
    calls, tokens = int(film.calls[-1]), film.tokens.shape[-1]
    frames = f"{len(film.real)} imagined frames were" if len(film.real) > 1 else "a frame was"
    words = (
        f"How {frames} denoised: {tokens} token{'s' * (tokens > 1)} each, "
        f"sampler {film.sampler}, {calls} call{'s' * (calls > 1)}"
    )
    text(draw, (MARGIN, 16), words, 15)
    rest = page.width - 2 * MARGIN - font(15).getlength(words) - 20
    if font(13).getlength(caption) <= rest:
        text(draw, (page.width - MARGIN, 16), caption, 13, FAINT, "rm")
    x, y = MARGIN, 40
    _mask(page, (x, y - 8, x + 26, y + 8))
    x = _said(draw, x + 32, y, "masked") + 22
    x = _said(draw, x, y, "drawn, by how likely it was then thought: 0 %") + 6
    bar = confidence(np.tile(np.linspace(0, 1, 110), (16, 1)))
    page.paste(Image.fromarray(bar), (x, y - 8))
    draw.rectangle((x - 1, y - 9, x + 110, y + 8), outline=GRID)
    x = _said(draw, x + 116, y, "100 %") + 22
    draw.rectangle((x, y - 8, x + 25, y + 7), fill=tuple(confidence(np.array(0.75)).tolist()))
    _new(draw, (x, y - 8, x + 26, y + 8))
    _said(draw, x + 32, y, "new since the column before")
    pictures = "Pictures: all tokens so far, decoded with the likeliest ones in place of masks"
    nowhere = ". No token has a place of its own in the picture."
    pictures += "; masked places are grey." if film.square else nowhere
    text(draw, (MARGIN, 63), pictures, 13, FAINT)


def _said(draw: ImageDraw.ImageDraw, x: int, y: int, words: str) -> int:
    """Write, and give where the words end."""
    text(draw, (x, y), words, 13)
    return x + math.ceil(font(13).getlength(words))
