"""The tensors that every loss reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from envs.spaces import Obs
from envs.trees import each, leaves


@dataclass(frozen=True)
class Batch:
    """Windows of episodes: T steps and the T+1 frames around them.

    A frame is what an environment shows at one moment: obs (B,T+1,*O), a tensor, (B,T+1,H,W,C)
    uint8 of a picture, or a dict of tensors; see envs.spaces. act (B,T) int64 of a single choice,
    else (B,T,A); rew (B,T) float32; end trunc valid (B,T) bool.
    Acting act[t] at obs[t] gives rew[t], end[t] and obs[t+1]. `valid` is True on real steps;
    elsewhere (padding, left or right) frames are black and the other fields 0. The valid steps
    of a row are contiguous, and only its last one may have `end` or `trunc`.
    A window of no valid step still shows one real frame, obs[:, -1].
    """

    obs: Obs
    act: Tensor
    rew: Tensor
    end: Tensor
    trunc: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the copy does not wait for the host."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def map(self, make: Callable[[Tensor], Tensor]) -> Batch:
        """What `make` gives for every tensor, frames among them."""
        return Batch(**{f.name: each(make, getattr(self, f.name)) for f in fields(self)})

    def last(self, steps: int) -> Batch:
        """The window's last `steps` steps, or all if there are not so many."""
        first = max(0, self.act.shape[1] - steps)
        return self.map(lambda x: x[:, first:])

    def first(self, steps: int) -> Batch:
        """The window's first `steps` steps, also none; obs[:, -1] is where they lead."""
        more = self.act.shape[1] - steps
        return self.map(lambda x: x[:, : x.shape[1] - more])

    def rows(self, rows: Any) -> Batch:
        """Some rows, by a slice or by their numbers."""
        return self.map(lambda x: x[rows])

    @property
    def seen(self) -> Tensor:
        """(B,T+1) bool: which frames are real, those before or after a valid step.

        In a window of no valid step, that is the last frame.
        """
        before, after = self.valid, self.valid
        seen = torch.nn.functional.pad(before, (0, 1)) | torch.nn.functional.pad(after, (1, 0))
        alone = ~self.valid.any(1, keepdim=True)
        return torch.cat((seen[:, :-1], seen[:, -1:] | alone), 1)


def at(obs: Obs, which: Any) -> Obs:
    """Frames (B,T,*O) by their place in time: (B,*O) by a number, (B,n,*O) by a slice."""
    return each(lambda x: x[:, which], obs)


def stretch(obs: Obs) -> Obs:
    """Frames (B,*O) as stretches of a single one, (B,1,*O)."""
    return each(lambda x: x[:, None], obs)


def stacked(frames: Sequence[Obs]) -> Obs:
    """Frames (B,*O), one after the other, as (B,T,*O)."""
    return each(lambda *x: torch.stack(x, 1), *frames)


def played(obs: Obs, act: Tensor, valid: Tensor) -> Batch:
    """Windows of which no reward or end is known: frames (B,T+1,*O), actions, valid (B,T)."""
    none = torch.zeros_like(valid)
    return Batch(obs, act, none.float(), none, none, valid)


def single(obs: Obs) -> Batch:
    """Frames (B,*O) as windows of no step, whose actions are said to be single choices."""
    some = leaves(obs)[0]
    none = torch.zeros(len(some), 0, dtype=torch.int64, device=some.device)
    return played(stretch(obs), none, none.bool())
