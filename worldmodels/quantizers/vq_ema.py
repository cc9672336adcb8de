"""Cosine vector quantisation with a codebook that follows its vectors: spherical k-means.

Delta-IRIS's quantizer. Differences: codes start on the unit sphere; assignment and update stay
in float32 under autocast; usage sums to 1 also after revivals; padding has weight 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.protocols import Quantized
from worldmodels.quantizers.gradients import GRADIENTS
from worldmodels.quantizers.usage import Usage, match


class VQEma(nn.Module):
    """Assigns unit vectors to the nearest of `size` unit codes; the codes are no parameters.

    tokens: positions of a frame. decay, usage_decay: how much of the old code and of the old
    usage an update keeps. commitment: weight of mean((z - code)^2). Codes used less than a tenth
    of evenly are moved onto random vectors while usage entropy is below log2(size) - 2 bits, in
    the first `revive_updates` updates, and at any time below `revive_below` bits. gradient: a
    name in `GRADIENTS`.
    """

    codebook: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        tokens: int,
        size: int,
        dim: int,
        decay: float,
        usage_decay: float,
        commitment: float,
        revive_updates: int,
        revive_below: float,
        gradient: str,
    ) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.decay, self.commitment, self.gradient = decay, commitment, GRADIENTS[gradient]
        self.revive_updates, self.revive_below = revive_updates, revive_below
        self.register_buffer("codebook", F.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.usage = Usage(size, tokens, usage_decay)

    def forward(self, z: Tensor) -> Quantized:
        """The value of the code, the gradient to the normalised vector.

        The loss (...) is the commitment of each vector, its mean over `dim`.
        """
        with torch.autocast(z.device.type, enabled=False):
            unit = F.normalize(z.float(), dim=-1)
            # float64 because GPUs round float32 matrix products to TF32.
            codes = (unit.detach().double() @ self.codebook.T.double()).argmax(-1)
            code = self.codebook[codes]
            loss = self.commitment * (unit - code).square().mean(-1)
            return Quantized(self.gradient(unit, code), codes, loss, {"commit": loss})

    def embed(self, codes: Tensor) -> Tensor:
        """The unit vectors (...,dim) of codes (...)."""
        return self.codebook[codes]

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Move used codes towards the mean of their vectors; never waits for the host.

        z need not be normalised.
        """
        counts = self.usage.count(codes, weight)
        codes, weight = codes.flatten(), weight.flatten()
        unit = F.normalize(z.float().reshape(-1, self.dim), dim=-1)
        sums = torch.zeros_like(self.codebook).index_add_(0, codes, unit * weight[:, None])
        # An unused code has a zero mean, which only scales it: normalising keeps its direction.
        mixed = self.decay * self.codebook + (1 - self.decay) * F.normalize(sums, dim=-1)
        self.codebook.copy_(F.normalize(mixed, dim=-1))
        revived = self._revive(unit, weight)
        self.updates += 1
        return {"codes_revived": revived, **self.usage.metrics(counts)}

    def _revive(self, unit: Tensor, weight: Tensor) -> Tensor:
        """Move dead codes onto distinct random vectors of the batch; returns how many."""
        entropy = self.usage.entropy()
        allowed = (entropy < self.revive_below) | (self.updates < self.revive_updates)
        allowed &= entropy < math.log2(self.size) - 2
        codes, vectors, chosen = match(self.usage.dead(), weight, allowed)
        self.codebook[codes] = torch.where(chosen[:, None], unit[vectors], self.codebook[codes])
        self.usage.revive(codes, chosen)
        return chosen.sum().float()
