"""How the codes of a quantizer are used: what is logged, and which codes are dead.

Axes: N frames, K positions of a frame, V codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WINDOW = 100
DEAD = 0.1


class Usage(nn.Module):
    """Counts codes by position; nothing in it waits for the host.

    size: V. tokens: K. decay: how much of the old frequencies an update keeps. `share` (V,) holds
    moving frequencies, `idle` (V,) the batches since a code was last chosen.
    """

    share: Tensor
    idle: Tensor

    def __init__(self, size: int, tokens: int, decay: float = 0.98) -> None:
        super().__init__()
        self.size, self.tokens, self.decay = size, tokens, decay
        self.register_buffer("share", torch.full((size,), 1 / size))
        self.register_buffer("idle", torch.full((size,), WINDOW))

    @torch.no_grad()
    def count(self, codes: Tensor, weight: Tensor) -> Tensor:
        """Take in a batch; returns how often each position chose each code, (K,V).

        codes and weight: (...,K), or flat with the positions of a frame side by side. Weight 0 is
        padding; a batch of nothing else changes nothing.
        """
        flat, weight = codes.flatten(), weight.flatten().float()
        position = torch.arange(len(flat), device=codes.device) % self.tokens
        counts = torch.zeros(self.tokens * self.size, device=codes.device)
        counts.index_add_(0, position * self.size + flat, weight)
        hits = counts.view(self.tokens, self.size).sum(0)
        some = hits.sum() > 0
        share = self.share.lerp(hits / hits.sum().clamp_min(1), 1 - self.decay)
        self.share.copy_(torch.where(some, share, self.share))
        self.idle.copy_(torch.where(hits > 0, 0, self.idle + some))
        return counts.view(self.tokens, self.size)

    def dead(self) -> Tensor:
        """(V,) bool: codes used less than a tenth of evenly."""
        return self.share < DEAD / self.size

    def entropy(self) -> Tensor:
        """Of the moving frequencies, in bits."""
        return entropy(self.share)

    @torch.no_grad()
    def revive(self, codes: Tensor, chosen: Tensor) -> None:
        """Count `codes` (M,) as used evenly where chosen (M,); the frequencies sum to 1 again."""
        self.share[codes] = torch.where(chosen, 1 / self.size, self.share[codes])
        self.share /= self.share.sum()

    def metrics(self, counts: Tensor) -> dict[str, Tensor]:
        """What is logged of a batch with `counts` (K,V), and of those before it.

        perplexity: of all tokens of the batch. slot_perplexity: mean over positions of the same
        at one position; near 1 where each position repeats itself, whatever the other number
        says. code_usage: share of codes in the batch; codes_in_use: codes in the last `WINDOW`
        batches; dead_codes: codes whose moving frequency is below a tenth of even.
        """
        hits = counts.sum(0)
        slots = counts / counts.sum(1, keepdim=True).clamp_min(1)
        return {
            "perplexity": perplexity(hits / hits.sum().clamp_min(1)),
            "slot_perplexity": perplexity(slots).mean(),
            "code_usage": (hits > 0).float().mean(),
            "codes_in_use": (self.idle < WINDOW).sum().float(),
            "dead_codes": self.dead().sum().float(),
            "usage_entropy": self.entropy(),
        }

    def update(self, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Take in a batch as `count` does; returns `metrics`."""
        return self.metrics(self.count(codes, weight))


def entropy(p: Tensor) -> Tensor:
    """Entropy in bits of frequencies (...,V); zero entries count nothing."""
    return -torch.special.xlogy(p, p).sum(-1) / math.log(2)


def perplexity(p: Tensor) -> Tensor:
    """Of frequencies (...,V): how many codes, used evenly, would be as hard to guess."""
    return torch.exp2(entropy(p))


def match(dead: Tensor, weight: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pair dead codes with vectors at random, each at most once, without a data-dependent shape.

    dead (V,) bool; weight (M,), 0 for padding; allowed () bool, False pairs none. Returns codes
    (R,), vectors (R,) and which of these pairs count, chosen (R,). Draws from torch's generator.
    """
    room = min(len(dead), len(weight))
    # Dead codes first and real vectors first, each in random order; pair them up to the
    # smaller number. Sorting keeps shapes static where boolean indexing would not.
    noise = torch.rand(len(dead), device=dead.device)
    codes = (noise + ~dead).argsort()[:room]
    vectors = (torch.rand_like(weight.float()) + (weight == 0)).argsort()[:room]
    count = torch.minimum(dead.sum(), (weight != 0).sum()) * allowed
    return codes, vectors, torch.arange(room, device=dead.device) < count
