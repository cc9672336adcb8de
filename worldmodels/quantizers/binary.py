"""Binary codes: each number of a vector gives one bit, its sign.

LFQ (arXiv 2310.05737) and BSQ (arXiv 2406.07548), with the terms that ask for sure bits in each
vector (low entropy) and for all codes over many vectors (high entropy of the mean). Differences:
the second term is per position, because constants that differ between positions would please one
over all; and it takes the mean of code probabilities from the updates before, not from the batch
at hand, so that it costs each vector by itself: padding has no say, and an update in slices of the
batch equals one in a piece.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.protocols import Quantized
from worldmodels.quantizers.gradients import straight_through
from worldmodels.quantizers.usage import Usage

# Probabilities below this count as this: what an unused code can gain is bounded.
FLOOR = 1e-5


class LFQ(nn.Module):
    """Codes of `bits` signs +1 or -1, the first number the highest bit; 0 is negative.

    tokens: positions of a frame. The loss of a vector is commitment * mean((z - code)^2) plus
    entropy_weight * (entropy of its soft bits - gamma * its share of the mean's entropy), in
    nats. Bits are soft by a softmax over all codes of -|z - code|^2 / temperature, in which each
    bit is independent: sigmoid(4 z scale / temperature). entropy: "exact", over the mean
    probability of each code, or "factorised", over that of each bit by itself, an upper bound
    that lets bits repeat each other. z and temperature are one knob: sure bits learn nothing.

    `mean` (tokens, 2^bits or bits) keeps mean_decay of itself in an update; at 0 it is that of
    the batch before. As the gradient of an entropy is linear in the probabilities once their
    mean is given, a vector's share is -sum(p log mean): value and gradient are those of the
    batch's own entropy where mean is the batch's. Small batches want a longer mean, but not much:
    LFQ at 0.9 pleased it by flipping all bits of all vectors together, to and fro. The first
    updates are averaged evenly, because bits get sure before a mean that starts even objects.
    """

    mean: Tensor
    updates: Tensor
    powers: Tensor

    def __init__(
        self,
        *,
        tokens: int,
        bits: int,
        commitment: float,
        entropy_weight: float,
        gamma: float,
        temperature: float,
        entropy: str,
        mean_decay: float,
    ) -> None:
        super().__init__()
        self.size, self.dim, self.commitment = 2**bits, bits, commitment
        self.entropy_weight, self.gamma = entropy_weight, gamma
        self.temperature, self.mean_decay = temperature, mean_decay
        self.exact = {"exact": True, "factorised": False}[entropy]
        kept, even = (self.size, 1 / self.size) if self.exact else (bits, 0.5)
        self.register_buffer("mean", torch.full((tokens, kept), even))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        powers = [2**i for i in reversed(range(bits))]
        self.register_buffer("powers", torch.tensor(powers), persistent=False)
        self.usage = Usage(self.size, tokens)

    def forward(self, z: Tensor) -> Quantized:
        """z (...,tokens,bits); the gradient goes straight to z, on the sphere for BSQ."""
        with torch.autocast(z.device.type, enabled=False):
            z = self._placed(z.float())
            code = torch.where(z > 0, self.scale, -self.scale)
            codes = ((z > 0) * self.powers).sum(-1)
            logits = self._logits(z)
            own = _binary_entropy(logits).sum(-1) - self.gamma * self._share(logits)
            parts = {
                "commit": self.commitment * (z - code).square().mean(-1),
                "entropy": self.entropy_weight * own,
            }
            loss = parts["commit"] + parts["entropy"]
            return Quantized(straight_through(z, code), codes, loss, parts)

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,bits) of codes (...)."""
        return torch.where(codes[..., None] // self.powers % 2 == 1, self.scale, -self.scale)

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Take the batch's soft codes into their mean."""
        z = self._placed(z.float().reshape(-1, len(self.mean), self.dim))
        weight = weight.reshape(-1, len(self.mean), 1).float()
        probability = self._soft(self._logits(z))
        seen = weight.sum(0)
        mean = (probability * weight).sum(0) / seen.clamp_min(1)
        rate = (1 / (self.updates + 1)).clamp_min(1 - self.mean_decay)
        self.mean.copy_(torch.where(seen > 0, self.mean.lerp(mean, rate), self.mean))
        self.updates += 1
        metrics = self.usage.update(codes, weight)
        return {**metrics, "soft_entropy": self._mean_entropy()}

    @property
    def scale(self) -> float:
        """The size of each number of a code."""
        return 1.0

    def _placed(self, z: Tensor) -> Tensor:
        """Where vectors are before their signs are taken."""
        return z

    def _logits(self, z: Tensor) -> Tensor:
        """Of each bit being 1."""
        return 4 * self.scale / self.temperature * z

    def _soft(self, logits: Tensor) -> Tensor:
        """Probabilities of each code (...,2^bits), or of each bit (...,bits)."""
        if not self.exact:
            return logits.sigmoid()
        probability = torch.ones_like(logits[..., :1])
        for bit in logits.sigmoid().unbind(-1):
            pair = torch.stack((1 - bit, bit), -1)
            probability = (probability[..., None] * pair[..., None, :]).flatten(-2)
        return probability

    def _share(self, logits: Tensor) -> Tensor:
        """Each vector's share (...) of the entropy of the mean."""
        p = self._soft(logits)
        share = -(p * self.mean.clamp_min(FLOOR).log()).sum(-1)
        if not self.exact:
            share = share - ((1 - p) * (1 - self.mean).clamp_min(FLOOR).log()).sum(-1)
        return share

    def _mean_entropy(self) -> Tensor:
        """Entropy of the moving mean in nats, averaged over positions."""
        share = -torch.special.xlogy(self.mean, self.mean).sum(-1)
        if not self.exact:
            share = share - torch.special.xlogy(1 - self.mean, 1 - self.mean).sum(-1)
        return share.mean()


class BSQ(LFQ):
    """LFQ on the unit sphere: signs of +bits^-0.5 and -bits^-0.5, which need no commitment.

    No vector is farther than sqrt(2) from its code, so one temperature fits all.
    """

    @property
    def scale(self) -> float:
        """The size of each number of a code."""
        return float(self.dim**-0.5)

    def _placed(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1)


def _binary_entropy(logits: Tensor) -> Tensor:
    """Of sigmoid(logits), in nats, with finite gradients however large the logits are."""
    p = logits.sigmoid()
    return F.softplus(logits) - p * logits
