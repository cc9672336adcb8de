"""Finite scalar quantisation: a few numbers, each rounded to a few levels. No codebook.

arXiv 2309.15505; the symmetric form is equation 2 of arXiv 2411.19842.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldmodels.protocols import Quantized
from worldmodels.quantizers.gradients import straight_through
from worldmodels.quantizers.usage import Usage

# How far beyond the outermost levels the published bound reaches.
MARGIN = 1e-3


class FSQ(nn.Module):
    """Rounds number i of a vector to one of levels[i] levels; codes are all combinations.

    tokens: positions of a frame. form: "published" has a level at 0, and with an even number of
    levels one more below it than above; "symmetric" spreads levels evenly over [-1,1]. The
    first number's level is the lowest digit of a code. Numbers should come in with a spread near
    1: far out the gradient vanishes, and the outermost levels stay. Raises ValueError for fewer
    than 3 levels (2 if symmetric).
    """

    levels: Tensor
    digits: Tensor

    def __init__(self, *, tokens: int, levels: Sequence[int], form: str) -> None:
        super().__init__()
        fewest = {"published": 3, "symmetric": 2}[form]
        if min(levels) < fewest:
            # Of two published levels, one begins at z < -3.8.
            raise ValueError(f"{form} levels must be at least {fewest}, not {min(levels)}")
        self.size, self.dim, self.form = math.prod(levels), len(levels), form
        digits = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("digits", torch.tensor(digits), persistent=False)
        self.usage = Usage(self.size, tokens)

    def forward(self, z: Tensor) -> Quantized:
        """The gradient is that of the bound, as if nothing were rounded; there is no loss."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            bounded = self._bounded(z)
            level = bounded.round()
            codes = ((level.long() + self._lowest()) * self.digits).sum(-1)
            value = self._value(straight_through(bounded, level))
            return Quantized(value, codes, z.new_zeros(codes.shape))

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,dim) of codes (...)."""
        level = codes[..., None] // self.digits % self.levels - self._lowest()
        return self._value(level.float())

    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Counts codes; there is nothing to learn."""
        return self.usage.update(codes, weight)

    def _bounded(self, z: Tensor) -> Tensor:
        """z squeezed into the range of the levels, which lie one apart."""
        if self.form == "symmetric":
            return (z.tanh() + 1) * (self.levels - 1) / 2
        half = (self.levels - 1) * (1 + MARGIN) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return (z + (offset / half).atanh()).tanh() * half - offset

    def _lowest(self) -> Tensor:
        """How far the lowest level lies below 0."""
        return self.levels // 2 * (self.form == "published")

    def _value(self, level: Tensor) -> Tensor:
        if self.form == "symmetric":
            return 2 * level / (self.levels - 1) - 1
        return level / (self.levels // 2)
