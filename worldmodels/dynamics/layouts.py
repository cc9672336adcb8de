"""The order of tokens within a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from envs.spaces import Obs, Space
from worldmodels.actions import ActionCodecs, Codec
from worldmodels.nets.conv import FrameEncoder, Stages
from worldmodels.nets.eyes import eyes, leading


class Embedded(nn.Module):
    """What all layouts do with actions and tokens; looks at no frame."""

    look_size = 0
    action: Codec
    token: nn.Embedding

    def __init__(
        self, *, space: Space, width: int, tokens: int, spans: Mapping[str, slice]
    ) -> None:
        super().__init__()
        self.space, self.width, self.tokens, self.spans = space, width, tokens, spans

    def _embed(self, actions: ActionCodecs, vocab: int) -> None:
        """Build what embeds actions and tokens: the last step of a constructor."""
        self.action, self.token = actions.slots(self.width), nn.Embedding(vocab, self.width)
        self.act_size = self.action.slots
        self.stride = self.act_size + self.tokens + self.look_size

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
        return self.token.weight.new_zeros(*leading(self.space, obs), 0, self.width)


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
        width: int,
        vocab: int,
        tokens: int,
        spans: Mapping[str, slice],
        base: int,
        latent: int,
        **stages: Any,
    ) -> None:
        super().__init__(space=space, width=width, tokens=tokens, spans=spans)
        shape = Stages(**stages)
        self.frame, _ = eyes(
            space, lambda: FrameEncoder(3, base=base, latent=latent, stages=shape), width
        )
        self.frame_norm = nn.LayerNorm(width)
        self._embed(actions, vocab)

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
        self,
        *,
        space: Space,
        actions: ActionCodecs,
        width: int,
        vocab: int,
        tokens: int,
        spans: Mapping[str, slice],
    ) -> None:
        super().__init__(space=space, width=width, tokens=tokens, spans=spans)
        self.root_size = tokens
        self._embed(actions, vocab)

    def root(self, obs: Obs | None, tokens: Tensor) -> Tensor:
        """(B,K,D): the tokens of the frame."""
        return self.answer(tokens)


LAYOUTS = {"blind": BlindLayout, "delta": DeltaLayout, "token": TokenLayout}
