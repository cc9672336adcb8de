"""Encode clips, arrays (T,H,W,3) of uint8, as bytes that browsers and players show.

TensorBoard plays an animated PNG or GIF that arrives as an ordinary image; its own video
summary needs a moviepy that no longer exists, and says nothing when it writes nothing.
"""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from runners.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def encode_png(picture: np.ndarray) -> bytes:
    """One picture (H,W,3) uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def encode_apng(frames: np.ndarray, fps: float, hold: float = 1.0) -> bytes:
    """Animated PNG: lossless, and plays wherever PNG is shown; the last frame stays `hold` s."""
    pictures = _pictures(frames)
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "PNG",
        save_all=True,
        append_images=pictures[1:],
        duration=_durations(len(pictures), fps, hold),
        loop=0,
    )
    return buffer.getvalue()


def encode_gif(frames: np.ndarray, fps: float, hold: float = 1.0) -> bytes:
    """GIF with one palette of 256 colours for all frames, so that colours do not flicker.

    GIF counts time in hundredths of a second: 30 frames/s become 33.
    """
    pictures = _pictures(frames)
    palette = _shared_palette(pictures)
    few = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    few[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=few[1:],
        duration=_durations(len(few), fps, hold),
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def encode_mp4(frames: np.ndarray, fps: float, hold: float = 1.0) -> bytes:
    """H.264 in MP4 through PyAV; sizes are padded to even numbers.

    Raises UserError where the optional package `av` is not installed.
    """
    av = _import_av()
    _pictures(frames)
    still = np.repeat(frames[-1:], round(hold * fps), axis=0)
    frames = np.concatenate([frames, still])
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(1, round(fps)))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


ENCODERS: dict[str, Callable[[np.ndarray, float], bytes]] = {
    "apng": encode_apng,
    "gif": encode_gif,
    "mp4": encode_mp4,
}
"""Format name -> encoder(frames, fps)."""

SUFFIXES = {"apng": ".png", "gif": ".gif", "mp4": ".mp4"}
"""Format name -> ending of its files; an animated PNG is a PNG to every viewer."""


def _import_av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise UserError(
            "format=mp4: the optional package `av` is not installed "
            "(install it with `pip install 'tokendream[video]'`), or choose format=apng or gif"
        ) from error


def _pictures(frames: np.ndarray) -> list[Image.Image]:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"a clip is (T,H,W,3) uint8 with T>=1, not {frames.shape} {frames.dtype}")
    return [Image.fromarray(frame) for frame in frames]


def _durations(num: int, fps: float, hold: float) -> list[int]:
    each = round(1000 / fps)
    return [each] * (num - 1) + [each + round(1000 * hold)]


def _shared_palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """A palette from up to eight frames spread over the clip."""
    chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, 8).round().astype(int)]
    montage = np.concatenate([np.asarray(p) for p in chosen])
    return Image.fromarray(montage).quantize(256, method=Image.Quantize.MEDIANCUT)
