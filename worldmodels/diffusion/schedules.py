"""How much of a frame is noise at a time, and how many tokens each call reveals.

Time t runs from 0, clean, to 1, noise. alpha(t) is the probability that a token is still clean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """How alpha falls with time; t (...) in [0,1] gives (...)."""

    def alpha(self, t: Tensor) -> Tensor:
        """The probability that a token is still clean."""

    def slope(self, t: Tensor) -> Tensor:
        """The derivative of alpha by t."""

    def weight(self, t: Tensor) -> Tensor:
        """-slope/(1-alpha): what a masked token's cross-entropy counts in the bound; t above 0."""


@dataclass(frozen=True)
class Poly:
    """alpha = 1 - t^power."""

    power: float = 2.0

    def alpha(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return 1 - t**self.power

    def slope(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return -self.power * t ** (self.power - 1)

    def weight(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return self.power / t


@dataclass(frozen=True)
class Linear(Poly):
    """alpha = 1 - t."""

    power: float = 1.0


@dataclass(frozen=True)
class Cosine:
    """alpha = 1 - cos(pi (1-t) / 2), as in MD4 (arXiv 2406.04329)."""

    def alpha(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return 1 - (math.pi / 2 * (1 - t)).cos()

    def slope(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return -math.pi / 2 * (math.pi / 2 * (1 - t)).sin()

    def weight(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return math.pi / 2 * (math.pi / 2 * (1 - t)).tan()


@dataclass(frozen=True)
class Geometric:
    """alpha = exp(-low^(1-t) high^t), as in MD4 (arXiv 2406.04329).

    It is not quite 1 at t = 0, nor quite 0 at t = 1.
    """

    low: float = 1e-5
    high: float = 20.0

    def alpha(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return (-self._sigma(t)).exp()

    def slope(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return -math.log(self.high / self.low) * self._sigma(t) * self.alpha(t)

    def weight(self, t: Tensor) -> Tensor:
        """See Schedule."""
        sigma = self._sigma(t)
        return math.log(self.high / self.low) * sigma / sigma.expm1()

    def _sigma(self, t: Tensor) -> Tensor:
        return self.low * (self.high / self.low) ** t


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Linear,
    "poly": Poly,
    "cosine": Cosine,
    "geometric": Geometric,
}


def alphas(schedule: Schedule, steps: int) -> list[float]:
    """alpha at the `steps`+1 evenly spaced times from 1 down to 0; exactly 0 and 1 at the ends.

    A sampler starts from nothing but noise and must end with none, whatever the schedule says.
    """
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return [0.0, *schedule.alpha(t)[1:-1].tolist(), 1.0]


# cos(pi/3) is a rounding error above 1/2, and that of a whole number is a token too many.
_ROUNDING = 1e-9


def _even(tokens: int, steps: int) -> list[int]:
    return [tokens * j // steps for j in range(1, steps + 1)]


def _cosine(tokens: int, steps: int) -> list[int]:
    shown = [0]
    for j in range(1, steps + 1):
        left = math.floor(tokens * math.cos(math.pi * j / (2 * steps)) + _ROUNDING)
        shown.append(max(tokens - left, shown[-1] + 1))
    return shown[1:]


def _copilot(tokens: int, steps: int) -> list[int]:
    shown = []
    for k in reversed(range(steps)):
        literal = math.ceil(tokens * math.cos(math.pi * k / (2 * steps)) - _ROUNDING)
        shown.append(min(literal, tokens - k))
    return shown


# How many tokens are shown after each call.
_SHAPES = {"linear": _even, "cosine": _cosine, "copilot": _copilot}


def groups(tokens: int, steps: int, shape: str) -> tuple[int, ...]:
    """How many tokens each of `steps` calls reveals: at least one each, `tokens` in all.

    shape: "linear" has equal groups, the smaller first if they cannot be; "cosine" begins with
    few (MaskGIT, arXiv 2202.04200, section 3.3); "copilot" is its mirror image and begins with
    many (Copilot4D, arXiv 2311.01017, algorithm 2). That one as published may reveal nothing in
    late calls; here they reveal one token each. Raises ValueError for another shape, for no steps,
    or for more steps than tokens.
    """
    if shape not in _SHAPES:
        raise ValueError(f"{shape!r} is no shape of groups; choose from {', '.join(_SHAPES)}")
    if not 1 <= steps <= tokens:
        raise ValueError(
            f"a frame of {tokens} tokens takes 1 to {tokens} steps, not {steps}: "
            "every step reveals at least one token"
        )
    shown = [0, *_SHAPES[shape](tokens, steps)]
    return tuple(after - before for before, after in pairwise(shown))
