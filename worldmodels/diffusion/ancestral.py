"""Samplers that follow a kernel back in time, along a grid of evenly spaced times.

As a grid of times wastes calls, and leaves it to chance how many places a call changes, `random`
needs fewer calls of a denoiser of masks. There may be more steps than tokens.
Axes: B rows, N tokens of a frame, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldmodels.diffusion.draws import Rand, categorical
from worldmodels.diffusion.kernels import Kernel, mixture_step
from worldmodels.diffusion.sampling import Step, Stepwise, draw, hide, write
from worldmodels.diffusion.schedules import Linear, Schedule, alphas


class Ancestral(Stepwise):
    """Shows each masked place with a probability of its own: the posterior of masks.

    MDLM (arXiv 2406.07524), in two draws: first whether, then which token. In one
    draw among V+1, float32 would make rare tokens rarer (arXiv 2409.02908).
    """

    def __init__(self, *, schedule: Schedule | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.alphas = alphas(schedule or Linear(), self.steps)

    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """See Stepwise."""
        before, after = self.alphas[k : k + 2]
        token, score = draw(logp, rand)
        shown = rand(tuple(now.z.shape)) >= (1 - after) / (1 - before)
        return write(now, shown & self.masked(now.z), token, score)


Rule = Callable[[float, float, Step, Tensor], Tensor | float]
"""Probabilities (B,N) to mask again: of the largest allowed, strength, frames, which are masked."""


def _cap(limit: float, strength: float, now: Step, masked: Tensor) -> float:
    return min(strength, limit)


def _rescale(limit: float, strength: float, now: Step, masked: Tensor) -> float:
    return strength * limit


def _conf(limit: float, strength: float, now: Step, masked: Tensor) -> Tensor:
    doubt = (-now.prob).exp().masked_fill(masked, 0)
    # Where all is masked there is nothing to share.
    return strength * limit * doubt / doubt.sum(-1, keepdim=True).clamp_min(1e-9)


RULES: dict[str, Rule] = {"cap": _cap, "rescale": _rescale, "conf": _conf}


class Remask(Stepwise):
    """As Ancestral, but also masks some visible tokens again, and shows so many more: ReMDM.

    arXiv 2503.00307. How likely a visible token is masked again, of the most that is
    possible: "cap" no more than strength; "rescale" that times strength; "conf" that times
    strength, shared out among a row's visible tokens, more to those that were unlikely when
    written. strength is in [0,1]; 0 is Ancestral. The paper's 0.008 to 0.04 are for 1,000 steps;
    with few steps they do nothing. As in the authors' code, "conf" does not make up for what it
    masks, so it shows fewer tokens than the schedule until the last step. Tokens of z0 may be
    masked too. Raises ValueError for another rule or strength.
    """

    def __init__(
        self,
        *,
        schedule: Schedule | None = None,
        rule: str = "rescale",
        strength: float = 0.1,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        if rule not in RULES:
            raise ValueError(f"{rule!r} is no rule of remasking; choose from {', '.join(RULES)}")
        if not 0 <= strength <= 1:
            raise ValueError(f"the strength of remasking is in [0,1], not {strength}")
        self.alphas = alphas(schedule or Linear(), self.steps)
        self.rule, self.strength = RULES[rule], strength

    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """See Stepwise."""
        before, after = self.alphas[k : k + 2]
        masked = self.masked(now.z)
        limit = min(1.0, (1 - after) / before) if before else 1.0
        again = self.rule(limit, self.strength, now, masked)
        token, score = draw(logp, rand)
        u = rand(tuple(now.z.shape))
        # Of the kept masks, not of the shown tokens: this is exactly 0 in the last step.
        stay = ((1 - after) - torch.where(masked, again, 0) * before) / (1 - before)
        shown = write(now, masked & (u >= stay), token, score)
        return hide(shown, ~masked & (u < again), self.vocab)


class Reverse(Stepwise):
    """The reverse of any kernel, of visible tokens too: for uniform and hybrid noise.

    The denoiser is one trained by cross-entropy on all tokens; see `mixture_step`. Like Ancestral,
    it first draws whether there is a mask, then which token. Exact in the limit of many steps for a
    denoiser that knows the time; one that has to guess it from the frame, as `Diffusion`, errs.
    """

    def __init__(self, *, kernel: Kernel, **rest: Any) -> None:
        super().__init__(**rest)
        self.kernel = kernel

    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """See Stepwise."""
        # Filled on the device: copying a number there would wait.
        t, s = (logp.new_full((), 1 - j / self.steps) for j in (k, k + 1))
        law = mixture_step(self.kernel, s, t, now.z, logp.exp())
        token = categorical(law[..., :-1].log(), rand(tuple(now.z.shape)))
        masked = rand(tuple(now.z.shape)) < law[..., -1]
        if k + 1 == self.steps:
            masked = torch.zeros_like(masked)
        score = logp.gather(-1, token[..., None])[..., 0]
        return hide(write(now, ~masked, token, score), masked, self.vocab)
