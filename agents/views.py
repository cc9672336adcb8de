"""What the policy sees, in the real environment and in imagination.

Axes: B batch, T steps, C steps of context, H W image, K tokens a frame, D numbers of a vector.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.protocols import Carry, View
from worldmodels.batch import Batch, played, single
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


class Latent:
    """What the world model makes of a moment: its transformer's output where the moment ends.

    Nobody has published a policy on features of delta tokens; EMERALD (arXiv 2507.04075) and
    STORM give the policy the hidden state of theirs beside the latent of the frame. Features are
    of the present's tokens and of the past that the world model sees, so imagination draws
    nothing. No gradient reaches the world model.

    In a real environment they come from the last `context` steps, by the pass that gives those of
    windows. The carry is the frames (B,C*H*W*3) uint8 before the present, the actions (B,C) taken
    at them, and (B,1) how many of them are real, which are the last; all else is zero.
    """

    looks, carries = False, 3

    def __init__(self, *, obs_shape: tuple[int, ...], context: int) -> None:
        self.obs_shape, self.context = obs_shape, context

    def shape(self, world_model: WorldModel) -> tuple[int, ...]:
        """(D,)."""
        return (world_model.dynamics.width,)

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,D) float32."""
        return world_model.moments(window)

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,D) float32."""
        return world_model.moment(state)

    def initial(self, world_model: WorldModel, batch: int) -> Carry:
        """Nothing was seen."""
        device = next(world_model.parameters()).device
        frames = torch.zeros(
            batch, self.context * math.prod(self.obs_shape), dtype=torch.uint8, device=device
        )
        act = torch.zeros(batch, self.context, dtype=torch.int64, device=device)
        return frames, act, act.new_zeros(batch, 1)

    def watch(self, past: Batch) -> Carry:
        """All steps of the past, be they `context` or not; padding, which is on the left, is 0."""
        return past.obs[:, :-1].flatten(1), past.act, past.valid.sum(1, keepdim=True)

    def observe(self, world_model: WorldModel, obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """(B,D) float32, and a carry in which these frames have pushed out the oldest."""
        before, act, count = carry
        steps = act.shape[1]
        frames = torch.cat((before.unflatten(1, (steps, *obs.shape[1:])), obs[:, None]), 1)
        valid = torch.arange(steps, device=obs.device) >= steps - count
        x = self.real(world_model, played(frames, act, valid))[:, -1]
        return x, (
            frames[:, 1:].flatten(1),
            F.pad(act, (0, 1))[:, 1:],
            (count + 1).clamp(max=steps),
        )

    def took(self, carry: Carry, act: Tensor) -> Carry:
        """The actions at the newest frames are these."""
        frames, before, count = carry
        steps = before.shape[1]
        return frames, torch.cat((before[:, :-1], act[:, None]), 1)[:, :steps], count


VIEWS: dict[str, Callable[..., View]] = {
    "frame": Frame,
    "latent": Latent,
    "reconstruction": Reconstruction,
    "tokens": Tokens,
}
