"""Numbers brought to a mean of 0 and a spread of 1 by what was seen so far. Axes: D dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Spreads below this count as this: what was constant so far and moves is not blown up.
LEAST = 0.01


class RunningScale(nn.Module):
    """Moving mean and variance of each of `size` dimensions; `decay` is what an update keeps.

    Before any data, numbers stay as they are; `fit` starts it, and updates count little beside it.
    Without it, the first updates are averaged evenly.
    """

    mean: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(self, *, size: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(...,D) in units of the spread."""
        return (x - self.mean) / self._spread()

    def inverse(self, y: Tensor) -> Tensor:
        """What (...,D) was before."""
        return y * self._spread() + self.mean

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take in x (N,D) as if for as long as the scale remembers."""
        self.update(x, torch.ones_like(x[:, 0]))
        self.updates.fill_(math.ceil(1 / (1 - self.decay)))

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor) -> None:
        """Take in x (N,D) where weight (N,) is not 0; never waits for the host."""
        weight = weight[:, None].float()
        share = weight / weight.sum().clamp_min(1e-9)
        mean = (x * share).sum(0)
        variance = ((x - mean).square() * share).sum(0)
        some = weight.sum() > 0
        rate = (1 / (self.updates + 1)).clamp_min(1 - self.decay) * some
        # The variance of both together: theirs, and that of their means.
        between = rate * (1 - rate) * (mean - self.mean).square()
        self.variance.copy_(self.variance.lerp(variance, rate) + between)
        self.mean.lerp_(mean, rate)
        self.updates += some

    def _spread(self) -> Tensor:
        return self.variance.sqrt().clamp_min(LEAST)
