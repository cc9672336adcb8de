"""Policy and critic over frames: what sees them, an LSTM, two linear heads.

Axes: B batch, T steps, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.protocols import Decision
from envs.spaces import Obs
from worldmodels.nets.conv import largest_map
from worldmodels.nets.eyes import Eye
from worldmodels.nets.heads import VALUE_TARGETS, Target

Carry = tuple[Tensor, Tensor]


class LstmPolicy(nn.Module):
    """Sees frames (B,T,*O) through `encoder`, which gives `features` numbers.

    The carry is the LSTM's (h, c), each (B,hidden) float32.
    `value` names one of VALUE_TARGETS; the critic starts at exactly zero.
    The LSTM and the heads run in float32 whatever the autocast.
    """

    def __init__(
        self,
        encoder: Eye,
        features: int,
        *,
        outputs: int,
        hidden: int,
        value: str,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.value: Target = VALUE_TARGETS[value]
        self.encoder = encoder
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.actor = nn.Linear(hidden, outputs)
        self.critic = nn.Linear(hidden, self.value.size)
        nn.init.zeros_(self.critic.weight)
        nn.init.zeros_(self.critic.bias)
        self.frame_values = largest_map(self)

    def initial(self, batch: int) -> Carry:
        """The carry before the first frame."""
        zeros = self.actor.weight.new_zeros(batch, self.hidden)
        return zeros, zeros

    def forward(self, obs: Obs, carry: Carry) -> tuple[Decision, Carry]:
        """Decide at every frame of a stretch (B,T,*O)."""
        feats = self.encoder.see(obs).float()
        with torch.autocast(feats.device.type, enabled=False):
            hidden, (h, c) = self.lstm(feats, (carry[0][None], carry[1][None]))
            return Decision(self.actor(hidden), self.critic(hidden)), (h[0], c[0])

    def watch(self, obs: Obs, seen: Tensor) -> Carry:
        """The carry after a stretch (B,T,*O) of which only frames with seen (B,T) count."""
        carry = self.initial(len(seen))
        if not seen.shape[1]:
            return carry
        feats = self.encoder.see(obs).float()
        with torch.autocast(feats.device.type, enabled=False):
            for t in range(feats.shape[1]):
                _, (h, c) = self.lstm(feats[:, t : t + 1], (carry[0][None], carry[1][None]))
                real = seen[:, t, None]
                carry = torch.where(real, h[0], carry[0]), torch.where(real, c[0], carry[1])
        return carry
