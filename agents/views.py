"""What the policy sees, in the real environment and in imagination."""

from __future__ import annotations

from torch import Tensor

from worldmodels.batch import Batch
from worldmodels.protocols import State
from worldmodels.world_model import WorldModel


class Frame:
    """The frame itself: real where there is one, decoded in imagination."""

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,H,W,C) uint8."""
        return window.obs

    def imagined(self, state: State) -> Tensor:
        """(B,H,W,C) uint8."""
        return state.obs


VIEWS = {"frame": Frame}
