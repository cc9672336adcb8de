"""Delta-IRIS's actor-critic (arXiv 2406.19320): a residual frame encoder before the LSTM."""

from __future__ import annotations

from typing import Any

from agents.actor_critics.lstm import LstmPolicy
from envs.spaces import Space
from worldmodels.nets.conv import FrameEncoder, Stages
from worldmodels.nets.eyes import eyes


def cnn_lstm(
    *,
    space: Space,
    outputs: int,
    base: int,
    latent: int,
    hidden: int,
    value: str,
    **stages: Any,
) -> LstmPolicy:
    """`stages` are the fields of Stages; the rest is for FrameEncoder and LstmPolicy."""
    shape = Stages(**stages)
    encoder, features = eyes(
        space, lambda: FrameEncoder(3, base=base, latent=latent, stages=shape), hidden
    )
    return LstmPolicy(encoder, features, outputs=outputs, hidden=hidden, value=value)
