"""How clean frames become noised ones in training, by the name that a preset selects.

Axes: N tokens of a frame, V vocabulary; the mask has id V. Leading axes (...) are frames, B first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodels.diffusion.draws import Rand, integers, ranks, uniforms
from worldmodels.diffusion.schedules import Schedule


@dataclass(frozen=True)
class Noised:
    """Noised frames, and which of their tokens are to be predicted."""

    z: Tensor
    """(...,N) int64 in 0..V."""
    scored: Tensor
    """(...,N) bool."""
    level: Tensor
    """(...): how many tokens are masked, or the time in (0,1) of a kernel that has times."""
    weight: Tensor | None = None
    """(...): times the mean -log p of a frame's scored tokens, an unbiased estimate of its bound.

    See `count_bound`. None of noise whose scored tokens give none.
    """


class Process(Protocol):
    """Makes noise of clean frames: for training, and to start a sampler from.

    `masks`: whether a frame that is nothing but noise has only masks.
    """

    vocab: int
    masks: bool

    def corrupt(self, tokens: Tensor, rand: Rand | None = None) -> Noised:
        """Noised copies of clean tokens (...,N), each frame with a level of its own."""

    def prior(self, shape: tuple[int, ...], rand: Rand) -> Tensor:
        """Nothing but noise: frames (B,...,N), on the device that rand draws on."""


def cosine_counts(u: Tensor, tokens: int) -> Tensor:
    """Counts in 1..N of uniform numbers: often many, as in MaskGIT, sampling's first calls."""
    return (tokens * (math.pi / 2 * u).cos()).ceil().long().clamp(1, tokens)


def uniform_counts(u: Tensor, tokens: int) -> Tensor:
    """Counts in 1..N, each as likely as the next."""
    return integers(u, tokens) + 1


def cosine_law(counts: Tensor, tokens: int) -> Tensor:
    """The probability of each count under `cosine_counts`."""
    fewer, as_many = (counts - 1) / tokens, counts / tokens
    return 2 / math.pi * (fewer.acos() - as_many.acos())


def uniform_law(counts: Tensor, tokens: int) -> Tensor:
    """The same under `uniform_counts`."""
    return torch.ones_like(counts) / tokens


COUNTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cosine": cosine_counts,
    "uniform": uniform_counts,
}
LAWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cosine": cosine_law,
    "uniform": uniform_law,
}


def choose(counts: Tensor, rand: Rand, tokens: int) -> Tensor:
    """bool (...,N): in each frame as many places as counts (...) says, all sets as likely."""
    return ranks(rand((*counts.shape, tokens))) < counts[..., None]


class Absorbing:
    """Masks tokens, never to be changed again until they are predicted.

    schedule is for `alpha` and the like; training draws how many tokens are masked, not a time.
    counts: "cosine" or "uniform". Of uniform counts the loss, times N, is the bound.
    """

    masks = True

    def __init__(self, *, vocab: int, schedule: Schedule, counts: str) -> None:
        self.vocab, self.schedule = vocab, schedule
        self._counts, self._law = COUNTS[counts], LAWS[counts]

    def corrupt(self, tokens: Tensor, rand: Rand | None = None) -> Noised:
        """See Process; scores masked tokens, of which there is at least one."""
        rand, places = rand or uniforms(tokens.device), tokens.shape[-1]
        counts = self._counts(rand(tuple(tokens.shape[:-1])), places)
        masked = choose(counts, rand, places)
        weight = 1 / self._law(counts, places)
        return Noised(tokens.masked_fill(masked, self.vocab), masked, counts, weight)

    def prior(self, shape: tuple[int, ...], rand: Rand) -> Tensor:
        """See Process; all masks."""
        return _masks(shape, self.vocab, rand)

    def alpha(self, t: Tensor) -> Tensor:
        """See Kernel."""
        return self.schedule.alpha(t)

    def noise(self, t: Tensor) -> Tensor:
        """See Kernel."""
        return _last((1 - self.alpha(t))[..., None], self.vocab)

    def rate(self, t: Tensor) -> Tensor:
        """See Kernel."""
        return _last((-self.schedule.slope(t) / self.alpha(t))[..., None], self.vocab)


class Uniform:
    """Replaces tokens by any of the vocabulary, with a probability that grows with time."""

    masks = False

    def __init__(self, *, vocab: int, schedule: Schedule) -> None:
        self.vocab, self.schedule = vocab, schedule

    def corrupt(self, tokens: Tensor, rand: Rand | None = None) -> Noised:
        """See Process; scores every token."""
        return _timed(self, tokens, rand)

    def prior(self, shape: tuple[int, ...], rand: Rand) -> Tensor:
        """See Process; tokens of any id."""
        return integers(rand(shape), self.vocab)

    def alpha(self, t: Tensor) -> Tensor:
        """See Kernel."""
        return self.schedule.alpha(t)

    def noise(self, t: Tensor) -> Tensor:
        """See Kernel."""
        return _spread(1 - self.alpha(t), self.vocab)

    def rate(self, t: Tensor) -> Tensor:
        """See Kernel."""
        return _spread(-self.schedule.slope(t) / self.alpha(t), self.vocab)


