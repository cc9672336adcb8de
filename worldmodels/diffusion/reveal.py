"""Samplers that show masked tokens group by group and never change one that is shown.

All start from masks, and leave alone what z0 already shows: such rows are finished sooner.
Axes: B rows, N tokens of a frame, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodels.diffusion.draws import Rand, entropy, gumbel, ranks
from worldmodels.diffusion.sampling import Step, Stepwise, draw, write
from worldmodels.diffusion.schedules import groups


class Random(Stepwise):
    """Shows a fixed number of places each call, chosen at random.

    With one place a call, a perfect denoiser draws exactly from the data. It is the first-hitting
    sampler (arXiv 2409.02908) with its times left out, as the denoiser does not read them. shape:
    see `groups`. Raises ValueError for more steps than tokens.
    """

    def __init__(self, *, shape: str = "linear", **rest: Any) -> None:
        super().__init__(**rest)
        self.groups = groups(self.tokens, self.steps, shape)

    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """See Stepwise."""
        token, score = draw(logp, rand)
        first = rand(tuple(now.z.shape))
        return write(now, _first(self.groups[k], first, self.masked(now.z)), token, score)


class Confidence(Stepwise):
    """Shows the places whose drawn tokens are likeliest, with noise that ceases: MaskGIT.

    arXiv 2202.04200, section 3.2. The score of a place is log p(token) + noise (1 - j/K) Gumbel
    after call j of K. It prefers likely tokens, so rare events become rarer, even of a perfect
    denoiser; the more noise, the less so. shape: see `groups`; here the number of places shown
    is the same of rows that are partly given. Raises ValueError for more steps than tokens.
    """

    def __init__(self, *, shape: str = "cosine", noise: float = 4.5, **rest: Any) -> None:
        super().__init__(**rest)
        self.groups = groups(self.tokens, self.steps, shape)
        self.noise = noise

    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """See Stepwise."""
        token, score = draw(logp, rand)
        noise = self.noise * (1 - (k + 1) / self.steps)
        last = score + noise * gumbel(rand(tuple(now.z.shape)))
        return write(now, _first(self.groups[k], -last, self.masked(now.z)), token, score)


class _Bounded(Stepwise):
    """Shows as many places a call as cost no more than `budget` nats of dependence.

    Drawing a set of places at once neglects how they depend on each other, which is at most the
    sum of their entropies but for the largest. Rows that are complete wait for the others; the
    last call shows whatever is left, at whatever cost. Raises ValueError for a budget below 0, or
    for more steps than tokens.
    """

    def __init__(self, *, budget: float = 0.2, **rest: Any) -> None:
        super().__init__(**rest)
        groups(self.tokens, self.steps, "linear")  # for its check alone
        if budget < 0:
            raise ValueError(f"a budget of nats must be at least 0, not {budget}")
        self.budget = budget

    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """See Stepwise."""
        token, score = draw(logp, rand)
        masked = self.masked(now.z)
        if k + 1 < self.steps:
            masked = masked & self.within(entropy(logp).masked_fill(~masked, torch.inf))
        return write(now, masked, token, score)

    @abstractmethod
    def within(self, unsure: Tensor) -> Tensor:
        """bool (B,N): what to show, at least one place; unsure (B,N) is inf where none is masked.

        What it says of places that are not masked does not matter.
        """


class EntropyBounded(_Bounded):
    """Of the places within the budget, shows the surest ones (arXiv 2505.24857)."""

    def within(self, unsure: Tensor) -> Tensor:
        """See _Bounded: the sum but for the largest is the sum of those before it."""
        up, order = unsure.sort(stable=True, dim=-1)
        before = F.pad(up.cumsum(-1)[..., :-1], (1, 0))
        return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before <= self.budget)


class EventFirst(_Bounded):
    """Shows the least sure place, and with it the surest ones within the budget.

    Ours. The bound is the same as EntropyBounded's, but what happens by chance is settled first;
    the rest then often follows from it and is shown in one call.
    """

    def within(self, unsure: Tensor) -> Tensor:
        """See _Bounded."""
        masked = unsure.isfinite()
        event = unsure.masked_fill(~masked, -1).argmax(-1, keepdim=True)
        up, order = unsure.scatter(-1, event, torch.inf).sort(stable=True, dim=-1)
        sure = up.cumsum(-1) <= self.budget
        return torch.zeros_like(masked).scatter(-1, order, sure).scatter(-1, event, True)


def _first(count: int, score: Tensor, among: Tensor) -> Tensor:
    """bool (B,N): the places of the `count` smallest finite scores (B,N) among those said."""
    return among & (ranks(score.masked_fill(~among, torch.inf)) < count)
