"""How far frames are from those that really came, each kind of observation in a unit of its own.

Axes: B windows, T steps, *O one observation, D numbers or choices of it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Measure(Protocol):
    """Errors of one thing that an environment shows; `unit` says in words what `error` counts."""

    unit: str

    def error(self, frames: np.ndarray, real: np.ndarray) -> np.ndarray:
        """(B,T) of frames (B,T,*O), or (B,1,*O), and the real ones."""

    def of_recon(self, recon: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
        """What else is told of reconstructions (B,T,*O), each (B,T), by name."""


class Pictures:
    """Squared errors of pictures (H,W,C) uint8."""

    unit = "mean squared error per pixel, colours in [0,1]"

    def error(self, frames: np.ndarray, real: np.ndarray) -> np.ndarray:
        difference = (frames.astype(np.float32) - real.astype(np.float32)) / 255.0
        return np.square(difference).mean(axis=(2, 3, 4))

    def of_recon(self, recon: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
        return {}


class Numbers:
    """Squared errors of vectors (D,), each number's by its variance over all frames given.

    Numbers that never change there are left out of it; NaN where none changes.
    """

    unit = "squared error / variance, mean over numbers; 1: as bad as the mean"

    def __init__(self, real: np.ndarray) -> None:
        flat = real.reshape(-1, real.shape[-1]).astype(np.float64)
        self.moves = np.ptp(flat, axis=0) > 0
        self.variance = flat.var(axis=0)[self.moves]

    def error(self, frames: np.ndarray, real: np.ndarray) -> np.ndarray:
        difference = (frames.astype(np.float64) - real)[..., self.moves]
        if not self.moves.any():
            return np.full(difference.shape[:2], np.nan)
        return (np.square(difference) / self.variance).mean(axis=-1)

    def of_recon(self, recon: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
        """recon_l1: absolute, a mean over all numbers, in the units of the environment."""
        return {"recon_l1": np.abs(recon.astype(np.float64) - real).mean(axis=-1)}


class Choices:
    """How many of the choices (D,) int64 are wrong: half the squared error of one-hot vectors."""

    unit = "share of wrong entries"

    def error(self, frames: np.ndarray, real: np.ndarray) -> np.ndarray:
        return (frames != real).mean(axis=-1)

    def of_recon(self, recon: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
        return {}


def measure_of(real: np.ndarray) -> Measure:
    """For what is shown by all the real frames (B,T,*O) that errors are told of."""
    if is_picture(real):
        return Pictures()
    return Numbers(real) if real.dtype.kind == "f" else Choices()


def is_picture(frames: np.ndarray) -> bool:
    """Whether these are frames of an Image: of all observations, only those are uint8."""
    return frames.dtype == np.uint8
