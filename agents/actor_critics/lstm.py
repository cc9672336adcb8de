"""Policy and critic over frames: an encoder, an LSTM, two linear heads.

Axes: B batch, T steps, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.protocols import Decision
from worldmodels.nets.conv import Encoder, largest_map, pixels, to_unit
from worldmodels.nets.heads import VALUE_TARGETS, Target

Carry = tuple[Tensor, Tensor]


class LstmPolicy(nn.Module):
    """Sees frames (B,T,H,W,C) uint8. The carry is the LSTM's (h, c), each (B,hidden) float32.

    `value` names one of VALUE_TARGETS; the critic starts at exactly zero.
    The LSTM and the heads run in float32 whatever the autocast.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        obs_shape: tuple[int, int, int],
        num_actions: int,
        hidden: int,
        value: str,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.value: Target = VALUE_TARGETS[value]
        self.encoder = encoder
        height, width = (size // encoder.scale for size in obs_shape[:2])
        self.lstm = nn.LSTM(encoder.latent * height * width, hidden, batch_first=True)
        self.actor = nn.Linear(hidden, num_actions)
        self.critic = nn.Linear(hidden, self.value.size)
        nn.init.zeros_(self.critic.weight)
        nn.init.zeros_(self.critic.bias)
        self.frame_values = largest_map(self)

    def initial(self, batch: int) -> Carry:
        """The carry before the first frame."""
        zeros = self.actor.weight.new_zeros(batch, self.hidden)
        return zeros, zeros

    def forward(self, obs: Tensor, carry: Carry) -> tuple[Decision, Carry]:
        """Decide at every frame of a stretch (B,T,H,W,C)."""
        feats = self._encode(obs)
        with torch.autocast(feats.device.type, enabled=False):
            hidden, (h, c) = self.lstm(feats, (carry[0][None], carry[1][None]))
            return Decision(self.actor(hidden), self.critic(hidden)), (h[0], c[0])

    def watch(self, obs: Tensor, seen: Tensor) -> Carry:
        """The carry after a stretch (B,T,H,W,C) of which only frames with seen (B,T) count."""
        carry = self.initial(len(obs))
        if not obs.shape[1]:
            return carry
        feats = self._encode(obs)
        with torch.autocast(feats.device.type, enabled=False):
            for t in range(feats.shape[1]):
                _, (h, c) = self.lstm(feats[:, t : t + 1], (carry[0][None], carry[1][None]))
                real = seen[:, t, None]
                carry = torch.where(real, h[0], carry[0]), torch.where(real, c[0], carry[1])
        return carry

    def _encode(self, obs: Tensor) -> Tensor:
        feats = pixels(self.encoder(to_unit(obs)))
        return feats.unflatten(0, obs.shape[:2]).float()
