"""What quantizers have in common whose codes the optimiser moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.protocols import Quantized
from worldmodels.quantizers.gradients import GRADIENTS
from worldmodels.quantizers.nearest import nearest, pulls
from worldmodels.quantizers.usage import Usage


class LearnedCodes(nn.Module):
    """Assigns vectors to the nearest of `size` codes, which `codes_now` gives.

    tokens: positions of a frame. codebook_weight: of mean((code - z)^2), which moves codes;
    commitment: of the same, moving vectors. gradient: a name in `GRADIENTS`.
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
        self.usage = Usage(size, tokens)

    def codes_now(self) -> Tensor:
        """The vectors (size,dim) of all codes, with gradients to what is learned of them."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Quantized:
        """The value of the code; only the losses reach what is learned of the codes."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            codebook = self.codes_now()
            codes = nearest(z, codebook)
            code = codebook[codes]
            parts = pulls(z, code, self.codebook_weight, self.commitment)
            loss = parts["codebook"] + parts["commit"]
            return Quantized(self.gradient(z, code), codes, loss, parts)

    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Counts codes; the optimiser moves them."""
        return self.usage.update(codes, weight)
