"""What dreams look like, whatever the environment shows: its first picture, and its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from envs.trees import named
from runners.drawing import BLUE, FAINT, ORANGE, PURPLE, SEEN
from runners.frame_errors import is_picture
from runners.pictures import dream_grid, panels
from runners.strips import LEAST_WIDTH, Curve, Row, heading, outcome, strip, trajectories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runners.rollout import Comparison, FreeDreams

ALONE, EACH, TOGETHER = 8, 4, 12
"""The most numbers shown: of an observation alone, of each of several, of all of these."""
COLOURS = (ORANGE, BLUE, PURPLE, SEEN)
"""Of dreams that share a plot; from the fifth on the same ones, dashed."""


def clip_of(comparison: Comparison, row: int, caption: str = "") -> np.ndarray:
    """The clip (T,H,W,3) of one window: pictures beside each other, below them plots over time.

    Numbers, if any are shown, are those that change most in the window.
    """
    c = comparison
    real, recon, dream = (
        {n: x[row] for n, x in named(o).items()} for o in (c.real, c.recon, c.dream)
    )
    rows = []
    for name, i in most_moving(real):
        true, rebuilt, dreamed = (x[name][:, i].astype(np.float64) for x in (real, recon, dream))
        dreamed[: c.num_seen] = np.nan
        curves = (
            Curve("true", true, BLUE),
            Curve("recon.", rebuilt, FAINT, True, width=1.5),
            Curve("dreamed", dreamed, ORANGE, True),
        )
        rows.append(_row(name, i, curves))
    rows += outcome(
        rew_true=c.rew_true[row],
        rew_pred=c.rew_pred[row],
        end_prob=c.end_prob[row],
        value=c.value[row],
    )
    picture = _first_picture(real)
    if picture is None:
        top = heading(len(c.rew_true[row]), c.num_seen, LEAST_WIDTH, caption)
    else:
        top = panels(real[picture], recon[picture], dream[picture], c.num_seen, caption=caption)
    return np.concatenate([top, strip(rows, c.num_seen, top.shape[2])], axis=1)


def grid_of(free: FreeDreams, caption: str = "") -> np.ndarray:
    """The clip of several dreams from one start; of numbers alone, a single frame.

    There, the lines of a dream stop where it ends.
    """
    words = f"one start, the policy acts; {caption}" if caption else "one start, the policy acts"
    frames = named(free.frames)
    picture = _first_picture(frames)
    if picture is not None:
        return dream_grid(
            frames[picture],
            free.num_seen,
            returns=free.returns,
            ended=free.ended,
            caption=words,
        )

    def lines(values: np.ndarray) -> tuple[Curve, ...]:
        """One for each dream, of values (N,T)."""
        going = np.where(free.ended, np.nan, values)
        return tuple(
            Curve("", y, COLOURS[n % len(COLOURS)], n // len(COLOURS) % 2 == 1, width=1.5)
            for n, y in enumerate(going)
        )

    rows = [_row(name, i, lines(frames[name][..., i])) for name, i in most_moving(frames)]
    rows.append(Row("return so far", lines(free.returns)))
    return trajectories(rows, free.num_seen, f"{len(free.returns)} dreams; {words}")


def _first_picture(frames: dict[str, np.ndarray]) -> str | None:
    return next((name for name, x in frames.items() if is_picture(x)), None)


def most_moving(frames: dict[str, np.ndarray]) -> list[tuple[str, int]]:
    """Which numbers of frames (...,D) to show, by entry and place: those of the most variance."""
    vectors = {name: x for name, x in frames.items() if not is_picture(x)}
    most = ALONE
    if len(frames) > 1:
        most = max(1, min(EACH, TOGETHER // max(1, len(vectors))))
    chosen = []
    for name, x in vectors.items():
        spread = x.reshape(-1, x.shape[-1]).astype(np.float64).var(axis=0)
        best = np.argsort(-spread, kind="stable")[:most]
        chosen += [(name, int(i)) for i in np.sort(best)]
    return chosen


def _row(name: str, index: int, curves: Sequence[Curve]) -> Row:
    """Of one number, in a range that fits it."""
    values = np.concatenate([curve.values for curve in curves])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    # What does not change is a line in the middle, not rounding blown up.
    room = max(0.08 * (high - low), 1e-4 * max(abs(low), abs(high)), 1e-6)
    place = f"[{index}]" if name else ""
    return Row(name or f"number {index}", tuple(curves), (low - room, high + room), place)
