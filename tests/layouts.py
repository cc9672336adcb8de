"""Both shapes that a layout can have, for tests of what works over any."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets import NUM_ACTIONS
from worldmodels.batch import Batch

SHAPES = ("delta", "tokens")
"""Frames and what changes in them; and tokens that are the frame."""


class Tokens(nn.Module):
    """[K tokens | action, K tokens | action, ...]: the tokens are all that shows a frame."""

    look_size = 0

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = self.root_size = tokens
        self.stride = tokens + 1
        self.action, self.token = nn.Embedding(NUM_ACTIONS, width), nn.Embedding(16, width)

    def root(self, obs: Tensor, tokens: Tensor) -> Tensor:
        return self.answer(tokens)

    def act(self, act: Tensor) -> Tensor:
        embedded: Tensor = self.action(act)[..., None, :]
        return embedded

    def answer(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.token(tokens)
        return embedded

    def look(self, obs: Tensor) -> Tensor:
        return self.token.weight.new_zeros(*obs.shape[:-3], 0, self.token.weight.shape[1])


def truth(batch: Batch) -> Tensor:
    """Random tokens of every frame, the first one too."""
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 16, (*batch.obs.shape[:2], 4), generator=rng)


def described(shape: str, batch: Batch) -> Tensor:
    """(B,T+1) bool: which frames have tokens that mean something."""
    return batch.seen if shape == "tokens" else F.pad(batch.valid, (1, 0))
