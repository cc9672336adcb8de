"""Vector quantisation whose codes are moving averages of their vectors: k-means in the plain.

VQ-VAE (arXiv 1711.00937), appendix A.1, with dead codes replaced as VideoGPT and T2M-GPT do.
Differences: no smoothing of the counts, which would draw rare codes to the origin; codes without
vectors stay where they are; "dead" is a share of even use, whatever the batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.protocols import Quantized
from worldmodels.quantizers.gradients import GRADIENTS
from worldmodels.quantizers.nearest import nearest
from worldmodels.quantizers.usage import DEAD, Usage, match


class VQEuclid(nn.Module):
    """Assigns vectors to the nearest of `size` codes, which are no parameters.

    tokens: positions of a frame. decay: how much of the old average an update keeps. commitment:
    weight of mean((z - code)^2). Codes with a tenth of their share of vectors, or less, move onto
    random vectors in the first `revive_updates` updates, and later while usage entropy is below
    `revive_below` bits. gradient: a name in `GRADIENTS`.

    `hits` (size,) is N in the paper's terms, its sums M are hits * codebook: a code that is
    replaced cannot keep the old ones. It starts at 0, so that codes are replaced often while the
    encoder is new (codes seeded there are soon left behind) and seldom once the average is full.
    """

    codebook: Tensor
    hits: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        tokens: int,
        size: int,
        dim: int,
        decay: float,
        commitment: float,
        revive_updates: int,
        revive_below: float,
        gradient: str,
    ) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.decay, self.commitment, self.gradient = decay, commitment, GRADIENTS[gradient]
        self.revive_updates, self.revive_below = revive_updates, revive_below
        self.register_buffer("codebook", torch.randn(size, dim))
        self.register_buffer("hits", torch.zeros(size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.usage = Usage(size, tokens)

    def forward(self, z: Tensor) -> Quantized:
        """The value of the code; the loss (...) is the commitment of each vector."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            codes = nearest(z, self.codebook)
            code = self.codebook[codes]
            loss = self.commitment * (z - code).square().mean(-1)
            return Quantized(self.gradient(z, code), codes, loss, {"commit": loss})

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,dim) of codes (...)."""
        return self.codebook[codes]

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Move used codes towards the mean of their vectors; never waits for the host."""
        counts = self.usage.count(codes, weight)
        codes, weight = codes.flatten(), weight.flatten().float()
        z = z.float().reshape(-1, self.dim)
        hits = counts.sum(0)
        sums = torch.zeros_like(self.codebook).index_add_(0, codes, z * weight[:, None])
        # A batch of nothing but padding is no batch.
        self.hits.lerp_(hits, (1 - self.decay) * hits.any())
        # M / N, as a step from the old code: (g N e + (1-g) n mean) / (g N + (1-g) n).
        rate = (1 - self.decay) * hits / self.hits
        moved = self.codebook.lerp(sums / hits.clamp_min(1)[:, None], rate[:, None])
        self.codebook.copy_(torch.where(hits[:, None] > 0, moved, self.codebook))
        revived = self._revive(z, weight)
        self.updates += 1
        return {"codes_revived": revived, **self.usage.metrics(counts)}

    def _revive(self, z: Tensor, weight: Tensor) -> Tensor:
        """Move dead codes onto distinct random vectors of the batch; returns how many."""
        allowed = self.usage.entropy() < self.revive_below
        allowed |= self.updates < self.revive_updates
        even = self.hits.mean()
        codes, vectors, chosen = match(self.hits <= DEAD * even, weight, allowed)
        self.codebook[codes] = torch.where(chosen[:, None], z[vectors], self.codebook[codes])
        self.hits[codes] = torch.where(chosen, even, self.hits[codes])
        self.usage.revive(codes, chosen)
        return chosen.sum().float()
