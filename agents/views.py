"""What the policy sees, in the real environment and in imagination.

Axes: B batch, T steps, C steps of context, *O a frame, *A an action, K tokens a frame, D numbers of
a vector.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from agents.protocols import Carry, Vectors, View
from envs.experience import EnvSpec
from envs.spaces import ActSpace, Obs, ObsSpace, Space, Vector
from envs.trees import each, leaves
from worldmodels.batch import Batch, at, played, single
from worldmodels.protocols import Prev, State
from worldmodels.world_model import WorldModel


class Momentary(ABC):
    """What views share for which a frame shows all there is to see: they carry nothing."""

    carries = 0

    def __init__(self, *, env: EnvSpec, context: int) -> None:
        self.env = env

    @abstractmethod
    def real(self, world_model: WorldModel, window: Batch) -> Obs:
        """(B,T+1,*X) of real frames."""

    def initial(self, world_model: WorldModel, batch: int) -> Carry:
        """Nothing."""
        return ()

    def watch(self, past: Batch) -> Carry:
        """Nothing."""
        return ()

    def observe(self, world_model: WorldModel, obs: Obs, carry: Carry) -> tuple[Obs, Carry]:
        """(B,*X) of frames (B,*O)."""
        return at(self.real(world_model, single(obs)), 0), ()

    def took(self, carry: Carry, act: Tensor) -> Carry:
        """Nothing."""
        return ()


class Frame(Momentary):
    """The frame itself: real where there is one, decoded in imagination."""

    looks = True

    def space(self, world_model: WorldModel) -> Space:
        """What the environment shows."""
        return self.env.obs

    def real(self, world_model: WorldModel, window: Batch) -> Obs:
        """(B,T+1,*O)."""
        return window.obs

    def imagined(self, world_model: WorldModel, state: State) -> Obs:
        """(B,*O)."""
        assert state.obs is not None
        return state.obs


class Reconstruction(Momentary):
    """The frame as its tokens show it, so that reality looks as imagination does: IRIS.

    Tokens must show whole frames: the first frame of a window has none before it.
    """

    looks = True

    def space(self, world_model: WorldModel) -> Space:
        """What the environment shows."""
        return self.env.obs

    def real(self, world_model: WorldModel, window: Batch) -> Obs:
        """(B,T+1,*O)."""
        # Tokens that show whole frames ask for no frame before: each stands for its own.
        before = window.act.new_zeros(len(window.act), 1, *window.act.shape[2:])
        prev = Prev(window.obs, torch.cat((before, window.act), 1))
        return world_model.tokenizer.decode(prev, world_model.tokenize(window))

    def imagined(self, world_model: WorldModel, state: State) -> Obs:
        """(B,*O), decoded from tokens already."""
        assert state.obs is not None
        return state.obs


class Tokens(Momentary):
    """The vectors of the frame's tokens, for which imagination need not draw the frame: DART.

    Tokens must show whole frames. No gradient reaches the tokenizer.
    """

    looks = False

    def space(self, world_model: WorldModel) -> Vectors:
        """A vector for each token."""
        return Vectors(world_model.tokenizer.tokens, world_model.tokenizer.dim)

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,K,D) float32."""
        return world_model.tokenizer.embed(world_model.tokenize(window)).detach()

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,K,D) float32."""
        return world_model.tokenizer.embed(state.tokens).detach()

    def expected(self, world_model: WorldModel, logits: Tensor) -> Tensor:
        """(B,K,D) float32: the means of what the tokens stand for that logits (B,K,V) draw."""
        return world_model.expected(logits)


class Latent:
    """What the world model makes of a moment: its transformer's output where the moment ends.

    Nobody has published a policy on features of delta tokens; EMERALD (arXiv 2507.04075) and
    STORM give the policy the hidden state of theirs beside the latent of the frame. Features are
    of the present's tokens and of the past that the world model sees, so imagination draws
    nothing. No gradient reaches the world model.

    In a real environment they come from the last `context` steps, by the pass that gives those of
    windows. The carry is the frames (B,C*O) before the present, of each thing that is shown, the
    actions (B,C*A) taken at them, and (B,1) how many of them are real, which are the last; all
    else is zero.
    """

    looks = False

    def __init__(self, *, env: EnvSpec, context: int) -> None:
        self.env, self.context = env, context
        self.carries = len(leaves(env.obs)) + 2

    def space(self, world_model: WorldModel) -> Vector:
        """The features."""
        return Vector(world_model.dynamics.width)

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        """(B,T+1,D) float32."""
        return world_model.moments(window)

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        """(B,D) float32."""
        return world_model.moment(state)

    def initial(self, world_model: WorldModel, batch: int) -> Carry:
        """Nothing was seen."""
        device = next(world_model.parameters()).device

        def nothing(space: ObsSpace | ActSpace) -> Tensor:
            zeros = np.zeros((batch, self.context * math.prod(space.shape)), space.dtype)
            return torch.from_numpy(zeros).to(device)

        spaces = (*leaves(self.env.obs), self.env.act)
        count = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        return (*(nothing(space) for space in spaces), count)

    def watch(self, past: Batch) -> Carry:
        """All steps of the past, be they `context` or not; padding, which is on the left, is 0."""
        frames = [x[:, :-1].flatten(1) for x in leaves(past.obs)]
        return (*frames, past.act.flatten(1), past.valid.sum(1, keepdim=True))

    def observe(self, world_model: WorldModel, obs: Obs, carry: Carry) -> tuple[Tensor, Carry]:
        """(B,D) float32, and a carry in which these frames have pushed out the oldest."""
        *befores, acts, count = carry
        shape = self.env.act.shape
        steps = acts.shape[1] // math.prod(shape)
        act, before = acts.unflatten(1, (steps, *shape)), iter(befores)
        frames = each(
            lambda x: torch.cat((next(before).unflatten(1, (steps, *x.shape[1:])), x[:, None]), 1),
            obs,
        )
        valid = torch.arange(steps, device=act.device) >= steps - count
        x = self.real(world_model, played(frames, act, valid))[:, -1]
        later = [frame[:, 1:].flatten(1) for frame in leaves(frames)]
        newer = torch.cat((act, torch.zeros_like(act[:, :1])), 1)[:, 1:].flatten(1)
        return x, (*later, newer, (count + 1).clamp(max=steps))

    def took(self, carry: Carry, act: Tensor) -> Carry:
        """The actions at the newest frames are these."""
        *frames, before, count = carry
        taken = act.reshape(len(act), -1)
        kept = before[:, : -taken.shape[1]]
        return (*frames, torch.cat((kept, taken), 1)[:, : before.shape[1]], count)


VIEWS: dict[str, Callable[..., View]] = {
    "frame": Frame,
    "latent": Latent,
    "reconstruction": Reconstruction,
    "tokens": Tokens,
}
