"""What a denoiser is to learn of each row: with a clean past, a corrupted one, or none.

Axes: B batch, T steps, K tokens a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.diffusion.processes import Noised


@dataclass(frozen=True)
class Goal:
    """history (B,T+1,K): the tokens of the past as it is told; alone (B,) bool: rows without.

    weight (B,): of a mean over rows that only those with a clean past shall count in, however few
    they happen to be; its own mean is 1. None where no row has one.
    """

    history: Tensor
    alone: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class Objectives:
    """Draws for each row whether its past is told as it was, with wrong tokens in it, or not.

    `clean`, `corrupted` and `alone` are shares, up to a factor. In a corrupted past each token is
    replaced by any below `vocab` with a probability that is drawn for the row, uniform up to
    `noise`. Copilot4D (arXiv 2311.01017) has 50, 40 and 10 %, and corrupts a past as it does the
    present, masks too; here nothing is hidden in it, as nothing is in imagination. Rows alone
    denoise each frame by itself, without its action. What reads rewards still knows their past.
    """

    vocab: int
    clean: float
    corrupted: float
    alone: float
    noise: float

    def draw(self, tokens: Tensor) -> Goal:
        """For the frames of windows (B,T+1,K), from torch's global generator."""
        rows, device = len(tokens), tokens.device
        every = self.clean + self.corrupted + self.alone
        u = torch.rand(rows, device=device) * every
        alone, intact = u < self.alone, u >= self.alone + self.corrupted
        rate = torch.rand(rows, device=device) * self.noise * ~(alone | intact)
        wrong = torch.rand(tokens.shape, device=device) < rate[:, None, None]
        other = torch.randint(0, self.vocab, tokens.shape, device=device)
        weight = intact * (every / self.clean) if self.clean else None
        return Goal(torch.where(wrong, other, tokens), alone, weight)


def bound_of(cost: Tensor, noised: Noised, goal: Goal) -> Tensor | None:
    """An estimate (B,T) of the bound on what frames with a clean past cost, in nats.

    cost (B,T): the mean -log p of a frame's scored tokens. Its mean over draws of noise and goals
    is that of `count_bound`, though single numbers are not: rows with another past have 0, and
    the others stand for them. None where noise has no such bound, or no row a clean past.
    """
    if noised.weight is None or goal.weight is None:
        return None
    return cost * noised.weight * goal.weight[:, None]
