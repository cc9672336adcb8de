"""Delta-IRIS's actor-critic (arXiv 2406.19320): a residual frame encoder before the LSTM."""

from __future__ import annotations

from typing import Any

from agents.actor_critics.lstm import LstmPolicy
from worldmodels.nets.conv import FrameEncoder, Stages


def cnn_lstm(
    *,
    obs_shape: tuple[int, int, int],
    num_actions: int,
    base: int,
    latent: int,
    hidden: int,
    value: str,
    **stages: Any,
) -> LstmPolicy:
    """`stages` are the fields of Stages; the rest is for FrameEncoder and LstmPolicy."""
    encoder = FrameEncoder(obs_shape[2], base=base, latent=latent, stages=Stages(**stages))
    return LstmPolicy(
        encoder, obs_shape=obs_shape, num_actions=num_actions, hidden=hidden, value=value
    )
