"""Grids of values for the dimensions of a vector: fixed ones, and ones that data lays.

A grid is a function from warm-up data (N,D) float64 and a number of values V to a Grid; fixed
grids read only how many dimensions there are. Where data lies in so few places that they could be
flags or counts, grids that spread evenly have these as exact values.

Axes: N vectors, D dimensions, V values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.nets.heads import symexp, symlog

# How far symlog grids reach, in symlog units; and tails, in the unit of the data.
REACH, TAIL_END = 6.0, math.exp(6)
# Of the values, the share in each of the two tails: 16 of 125.
TAIL = 0.128
# A dimension with no more values than this may be one of flags or counts.
FEW = 16
# A range of data counts as at least this share of its distance from 0, so that float32 can tell
# neighbouring values apart, and as at least this much.
NARROW, LEAST = 1e-4, 1e-6


@dataclass(frozen=True)
class Grid:
    """support (D,V) float32, ascending, and edges (D,V-1): where the nearest value changes.

    A number on an edge is nearest to the lower value.
    """

    support: Tensor
    edges: Tensor


def symlog_even(x: Tensor, size: int) -> Grid:
    """Even in symlog units over +-6, where nearness counts, too."""
    return _of_symlog(torch.linspace(-REACH, REACH, size, dtype=torch.float64), x)


def symlog_two_densities(x: Tensor, size: int) -> Grid:
    """Half of the values within +-pi and half beyond, even in symlog units in each: Simulus.

    arXiv 2502.11537, where there are 125: 32 from 0 to ln(1+pi), 31 more to 6, and all mirrored.
    Raises ValueError where they cannot be shared out so.
    """
    if size % 4 != 1:
        raise ValueError(f"this grid needs one value more than a multiple of 4, not {size}")
    half, joint = size // 4 + 1, math.log1p(math.pi)
    inner = torch.linspace(0, joint, half, dtype=torch.float64)
    upper = torch.cat((inner, torch.linspace(joint, REACH, half, dtype=torch.float64)[1:]))
    return _of_symlog(torch.cat((-upper.flip(0), upper[1:])), x)


def uniform(x: Tensor, size: int) -> Grid:
    """Even over the range of each dimension and a tenth of it more on both sides."""
    center, extent = _span(x)
    place = torch.linspace(-0.6, 0.6, size, dtype=torch.float64)
    return _nearest(_with_few(center[:, None] + extent[:, None] * place, x))


def quantile(x: Tensor, size: int) -> Grid:
    """Quantiles of each dimension, pushed apart a little where many of its numbers are alike."""
    center, extent = _span(x)
    ordered = x.sort(0).values.T
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size * len(x) - 0.5
    place = place.clamp(0, len(x) - 1)
    below = place.long()
    above = (below + 1).clamp_max(len(x) - 1)
    support = ordered[:, below].lerp(ordered[:, above], place - below)
    least = 1e-6 * torch.maximum(extent, center.abs() + extent)[:, None]
    ramp = least * torch.arange(size, dtype=torch.float64)
    return _nearest((support - ramp).cummax(1).values + ramp)


def core_tails(x: Tensor, size: int) -> Grid:
    """Even over the range of each dimension and a quarter of it more on both sides; and tails.

    Of 125 values, 93 lie there, and 16 on each side of them, even in symlog units, to +-e^6, or
    farther where the data is. What the agent has not reached yet is coarse, but not cut off. The
    middle of the range is a value, hence a constant, too. Raises ValueError for an even number.
    """
    tail = round(TAIL * size)
    core = size - 2 * tail
    if size % 2 == 0 or tail == 0:
        raise ValueError(f"this grid needs an odd number of values of at least 5, not {size}")
    center, extent = _span(x)
    side = core // 2
    place = torch.arange(-side, side + 1, dtype=torch.float64) / side
    inner = center[:, None] + 0.75 * extent[:, None] * place
    inner = _with_few(inner, x)
    lower = -_tail(-inner[:, 0], tail).flip(1)
    return _nearest(torch.cat((lower, inner, _tail(inner[:, -1], tail)), 1))


def spread(x: Tensor, size: int) -> Grid:
    """Fine around the median of each dimension and ever coarser outwards: even in asinh units.

    The unit is the dimension's standard deviation. With 401 values they are 0.02 of it apart at
    the median, three times as much at three of them, and reach to 30, or farther where the data
    is: what the agent has not reached yet is not cut off. The median is a value, hence a constant,
    too. Raises ValueError for an even number.
    """
    if size % 2 == 0:
        raise ValueError(f"this grid needs an odd number of values, not {size}")
    _, extent = _span(x)
    center = x.median(0).values
    # Rare peaks make a range wide and say little of the rest.
    unit = x.std(0, correction=0).maximum(0.05 * extent)
    unit = torch.where(x.amax(0) > x.amin(0), unit, extent / 2)
    far = ((x - center).abs().amax(0) / unit * 1.5).clamp_min(30).asinh()
    side = size // 2
    place = torch.arange(-side, side + 1, dtype=torch.float64) / side
    return _nearest(_with_few(center[:, None] + unit[:, None] * (far[:, None] * place).sinh(), x))


def _tail(start: Tensor, size: int) -> Tensor:
    """(D,size) from above start (D,), even in symlog units."""
    begin = symlog(start)
    end = (begin + 1).clamp_min(math.log1p(TAIL_END))
    place = torch.arange(1, size + 1, dtype=torch.float64) / size
    return symexp(begin[:, None].lerp(end[:, None], place))


def _span(x: Tensor) -> tuple[Tensor, Tensor]:
    """Center and extent (D,) of each dimension. A constant tells no scale: 2, or more if large."""
    low, high = x.amin(0), x.amax(0)
    center = (low + high) / 2
    extent = (high - low).clamp_min(LEAST).maximum(NARROW * center.abs())
    return center, torch.where(high > low, extent, 2 * center.abs().clamp_min(1))


def _with_few(support: Tensor, x: Tensor) -> Tensor:
    """Even values (D,V), the nearest moved onto the data's where these are few and far apart."""
    support = support.clone()
    for own, column in zip(support, x.unbind(1), strict=True):
        values = column.unique()
        near = (own[:, None] - values).abs().argmin(0)
        # Two steps apart: whatever moves by half a step stays well apart from the next.
        if len(values) <= FEW and (near.diff() > 1).all():
            own[near] = values
    return support


def _nearest(support: Tensor) -> Grid:
    """The grid of values (D,V) where numbers go to the nearest."""
    support = support.float()
    return Grid(support, ((support[:, 1:].double() + support[:, :-1].double()) / 2).float())


def _of_symlog(place: Tensor, x: Tensor) -> Grid:
    """The grid of symlog values (V,), the same for each dimension of x (N,D)."""
    rows = x.shape[1], -1
    support, edges = symexp(place), symexp((place[1:] + place[:-1]) / 2)
    return Grid(support.float().repeat(rows[0], 1), edges.float().repeat(rows[0], 1))


@dataclass(frozen=True)
class Kind:
    """How a grid is laid, and whether data has a say."""

    lay: Callable[[Tensor, int], Grid]
    fitted: bool


GRIDS = {
    "core_tails": Kind(core_tails, fitted=True),
    "quantile": Kind(quantile, fitted=True),
    "spread": Kind(spread, fitted=True),
    "symlog": Kind(symlog_even, fitted=False),
    "symlog_two_densities": Kind(symlog_two_densities, fitted=False),
    "uniform": Kind(uniform, fitted=True),
}
