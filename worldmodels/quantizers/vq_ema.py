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


class VQEma(nn.Module):
    """Assigns unit vectors to the nearest of `size` unit codes; the codes are no parameters.

    decay, usage_decay: how much of the old code and of the old usage an update keeps.
    commitment: weight of mean((z - code)^2). Codes used less than a tenth of evenly are moved
    onto random vectors while usage entropy is below log2(size) - 2 bits, in the first
    `revive_updates` updates, and at any time below `revive_below` bits.
    """

    codebook: Tensor
    usage: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        size: int,
        dim: int,
        decay: float,
        usage_decay: float,
        commitment: float,
        revive_updates: int,
        revive_below: float,
    ) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.decay, self.usage_decay, self.commitment = decay, usage_decay, commitment
        self.revive_updates, self.revive_below = revive_updates, revive_below
        self.register_buffer("codebook", F.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("usage", torch.full((size,), 1 / size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, z: Tensor) -> Quantized:
        """Straight-through: the value of the code, the gradient to the normalised vector.

        The loss (...) is the commitment of each vector, its mean over `dim`.
        """
        with torch.autocast(z.device.type, enabled=False):
            unit = F.normalize(z.float(), dim=-1)
            # float64 because GPUs round float32 matrix products to TF32.
            codes = (unit.detach().double() @ self.codebook.T.double()).argmax(-1)
            code = self.codebook[codes]
            loss = self.commitment * (unit - code).square().mean(-1)
            return Quantized(unit + (code - unit).detach(), codes, loss)

    def embed(self, codes: Tensor) -> Tensor:
        """The unit vectors (...,dim) of codes (...)."""
        return self.codebook[codes]

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Move used codes towards the mean of their vectors z (M,dim); never waits for the host.

        z need not be normalised; weight (M,) is 0 for padding.
        """
        unit = F.normalize(z.float(), dim=-1)
        sums = torch.zeros_like(self.codebook).index_add_(0, codes, unit * weight[:, None])
        counts = torch.zeros_like(self.usage).index_add_(0, codes, weight.float())
        # An unused code has a zero mean, which only scales it: normalising keeps its direction.
        mixed = self.decay * self.codebook + (1 - self.decay) * F.normalize(sums, dim=-1)
        self.codebook.copy_(F.normalize(mixed, dim=-1))
        batch_usage = counts / counts.sum().clamp_min(1)
        self.usage.lerp_(batch_usage, 1 - self.usage_decay)
        revived = self._revive(unit, weight)
        self.updates += 1
        perplexity = torch.exp2(_entropy(batch_usage))
        return {
            "codes_revived": revived,
            "usage_entropy": _entropy(self.usage),
            "perplexity": perplexity,
            "code_usage": (counts > 0).float().mean(),
            "dead_codes": (self.usage < 0.1 / self.size).sum().float(),
        }

    def _revive(self, unit: Tensor, weight: Tensor) -> Tensor:
        """Move dead codes onto distinct random vectors of the batch; returns how many."""
        entropy = _entropy(self.usage)
        allowed = (entropy < self.revive_below) | (self.updates < self.revive_updates)
        allowed &= entropy < math.log2(self.size) - 2
        dead = self.usage < 0.1 / self.size
        room = min(self.size, len(unit))
        # Dead codes first and real vectors first, each in random order; pair them up to the
        # smaller number. Sorting keeps shapes static where boolean indexing would not.
        codes = (torch.rand_like(self.usage) + ~dead).argsort()[:room]
        vectors = (torch.rand_like(weight.float()) + (weight == 0)).argsort()[:room]
        count = torch.minimum(dead.sum(), (weight != 0).sum()) * allowed
        chosen = torch.arange(room, device=unit.device) < count
        self.codebook[codes] = torch.where(chosen[:, None], unit[vectors], self.codebook[codes])
        self.usage[codes] = torch.where(chosen, 1 / self.size, self.usage[codes])
        self.usage /= self.usage.sum()
        return count.float()


def _entropy(p: Tensor) -> Tensor:
    """Entropy in bits of frequencies; zero entries count nothing."""
    return -torch.special.xlogy(p, p).sum() / math.log(2)
