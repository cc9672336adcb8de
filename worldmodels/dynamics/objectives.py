"""What a denoiser is to learn of each row: with a clean past, a corrupted one, or none.

Axes: B batch, T steps, K tokens a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Goal:
    """history (B,T+1,K): the tokens of the past as it is told; alone (B,) bool: rows without."""

    history: Tensor
    alone: Tensor


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
        u = torch.rand(rows, device=device) * (self.clean + self.corrupted + self.alone)
        alone, intact = u < self.alone, u >= self.alone + self.corrupted
        rate = torch.rand(rows, device=device) * self.noise * ~(alone | intact)
        wrong = torch.rand(tokens.shape, device=device) < rate[:, None, None]
        other = torch.randint(0, self.vocab, tokens.shape, device=device)
        return Goal(torch.where(wrong, other, tokens), alone)
