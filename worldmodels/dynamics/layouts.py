"""The order of tokens within a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from envs.spaces import Obs, Space
from envs.trees import leaves
from worldmodels.actions import ActionCodecs, Codec
from worldmodels.nets.conv import FrameEncoder, Stages
from worldmodels.nets.eyes import eyes, leading
from worldmodels.nets.init import OwnStart
from worldmodels.protocols import Tokenizer


class Embedded(nn.Module):
    """What all layouts do with actions and tokens; looks at no frame.

    Of the tokenizer, whose frames the tokens are, only its sizes are read here.
    """

    look_size = 0
    action: Codec
    token: nn.Module

    def __init__(self, *, space: Space, tokenizer: Tokenizer, width: int) -> None:
        super().__init__()
        self.space, self.width = space, width
        self.tokens = self.answer_size = tokenizer.tokens
        self.spans = tokenizer.spans

    def _embed(self, actions: ActionCodecs, token: nn.Module) -> None:
        """Take what embeds actions and tokens: the last step of a constructor."""
        self.action, self.token = actions.slots(self.width), token
        self.act_size = self.action.slots
        self.stride = self.act_size + self.answer_size + self.look_size

    def act(self, act: Tensor) -> Tensor:
        """(...,act_size,D) of actions."""
        embedded: Tensor = self.action(act)
        return embedded

    def answer(self, tokens: Tensor) -> Tensor:
        """(...,k,D) of tokens (...,k)."""
        embedded: Tensor = self.token(tokens)
        return embedded

    def look(self, obs: Obs) -> Tensor:
        """(...,0,D): there is nothing to see."""
        before = leading(self.space, obs)
        return leaves(obs)[0].new_zeros(*before, 0, self.width, dtype=torch.float32)


class BlindLayout(Embedded):
    """frame | action, K delta tokens | action, K delta tokens | ...: one look, then changes alone.

    A frame enters as one continuous embedding from the layout's own encoder, trained by the
    dynamics' losses alone; for pictures `width` must equal latent * (H/s) * (W/s). Of several
    observations the embeddings are added up.

    Nobody has published it. The frame is that of a row's first real moment; what the world is at
    any later one, the transformer must work out from the changes since, so that imagination need
    not draw. Where its memory is full, only a frame that was drawn all the same lets it go on.
    """

    root_size, whole = 1, False

    def __init__(
        self,
        *,
        space: Space,
        actions: ActionCodecs,
        tokenizer: Tokenizer,
        width: int,
        base: int,
        latent: int,
        **stages: Any,
    ) -> None:
        super().__init__(space=space, tokenizer=tokenizer, width=width)
        shape = Stages(**stages)
        self.frame, _ = eyes(
            space, lambda: FrameEncoder(3, base=base, latent=latent, stages=shape), width
        )
        self.frame_norm = nn.LayerNorm(width)
        self._embed(actions, nn.Embedding(tokenizer.vocab, width))

    def root(self, obs: Obs | None, tokens: Tensor) -> Tensor:
        """The frame; the tokens that led to it say nothing more."""
        assert obs is not None, "delta tokens cannot go on from a frame that nobody drew"
        return self._show(obs)

    def _show(self, obs: Obs) -> Tensor:
        seen = self.frame.see(obs)
        if isinstance(self.space, dict):
            seen = seen.unflatten(-1, (len(self.space), self.width)).sum(-2)
        embedded: Tensor = self.frame_norm(seen)
        return embedded[..., None, :]


class DeltaLayout(BlindLayout):
    """frame | action, K delta tokens, frame | action, ...: Delta-IRIS's blocks [I, a, D1..DK]."""

    look_size = 1

    def look(self, obs: Obs) -> Tensor:
        """(...,1,D) of frames (...,*O)."""
        return self._show(obs)


class TokenLayout(Embedded):
    """K tokens of the first frame | action, K tokens of the next frame | ...: IRIS's blocks.

    Frames are seen through their tokens alone: `obs` plays no part, and where the transformer's
    memory is full, it goes on from the tokens of the present frame.
    """

    whole = True

    def __init__(
        self, *, space: Space, actions: ActionCodecs, tokenizer: Tokenizer, width: int
    ) -> None:
        super().__init__(space=space, tokenizer=tokenizer, width=width)
        self.root_size = self.tokens
        self._embed(actions, nn.Embedding(tokenizer.vocab, width))

    def root(self, obs: Obs | None, tokens: Tensor) -> Tensor:
        """(B,root_size,D): the tokens of the frame."""
        return self.answer(tokens)


class PackedLayout(Embedded):
    """The first frame's tokens | action, the next frame's tokens | ...: a position for each frame.

    A frame's tokens enter together, through two layers, as the vectors that the tokenizer gives
    them (one position for a frame: STORM, arXiv 2310.09615). Only dynamics that ask for all tokens
    of a step at once can use it.
    """

    whole, root_size = True, 1

    def __init__(
        self, *, space: Space, actions: ActionCodecs, tokenizer: Tokenizer, width: int
    ) -> None:
        super().__init__(space=space, tokenizer=tokenizer, width=width)
        self.answer_size = 1
        # A method is no part of this net: the tokenizer's weights stay its own.
        self._vectors = tokenizer.embed
        numbers = tokenizer.tokens * tokenizer.dim
        enter = (OwnStart(numbers, width), nn.LayerNorm(width), nn.SiLU(), OwnStart(width, width))
        self._embed(actions, nn.Sequential(*enter))

    def root(self, obs: Obs | None, tokens: Tensor) -> Tensor:
        """(B,1,D): the tokens of the frame."""
        return self.answer(tokens)

    def answer(self, tokens: Tensor) -> Tensor:
        """(...,1,D) of all tokens (...,K) of a frame; no gradient reaches the tokenizer."""
        vectors = self._vectors(tokens).detach()
        # In bfloat16 neighbours on a fine grid would be the same.
        with torch.autocast(vectors.device.type, enabled=False):
            return super().answer(vectors.float().flatten(-2)[..., None, :])


LAYOUTS = {
    "blind": BlindLayout,
    "delta": DeltaLayout,
    "packed": PackedLayout,
    "token": TokenLayout,
}
