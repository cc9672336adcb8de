"""The order of tokens within a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.nets.conv import FrameEncoder, Stages, pixels, to_unit


class DeltaLayout(nn.Module):
    """frame | action, K delta tokens, frame | action, ...: Delta-IRIS's blocks [I, a, D1..DK].

    A frame enters as one continuous embedding from the layout's own encoder, trained by the
    dynamics' losses alone; `width` must equal latent * (H/s) * (W/s).
    """

    root_size, look_size = 1, 1

    def __init__(
        self,
        *,
        width: int,
        vocab: int,
        tokens: int,
        num_actions: int,
        base: int,
        latent: int,
        **stages: Any,
    ) -> None:
        super().__init__()
        self.tokens, self.stride = tokens, tokens + 2
        self.frame = FrameEncoder(3, base=base, latent=latent, stages=Stages(**stages))
        self.frame_norm = nn.LayerNorm(width)
        self.action, self.token = nn.Embedding(num_actions, width), nn.Embedding(vocab, width)

    def root(self, obs: Tensor, tokens: Tensor) -> Tensor:
        """The frame; the tokens that led to it say nothing more."""
        return self.look(obs)

    def act(self, act: Tensor) -> Tensor:
        """(...,1,D) of actions (...)."""
        embedded: Tensor = self.action(act)[..., None, :]
        return embedded

    def answer(self, tokens: Tensor) -> Tensor:
        """(...,k,D) of tokens (...,k)."""
        embedded: Tensor = self.token(tokens)
        return embedded

    def look(self, obs: Tensor) -> Tensor:
        """(...,1,D) of frames (...,H,W,C)."""
        embedded = self.frame_norm(pixels(self.frame(to_unit(obs))))
        return torch.unflatten(embedded, 0, (*obs.shape[:-3], 1))


LAYOUTS = {"delta": DeltaLayout}
