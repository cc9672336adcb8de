"""The tensors that every loss reads."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Windows of episodes: T steps and the T+1 frames around them.

    obs (B,T+1,H,W,C) uint8; act (B,T) int64; rew (B,T) float32; end trunc valid (B,T) bool.
    Acting act[t] at obs[t] gives rew[t], end[t] and obs[t+1]. `valid` is True on real steps;
    elsewhere (padding, left or right) frames are black and the other fields 0. The valid steps
    of a row are contiguous, and only its last one may have `end` or `trunc`.
    A window of no valid step still shows one real frame, obs[:, -1].
    """

    obs: Tensor
    act: Tensor
    rew: Tensor
    end: Tensor
    trunc: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the copy does not wait for the host."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return Batch(**moved)

    def last(self, steps: int) -> Batch:
        """The window's last `steps` steps, or all if there are not so many."""
        first = max(0, self.act.shape[1] - steps)
        return Batch(**{f.name: getattr(self, f.name)[:, first:] for f in fields(self)})

    def first(self, steps: int) -> Batch:
        """The window's first `steps` steps, also none; obs[:, -1] is where they lead."""
        of_steps = {f.name: getattr(self, f.name)[:, :steps] for f in fields(self)}
        return Batch(**(of_steps | {"obs": self.obs[:, : steps + 1]}))

    @property
    def seen(self) -> Tensor:
        """(B,T+1) bool: which frames are real, those before or after a valid step.

        In a window of no valid step, that is the last frame.
        """
        before, after = self.valid, self.valid
        seen = torch.nn.functional.pad(before, (0, 1)) | torch.nn.functional.pad(after, (1, 0))
        alone = ~self.valid.any(1, keepdim=True)
        return torch.cat((seen[:, :-1], seen[:, -1:] | alone), 1)


def played(obs: Tensor, act: Tensor, valid: Tensor) -> Batch:
    """Windows of which no reward or end is known: frames (B,T+1,H,W,C), act and valid (B,T)."""
    none = torch.zeros_like(valid)
    return Batch(obs, act, act.new_zeros(act.shape, dtype=torch.float32), none, none, valid)


def single(obs: Tensor) -> Batch:
    """Frames (B,H,W,C) as windows of no step."""
    none = torch.zeros(len(obs), 0, dtype=torch.int64, device=obs.device)
    return played(obs[:, None], none, none.bool())
