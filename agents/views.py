"""What the policy sees, in the real environment and in imagination."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from agents.protocols import View
from worldmodels.batch import Batch
from worldmodels.protocols import Prev, State
from worldmodels.world_model import WorldModel


class Frame:
    """The frame itself: real where there is one, decoded in imagination."""

    looks = True

    def shape(self, world_model: WorldModel, obs_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(H,W,C)."""
        return obs_shape

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,H,W,C) uint8."""
        return window.obs

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,H,W,C) uint8."""
        assert state.obs is not None
        return state.obs


class Reconstruction:
    """The frame as its tokens show it, so that reality looks as imagination does: IRIS.

    Tokens must show whole frames: the first frame of a window has none before it.
    """

    looks = True

    def shape(self, world_model: WorldModel, obs_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(H,W,C)."""
        return obs_shape

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,H,W,C) uint8."""
        # Tokens that show whole frames ask for no frame before: each stands for its own.
        prev = Prev(window.obs, F.pad(window.act, (1, 0)))
        return world_model.tokenizer.decode(prev, world_model.tokenize(window))

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,H,W,C) uint8, decoded from tokens already."""
        assert state.obs is not None
        return state.obs


class Tokens:
    """The vectors of the frame's tokens, for which imagination need not draw the frame: DART.

    Tokens must show whole frames. No gradient reaches the tokenizer.
    """

    looks = False

    def shape(self, world_model: WorldModel, obs_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(K,D)."""
        return world_model.tokenizer.tokens, world_model.tokenizer.dim

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,K,D) float32."""
        return world_model.tokenizer.embed(world_model.tokenize(window)).detach()

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,K,D) float32."""
        return world_model.tokenizer.embed(state.tokens).detach()


VIEWS: dict[str, type[View]] = {
    "frame": Frame,
    "reconstruction": Reconstruction,
    "tokens": Tokens,
}
