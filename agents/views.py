"""What the policy sees, in the real environment and in imagination.

Axes: B batch, T steps, H W image, K tokens a frame, D numbers of a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from agents.protocols import Carry, View
from worldmodels.batch import Batch, single
from worldmodels.protocols import Prev, State
from worldmodels.world_model import WorldModel


class Momentary(ABC):
    """What views share for which a frame shows all there is to see: they carry nothing."""

    carries = 0

    def __init__(self, *, obs_shape: tuple[int, ...], context: int) -> None:
        self.obs_shape = obs_shape

    @abstractmethod
    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,*X) of real frames."""

    def initial(self, world_model: WorldModel, batch: int) -> Carry:
        """Nothing."""
        return ()

    def watch(self, past: Batch) -> Carry:
        """Nothing."""
        return ()

    def observe(self, world_model: WorldModel, obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """(B,*X) of frames (B,H,W,C)."""
        return self.real(world_model, single(obs))[:, 0], ()

    def took(self, carry: Carry, act: Tensor) -> Carry:
        """Nothing."""
        return ()


class Frame(Momentary):
    """The frame itself: real where there is one, decoded in imagination."""

    looks = True

    def shape(self, world_model: WorldModel) -> tuple[int, ...]:
        """(H,W,C)."""
        return self.obs_shape

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,H,W,C) uint8."""
        return window.obs

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,H,W,C) uint8."""
        assert state.obs is not None
        return state.obs


class Reconstruction(Momentary):
    """The frame as its tokens show it, so that reality looks as imagination does: IRIS.

    Tokens must show whole frames: the first frame of a window has none before it.
    """

    looks = True

    def shape(self, world_model: WorldModel) -> tuple[int, ...]:
        """(H,W,C)."""
        return self.obs_shape

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,H,W,C) uint8."""
        # Tokens that show whole frames ask for no frame before: each stands for its own.
        prev = Prev(window.obs, F.pad(window.act, (1, 0)))
        return world_model.tokenizer.decode(prev, world_model.tokenize(window))

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,H,W,C) uint8, decoded from tokens already."""
        assert state.obs is not None
        return state.obs


class Tokens(Momentary):
    """The vectors of the frame's tokens, for which imagination need not draw the frame: DART.

    Tokens must show whole frames. No gradient reaches the tokenizer.
    """

    looks = False

    def shape(self, world_model: WorldModel) -> tuple[int, ...]:
        """(K,D)."""
        return world_model.tokenizer.tokens, world_model.tokenizer.dim

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,K,D) float32."""
        return world_model.tokenizer.embed(world_model.tokenize(window)).detach()

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,K,D) float32."""
        return world_model.tokenizer.embed(state.tokens).detach()


VIEWS: dict[str, Callable[..., View]] = {
    "frame": Frame,
    "reconstruction": Reconstruction,
    "tokens": Tokens,
}
