"""The exact law of what a sampler draws: its own steps, fed with every case of its numbers.

Axes: S all (V+1)^N states of a frame, C cases of what is drawn, N tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from tests.denoisers import number, states
from worldmodels.diffusion import SAMPLERS
from worldmodels.diffusion.sampling import Denoise, Step, Stepwise

Cases = tuple[Tensor, Tensor]
"""Uniform numbers (S,C,N), and how likely (S,C) each case is."""
Draw = Callable[[Tensor, Tensor], Cases]
"""The cases of one draw, of states (S,N) and log-probabilities (S,N,V)."""


def sampler(name: str, tokens: int, vocab: int, steps: int, **rest: Any) -> Any:
    """A sampler by its name."""
    return SAMPLERS[name](tokens=tokens, vocab=vocab, steps=steps, **rest)


def values(z: Tensor, logp: Tensor) -> Cases:
    """Every token at every place: the middle of its share of the numbers."""
    frames, probs = states(logp.shape[-1], z.shape[-1]), logp.exp()
    middle = probs.cumsum(-1) - probs / 2
    place = torch.arange(z.shape[-1])
    return middle[:, place, frames], probs[:, place, frames].prod(-1)


def orders(z: Tensor, logp: Tensor) -> Cases:
    """Every order of places, all as likely."""
    every = torch.tensor(list(permutations(range(z.shape[-1]))), dtype=torch.float64)
    u = ((every + 0.5) / z.shape[-1]).expand(len(z), -1, -1)
    return u, torch.full(u.shape[:2], 1 / len(every), dtype=torch.float64)


def any_number(z: Tensor, logp: Tensor) -> Cases:
    """Of no consequence."""
    return torch.full((len(z), 1, z.shape[-1]), 0.5).double(), torch.ones(len(z), 1).double()


def coins(low: Tensor) -> Draw:
    """At each place, whether the number is below low (S,N) or not."""

    def draw(z: Tensor, logp: Tensor) -> Cases:
        below = states(2, z.shape[-1]).bool()[None]
        chance = low[:, None]
        u = torch.where(below, chance / 2, (1 + chance) / 2)
        return u, torch.where(below, chance, 1 - chance).prod(-1)

    return draw


def step_matrix(sampler: Stepwise, k: int, denoise: Denoise, *draws: Draw) -> Tensor:
    """The law (S,S) of the states after call k, a row for each before it.

    draws: what the step draws, in order. Written tokens have probability 1/2 for the sampler.
    """
    z = states(sampler.vocab + 1, sampler.tokens)
    logp = sampler.predict(denoise(z))
    numbers: list[Tensor] = []
    weight = torch.ones(len(z), 1).double()
    for draw in draws:
        u, chance = draw(z, logp)
        before, cases = weight.shape[1], chance.shape[1]
        numbers = [one.repeat_interleave(cases, 1) for one in numbers]
        numbers.append(u.repeat(1, before, 1))
        weight = weight.repeat_interleave(cases, 1) * chance.repeat(1, before)
    cases = weight.shape[1]
    left = [one.flatten(0, 1) for one in numbers]
    start = z.repeat_interleave(cases, 0)
    now = Step(start, (start < sampler.vocab) * 0.5)
    after = sampler.step(k, now, logp.repeat_interleave(cases, 0), lambda shape: left.pop(0))
    assert not left
    place = number(after.z, sampler.vocab + 1).view(len(z), cases)
    return torch.zeros(len(z), len(z)).double().scatter_add(1, place, weight)


def pushed(start: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """The law (S,) after steps (S,S), from the law (S,) before."""
    for step in steps:
        start = start @ step
    return start


def all_masks(vocab: int, tokens: int) -> Tensor:
    """The law (S,) of nothing but masks: the last state."""
    law = torch.zeros((vocab + 1) ** tokens).double()
    law[-1] = 1
    return law


def finished(law: Tensor, vocab: int, tokens: int) -> Tensor:
    """The law (V^N,) of frames without masks, which must be all there is."""
    found = law[number(states(vocab, tokens), vocab + 1)]
    torch.testing.assert_close(found.sum(), torch.ones(()).double(), rtol=0, atol=1e-12)
    return found
