"""Random numbers for diffusion, and what is drawn from them.

Whatever draws takes a `Rand`, so that a row can have numbers of its own: what it becomes then does
not depend on the rows beside it.
Axes: B rows, N tokens of a frame, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Rand = Callable[[tuple[int, ...]], Tensor]
"""Uniform numbers in [0,1) of a shape whose first axis is B; float32 or float64."""

# Steele et al. 2014, "Fast splittable pseudorandom number generators": as signed integers.
_STEP, _FIRST, _SECOND = (
    number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_BITS = {torch.float32: 24, torch.float64: 53}


def uniforms(device: torch.device | str, dtype: torch.dtype = torch.float32) -> Rand:
    """Numbers from torch's global generator of the device."""
    return lambda shape: torch.rand(shape, device=device, dtype=dtype)


class RowStreams:
    """Each row's own stream of numbers: the same, whichever rows stand beside it.

    seeds (B,) int64. A row's numbers depend on its seed and on how many it has drawn, not on the
    device, and all rows draw at once: SplitMix64, whose state is a seed scrambled plus a count.
    The count is a tensor, so a recorded graph draws new numbers each time it is replayed.
    Calling it raises ValueError for a shape of other than B rows.
    """

    def __init__(self, seeds: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.key = scramble(seeds.long())
        self.count = torch.zeros((), dtype=torch.int64, device=seeds.device)
        self.dtype = dtype

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """The next numbers of every row."""
        if shape[0] != len(self.key):
            raise ValueError(f"{len(self.key)} rows have streams, not {shape[0]}")
        size, bits = math.prod(shape[1:]), _BITS[self.dtype]
        place = self.count + torch.arange(1, size + 1, device=self.key.device)
        drawn = scramble(self.key[:, None] + place * _STEP)
        self.count += size
        return (_shifted(drawn, 64 - bits).to(self.dtype) * 2.0**-bits).view(shape)


def scramble(bits: Tensor) -> Tensor:
    """SplitMix64's one-to-one map of int64 (...) to int64 that look random."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """int64 (...) shifted to the right, zeros coming in: `>>` alone repeats the sign."""
    return (bits >> by) & (2 ** (64 - by) - 1)


def log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities (...,V) of logits (...,V): float64 stays, all else becomes float32.

    Sampling from log-probabilities of 16 bits sharpens a distribution (arXiv 2409.02908).
    """
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def entropy(logp: Tensor) -> Tensor:
    """Entropy (...) in nats of log-probabilities (...,V), of which some may be -inf."""
    return torch.special.entr(logp.exp()).sum(-1)


def categorical(logp: Tensor, u: Tensor) -> Tensor:
    """Classes (...) of log-probabilities (...,V) where their distribution function reaches u (...).

    A class of probability 0 is never drawn.
    """
    reached = logp.exp().cumsum(-1)
    place = u[..., None] * reached[..., -1:]
    return (reached <= place).sum(-1).clamp_max(logp.shape[-1] - 1)


def gumbel(u: Tensor) -> Tensor:
    """Standard Gumbel noise (...) of uniform numbers (...), finite for all of them.

    From -log(1-u), so that large values, which decide, come from small u, which are finely spaced.
    """
    return -(-(-u.clamp_min(torch.finfo(u.dtype).eps / 4)).log1p()).log()


def ranks(score: Tensor) -> Tensor:
    """Rank (...,N) of each score (...,N) in its row: 0 is the smallest; ties by position."""
    return score.argsort(stable=True, dim=-1).argsort(-1)


def integers(u: Tensor, size: int) -> Tensor:
    """int64 (...) in 0..size-1, of uniform numbers (...)."""
    return (u * size).long().clamp_max(size - 1)
