"""What all samplers share: the loop of calls, and how a token is drawn.

Nothing here or in a sampler depends on the values of tensors in its shapes or its branches, and
nothing waits for the device.
Axes: B rows, N tokens of a frame, V vocabulary; the mask has id V.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.diffusion.draws import Rand, categorical, log_probs, uniforms

Denoise = Callable[[Tensor], Tensor]
"""Logits (B,N,V) of the clean tokens of frames z (B,N) in 0..V; some may be -inf, but not all."""


@dataclass(frozen=True)
class Step:
    """Frames part of the way."""

    z: Tensor
    """(B,N) int64 in 0..V."""
    prob: Tensor
    """(B,N): how likely each token was thought when it was written; 0 of masks, 1 of the given."""


@dataclass(frozen=True)
class Sampled:
    """Finished frames, and how they came about."""

    z: Tensor
    """(B,N) int64 in 0..V-1."""
    trace: tuple[Step, ...]
    """The frames after each call; the last are z."""


class Sampler(ABC):
    """Turns noise into frames in `steps` steps, with `calls` calls of a denoiser.

    temperature divides logits; top_k, if not None, leaves that many tokens of each place, and all
    that are as likely as the last of them. Raises ValueError for a temperature that is not above
    0, or fewer than one step or top_k.
    """

    def __init__(
        self,
        *,
        tokens: int,
        vocab: int,
        steps: int,
        temperature: float = 1.0,
        top_k: int | None = None,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"a temperature must be above 0, not {temperature}")
        for name, number in (("steps", steps), ("top_k", top_k)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        self.tokens, self.vocab = tokens, vocab
        self.steps = self.calls = steps
        self.temperature, self.top_k = temperature, top_k

    @abstractmethod
    def __call__(self, denoise: Denoise, z0: Tensor, rand: Rand | None = None) -> Sampled:
        """Frames from z0 (B,N), which are masks or noise of the kernel that was trained with.

        rand: if None, torch's global generator of the device.
        """

    def begin(self, z0: Tensor) -> Step:
        """Before the first call."""
        return Step(z0, (~self.masked(z0)).float())

    def predict(self, logits: Tensor) -> Tensor:
        """Log-probabilities (B,N,V) to draw from."""
        logits = log_probs(logits) / self.temperature
        if self.top_k is not None and self.top_k < self.vocab:
            least = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        return logits.log_softmax(-1)

    def masked(self, z: Tensor) -> Tensor:
        """bool (B,N): where z has a mask."""
        return z == self.vocab


class Stepwise(Sampler):
    """A sampler that calls the denoiser once a step."""

    def __call__(self, denoise: Denoise, z0: Tensor, rand: Rand | None = None) -> Sampled:
        """See Sampler."""
        rand = rand or uniforms(z0.device)
        now, trace = self.begin(z0), []
        for k in range(self.steps):
            now = self.step(k, now, self.predict(denoise(now.z)), rand)
            trace.append(now)
        return Sampled(now.z, tuple(trace))

    @abstractmethod
    def step(self, k: int, now: Step, logp: Tensor, rand: Rand) -> Step:
        """What follows call k of 0..steps-1, which predicted logp (B,N,V) of now.z."""


def draw(logp: Tensor, rand: Rand) -> tuple[Tensor, Tensor]:
    """A token for every place (B,N) from logp (B,N,V), and its log-probability (B,N)."""
    token = categorical(logp, rand(tuple(logp.shape[:-1])))
    return token, logp.gather(-1, token[..., None])[..., 0]


def write(now: Step, where: Tensor, token: Tensor, logp: Tensor) -> Step:
    """Put tokens (B,N) of log-probabilities (B,N) where the bool (B,N) says."""
    prob = torch.where(where, logp.exp().to(now.prob.dtype), now.prob)
    return Step(torch.where(where, token, now.z), prob)


def hide(now: Step, where: Tensor, mask: int) -> Step:
    """Put masks where the bool (B,N) says."""
    return Step(now.z.masked_fill(where, mask), now.prob.masked_fill(where, 0))
