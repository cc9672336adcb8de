"""Frozen codes through one learned map, which moves all of them at once: SimVQ.

arXiv 2411.02038. Differences: nothing is cached, as the product of codes and map costs less than
the distances to more than `dim` vectors, and an imagined step needs only the codes it embeds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.quantizers.learned import LearnedCodes


class SimVQ(LearnedCodes):
    """The codes are rows of frozen (size,dim) times weight; arguments as for LearnedCodes.

    The map has no bias, so codes surround the origin; it is no Linear layer, so that no weight
    decay shrinks them.
    """

    frozen: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        spread = self.dim**-0.5
        self.register_buffer("frozen", torch.randn(self.size, self.dim) * spread)
        # A linear layer's usual start.
        self.weight = nn.Parameter(torch.empty(self.dim, self.dim).uniform_(-spread, spread))

    def codes_now(self) -> Tensor:
        return self._mapped(self.frozen)

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,dim) of codes (...)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._mapped(self.frozen[codes])

    def _mapped(self, frozen: Tensor) -> Tensor:
        """Codes (...,dim); float64 so that rounding does not depend on how many there are."""
        return (frozen.double() @ self.weight.double()).float()
