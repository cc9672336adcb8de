"""The order of tokens within a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.nets.conv import FrameEncoder, Stages, pixels, to_unit


class Embedded(nn.Module):
    """What all layouts do with actions and tokens; looks at no frame."""

    look_size = 0
    action: nn.Embedding
    token: nn.Embedding

    def act(self, act: Tensor) -> Tensor:
        """(...,1,D) of actions (...)."""
        embedded: Tensor = self.action(act)[..., None, :]
        return embedded

    def answer(self, tokens: Tensor) -> Tensor:
        """(...,k,D) of tokens (...,k)."""
        embedded: Tensor = self.token(tokens)
        return embedded

    def look(self, obs: Tensor) -> Tensor:
        """(...,0,D): there is nothing to see."""
        weight = self.token.weight
        return weight.new_zeros(*obs.shape[:-3], 0, weight.shape[1])


class BlindLayout(Embedded):
    """frame | action, K delta tokens | action, K delta tokens | ...: one look, then changes alone.

    A frame enters as one continuous embedding from the layout's own encoder, trained by the
    dynamics' losses alone; `width` must equal latent * (H/s) * (W/s).

    Nobody has published it. The frame is that of a row's first real moment; what the world is at
    any later one, the transformer must work out from the changes since, so that imagination need
    not draw. Where its memory is full, only a frame that was drawn all the same lets it go on.
    """

    root_size, whole = 1, False

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
        self.tokens, self.stride = tokens, 1 + tokens + self.look_size
        self.frame = FrameEncoder(3, base=base, latent=latent, stages=Stages(**stages))
        self.frame_norm = nn.LayerNorm(width)
        self.action, self.token = nn.Embedding(num_actions, width), nn.Embedding(vocab, width)

    def root(self, obs: Tensor | None, tokens: Tensor) -> Tensor:
        """The frame; the tokens that led to it say nothing more."""
        assert obs is not None, "delta tokens cannot go on from a frame that nobody drew"
        return self._show(obs)

    def _show(self, obs: Tensor) -> Tensor:
        embedded = self.frame_norm(pixels(self.frame(to_unit(obs))))
        return torch.unflatten(embedded, 0, (*obs.shape[:-3], 1))


class DeltaLayout(BlindLayout):
    """frame | action, K delta tokens, frame | action, ...: Delta-IRIS's blocks [I, a, D1..DK]."""

    look_size = 1

    def look(self, obs: Tensor) -> Tensor:
        """(...,1,D) of frames (...,H,W,C)."""
        return self._show(obs)


class TokenLayout(Embedded):
    """K tokens of the first frame | action, K tokens of the next frame | ...: IRIS's blocks.

    Frames are seen through their tokens alone: `obs` plays no part, and where the transformer's
    memory is full, it goes on from the tokens of the present frame.
    """

    whole = True

    def __init__(self, *, width: int, vocab: int, tokens: int, num_actions: int) -> None:
        super().__init__()
        self.tokens, self.root_size, self.stride = tokens, tokens, tokens + 1
        self.action, self.token = nn.Embedding(num_actions, width), nn.Embedding(vocab, width)

    def root(self, obs: Tensor | None, tokens: Tensor) -> Tensor:
        """(B,K,D): the tokens of the frame."""
        return self.answer(tokens)


LAYOUTS = {"blind": BlindLayout, "delta": DeltaLayout, "token": TokenLayout}