class Hybrid:
    """Ends in masks, with replaced tokens on the way: `replaced` of them at t = 1/2.

    GIDD (arXiv 2503.04482) with gamma = 1; replaced in [0,1). Its schedule is its own.
    """

    masks = True

    def __init__(self, *, vocab: int, replaced: float) -> None:
        self.vocab = vocab
        self._scale = 2 * replaced / (1 - replaced)

    def corrupt(self, tokens: Tensor, rand: Rand | None = None) -> Noised:
        """See Process; scores every token."""
        return _timed(self, tokens, rand)

    def prior(self, shape: tuple[int, ...], rand: Rand) -> Tensor:
        """See Process; all masks."""
        return _masks(shape, self.vocab, rand)

    def alpha(self, t: Tensor) -> Tensor:
        """See Kernel."""
        return (1 - t) / (1 + self._c(t))

    def noise(self, t: Tensor) -> Tensor:
        """See Kernel."""
        c = self._c(t)
        return torch.cat([_spread(c, self.vocab)[..., :-1], t[..., None]], -1) / (1 + c[..., None])

    def rate(self, t: Tensor) -> Tensor:
        """See Kernel; t also above 0, where c has no slope."""
        c = self._c(t)
        grown = c + self._scale * (1 - t) * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())
        jumps = torch.cat([_spread(grown, self.vocab)[..., :-1], torch.ones_like(t)[..., None]], -1)
        return jumps / ((1 - t) * (1 + c))[..., None]

    def _c(self, t: Tensor) -> Tensor:
        return self._scale * (t * (1 - t)).sqrt()


class Copilot4D:
    """Masks tokens, and replaces some of the others by any of the vocabulary.

    Copilot4D (arXiv 2311.01017, algorithm 1): in each frame a share u of the tokens left, u being
    uniform up to `replaced` (0.2 in the paper). All tokens are scored, so visible ones are learned
    to be kept or mended. The paper replaces a whole number of tokens, rounded down, which in a
    frame of 4 is none; here each is replaced with the probability u. counts as in Absorbing.
    """

    masks = True

    def __init__(self, *, vocab: int, replaced: float, counts: str) -> None:
        self.vocab, self.replaced = vocab, replaced
        self._counts = COUNTS[counts]

    def corrupt(self, tokens: Tensor, rand: Rand | None = None) -> Noised:
        """See Process; scores every token."""
        rand = rand or uniforms(tokens.device)
        frames, shape = tuple(tokens.shape[:-1]), tuple(tokens.shape)
        counts = self._counts(rand(frames), tokens.shape[-1])
        masked = choose(counts, rand, tokens.shape[-1])
        share = rand(frames)[..., None] * self.replaced
        z = torch.where(rand(shape) < share, integers(rand(shape), self.vocab), tokens)
        return Noised(z.masked_fill(masked, self.vocab), torch.ones_like(masked), counts)

    def prior(self, shape: tuple[int, ...], rand: Rand) -> Tensor:
        """See Process; all masks."""
        return _masks(shape, self.vocab, rand)


PROCESSES: dict[str, Callable[..., Process]] = {
    "absorbing": Absorbing,
    "uniform": Uniform,
    "hybrid": Hybrid,
    "copilot4d": Copilot4D,
}


def noised_at(kernel: Uniform | Hybrid, tokens: Tensor, t: Tensor, rand: Rand) -> Tensor:
    """z (...,N) of clean tokens (...,N) at the times t (...) of their frames."""
    u, shape = rand(tuple(tokens.shape)), tuple(tokens.shape)
    alpha, mask = kernel.alpha(t)[..., None], kernel.noise(t)[..., -1:]
    z = torch.where(u < alpha, tokens, integers(rand(shape), kernel.vocab))
    return z.masked_fill((u >= alpha) & (u < alpha + mask), kernel.vocab)


def _timed(kernel: Uniform | Hybrid, tokens: Tensor, rand: Rand | None) -> Noised:
    rand = rand or uniforms(tokens.device)
    # At the very ends the weights of the bound are infinite.
    t = rand(tuple(tokens.shape[:-1])).clamp(1e-4, 1 - 1e-4)
    z = noised_at(kernel, tokens, t, rand)
    return Noised(z, torch.ones_like(z, dtype=torch.bool), t)


def _masks(shape: tuple[int, ...], vocab: int, rand: Rand) -> Tensor:
    # Nothing is random here; the numbers only tell the device.
    return torch.full_like(rand(shape), vocab, dtype=torch.int64)


def _last(mass: Tensor, vocab: int) -> Tensor:
    """(...,V+1) with all of mass (...,1) on the mask."""
    return F.pad(mass, (vocab, 0))


def _spread(mass: Tensor, vocab: int) -> Tensor:
    """(...,V+1) with mass (...) spread over the vocabulary, none on the mask."""
    return F.pad((mass / vocab)[..., None].expand(*mass.shape, vocab), (0, 1))
