"""Vector quantisation whose codes learn by gradient: VQ-VAE (arXiv 1711.00937), as IRIS has it.

IRIS (arXiv 2209.00588): 512 codes of 512 numbers, both losses of weight 1. Codes that no vector
chooses get no gradient, and most stay unused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.protocols import Quantized
from worldmodels.quantizers.gradients import GRADIENTS
from worldmodels.quantizers.nearest import nearest, pulls
from worldmodels.quantizers.usage import Usage


class VQGrad(nn.Module):
    """Assigns vectors to the nearest of `size` codes, which are a parameter.

    tokens: positions of a frame. codebook_weight: of mean((code - z)^2), which moves codes;
    commitment: of the same, moving vectors. gradient: a name in `GRADIENTS`. The codes start
    uniform within 1/size of the origin; they are no Linear layer, so that no weight decay moves
    codes that nobody uses.
    """

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
        self.codebook = nn.Parameter(torch.empty(size, dim).uniform_(-1 / size, 1 / size))
        self.usage = Usage(size, tokens)

    def forward(self, z: Tensor) -> Quantized:
        """The value of the code; only the losses reach the codebook."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            codes = nearest(z, self.codebook)
            code = self.codebook[codes]
            parts = pulls(z, code, self.codebook_weight, self.commitment)
            loss = parts["codebook"] + parts["commit"]
            return Quantized(self.gradient(z, code), codes, loss, parts)

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,dim) of codes (...)."""
        return self.codebook[codes]

    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Counts codes; the optimiser moves them."""
        return self.usage.update(codes, weight)
