"""Frozen codes through one learned map, which moves all of them at once: SimVQ.

arXiv 2411.02038. Differences: nothing is cached, as the product of codes and map costs less than
the distances to more than `dim` vectors, and an imagined step needs only the codes it embeds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.protocols import Quantized
from worldmodels.quantizers.gradients import GRADIENTS
from worldmodels.quantizers.nearest import nearest, pulls
from worldmodels.quantizers.usage import Usage


class SimVQ(nn.Module):
    """Assigns vectors to the nearest of `size` codes: rows of frozen (size,dim) times weight.

    tokens: positions of a frame. codebook_weight: of mean((code - z)^2), which moves the map;
    commitment: of the same, moving vectors. gradient: a name in `GRADIENTS`. The map has no bias,
    so codes surround the origin; it is no Linear layer, so that no weight decay shrinks them.
    """

    frozen: Tensor

    def __init__(
        self,
        *,
        tokens: int,
        size: int,
        dim: int,
        codebook_weight: float,
        commitment: float,
        gradient: str,
    ) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.codebook_weight, self.commitment = codebook_weight, commitment
        self.gradient = GRADIENTS[gradient]
        self.register_buffer("frozen", torch.randn(size, dim) * dim**-0.5)
        # A linear layer's usual start.
        self.weight = nn.Parameter(torch.empty(dim, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.usage = Usage(size, tokens)

    def forward(self, z: Tensor) -> Quantized:
        """The value of the code; only the losses reach the map."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            codebook = self._mapped(self.frozen)
            codes = nearest(z, codebook)
            code = codebook[codes]
            parts = pulls(z, code, self.codebook_weight, self.commitment)
            loss = parts["codebook"] + parts["commit"]
            return Quantized(self.gradient(z, code), codes, loss, parts)

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,dim) of codes (...)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._mapped(self.frozen[codes])

    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Counts codes; the optimiser moves them."""
        return self.usage.update(codes, weight)

    def _mapped(self, frozen: Tensor) -> Tensor:
        """Codes (...,dim); float64 so that rounding does not depend on how many there are."""
        return (frozen.double() @ self.weight.double()).float()
