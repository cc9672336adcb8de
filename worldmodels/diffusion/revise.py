"""Samplers that draw tokens anew after they were shown.

They need a denoiser that knows what to make of a wrong token, or hides it before it asks.
Axes: B rows, N tokens of a frame, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from worldmodels.diffusion.draws import Rand, gumbel, ranks, uniforms
from worldmodels.diffusion.sampling import (
    Denoise,
    Sampled,
    Sampler,
    Step,
    Stepwise,
    draw,
    hide,
    write,
)
from worldmodels.diffusion.schedules import groups

VISIBLE = ("resample", "keep")


class Copilot4D(Stepwise):
    """Shows ever more places, those with the likeliest tokens, and draws shown ones anew.

    Copilot4D (arXiv 2311.01017, algorithm 2). The score of a place is log p(token) + noise k/K
    Gumbel, k being the calls left. visible: "resample" draws shown tokens, also those of z0, in
    every call, for denoisers trained on all tokens; "keep" leaves them alone, for those trained on
    masked tokens only. shape: see `groups`; the paper's is "copilot", MaskGIT's "cosine". Raises
    ValueError for another word, or for more steps than tokens: drawing anew without new noise
    drifts away from the data.
    """

    def __init__(
        self,
        *,
        visible: str = "resample",
        shape: str = "copilot",
        noise: float = 1.0,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        if visible not in VISIBLE:
            raise ValueError(f"{visible!r} is not one of {', '.join(VISIBLE)}")
        self.visible, self.noise = visible, noise
        self.shown = tuple(accumulate(groups(self.tokens, self.steps, shape)))

    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """See Stepwise."""
        token, score = draw(logp, rand)
        masked = self.masked(now.z)
        noise = self.noise * (self.steps - 1 - k) / self.steps
        last = -(score + noise * gumbel(rand(tuple(now.z.shape))))
        shown = ranks(last.masked_fill(~masked, -torch.inf)) < self.shown[k]
        if self.visible == "keep":
            return write(now, shown & masked, token, score)
        return write(now, shown | ~masked, token, score)


class Gibbs(Sampler):
    """Hides places group by group, in random order, and draws them anew given all others.

    Its calls are `sweeps` times `steps`; each sweep hides every place once. From masks, the first
    sweep is `random` and the others correct it; from the frames that another sampler finished, all
    correct. One place at a time, that leaves the law alone which the denoiser knows, and leads
    there from any other; more at a time neglect how they depend on each other. Raises ValueError
    for more steps than tokens, or no sweeps.
    """

    def __init__(self, *, sweeps: int = 2, **rest: Any) -> None:
        super().__init__(**rest)
        if sweeps < 1:
            raise ValueError(f"sweeps must be at least 1, not {sweeps}")
        self.calls = sweeps * self.steps
        self.sweeps = sweeps
        self.shown = (0, *accumulate(groups(self.tokens, self.steps, "linear")))

    def __call__(self, denoise: Denoise, z0: Tensor, rand: Rand | None = None) -> Sampled:
        """See Sampler."""
        rand = rand or uniforms(z0.device)
        now, trace = self.begin(z0), []
        for _ in range(self.sweeps):
            order = ranks(rand(tuple(z0.shape)))
            for first, last in pairwise(self.shown):
                where = (order >= first) & (order < last)
                hidden = hide(now, where, self.vocab)
                token, score = draw(self.predict(denoise(hidden.z)), rand)
                now = write(hidden, where, token, score)
                trace.append(now)
        return Sampled(now.z, tuple(trace))


Plan = Callable[[Tensor], Tensor]
"""The probability (B,N) that each token of frames z (B,N) is noise."""


class Planned(Sampler):
    """Draws anew the places that a planner thinks noise: DDPD, from uniform noise or from masks.

    arXiv 2410.06264 with a denoiser of masks, several places a call. A step picks
    places in proportion to the planner's probabilities, and before it asks the denoiser hides
    them, and each other place with its probability. The last step picks no number but all places
    above `finish`. A masked place is noise for certain. shape: see `groups`. Without a planner
    the denoiser, which then must be trained on all tokens, says how unlikely a visible token is;
    that takes two calls a step. Raises ValueError for more steps than tokens.
    """

    def __init__(self, *, shape: str = "linear", finish: float = 0.05, **rest: Any) -> None:
        super().__init__(**rest)
        self.calls = 2 * self.steps
        self.groups = groups(self.tokens, self.steps, shape)
        self.finish = finish

    def __call__(
        self, denoise: Denoise, z0: Tensor, rand: Rand | None = None, plan: Plan | None = None
    ) -> Sampled:
        """See Sampler; plan says what to draw anew."""
        rand = rand or uniforms(z0.device)
        now, trace = self.begin(z0), []
        for k, count in enumerate(self.groups):
            masked = self.masked(now.z)
            noise = plan(now.z) if plan else self._doubt(denoise(now.z), now.z)
            noise = noise.clamp_min(0).masked_fill(masked, 1)
            picked = ranks(-(noise.log() + gumbel(rand(tuple(z0.shape))))) < count
            if k + 1 == self.steps:
                picked = masked | (noise > self.finish)
            hidden = hide(now, picked | (rand(tuple(z0.shape)) < noise), self.vocab)
            token, score = draw(self.predict(denoise(hidden.z)), rand)
            now = write(now, picked, token, score)
            trace.append(now)
        return Sampled(now.z, tuple(trace))

    def _doubt(self, logits: Tensor, z: Tensor) -> Tensor:
        """1 - p(x_i = z_i | z), and whatever (B,N) at masks."""
        visible = z.clamp_max(self.vocab - 1)[..., None]
        return -self.predict(logits).gather(-1, visible)[..., 0].expm1()
