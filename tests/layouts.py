"""Both shapes that a layout can have, and the parallel dynamics over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets import NUM_ACTIONS, settings, shake, small_agent
from worldmodels.batch import Batch
from worldmodels.dynamics.parallel import Parallel

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


def parallel(shape: str, *words: str) -> Parallel:
    """A small net over a layout of that shape, changed by settings."""
    kind = "agent.dynamics.kind=parallel"
    if shape == "delta":
        net = small_agent(kind, *words).world_model.dynamics
        assert isinstance(net, Parallel)
        return net
    numbers = settings(kind, *words)["dynamics"]
    own = {k: v for k, v in numbers.items() if k not in ("kind", "layout")}
    net = Parallel(**own, layout=Tokens(numbers["width"], 4), vocab=16)
    shake(net)
    return net


def truth(batch: Batch) -> Tensor:
    """Random tokens of every frame, the first one too."""
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 16, (*batch.obs.shape[:2], 4), generator=rng)


def described(shape: str, batch: Batch) -> Tensor:
    """(B,T+1) bool: which frames have tokens that mean something."""
    return batch.seen if shape == "tokens" else F.pad(batch.valid, (1, 0))
