"""95 % intervals of means by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


def t975(degrees: int) -> float:
    """The 97.5 % quantile for `degrees` >= 1 degrees of freedom."""
    return T975[degrees - 1] if degrees <= len(T975) else 1.96 + 2.4 / degrees


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval; NaN ends with a single value."""
    numbers = np.asarray(values, float)
    mean, count = float(numbers.mean()), len(numbers)
    if count < 2:
        return mean, math.nan, math.nan
    half = t975(count - 1) * float(numbers.std(ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half


def mean_text(values: Sequence[float], form: str, spread: bool = False) -> str:
    """The mean of those that are no NaN, and its interval if asked for; a dash where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        return "–"
    mean, low, _ = interval_over_seeds(numbers)
    return f"{mean:{form}}" + (f" ± {mean - low:{form}}" if spread and not math.isnan(low) else "")


def half_over_groups(rows: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Half the interval of the mean of rows (B,H) that are alike within a group, (H,).

    Cluster-robust: only groups, named by `group` (B,), count as independent. NaN with one group.
    """
    names, place = np.unique(group, return_inverse=True)
    count = len(names)
    if count < 2:
        return np.full(rows.shape[1], np.nan)
    off = np.zeros((count, rows.shape[1]))
    np.add.at(off, place, rows - rows.mean(axis=0, dtype=np.float64))
    variance = count / (count - 1) * np.square(off).sum(0) / len(rows) ** 2
    half: np.ndarray = t975(count - 1) * np.sqrt(variance)
    return half
