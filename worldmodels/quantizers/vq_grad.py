"""Vector quantisation whose codes learn by gradient: VQ-VAE (arXiv 1711.00937), as IRIS has it.

IRIS (arXiv 2209.00588): 512 codes of 512 numbers, both losses of weight 1. Codes that no vector
chooses get no gradient, and most stay unused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.quantizers.learned import LearnedCodes


class VQGrad(LearnedCodes):
    """The codes are a parameter; arguments as for LearnedCodes.

    They start uniform within 1/size of the origin, and are no Linear layer, so that no weight
    decay moves codes that nobody uses.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        start = torch.empty(self.size, self.dim).uniform_(-1 / self.size, 1 / self.size)
        self.codebook = nn.Parameter(start)

    def codes_now(self) -> Tensor:
        return self.codebook

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,dim) of codes (...)."""
        return self.codebook[codes]
