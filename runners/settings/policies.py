"""Settings of the networks that decide, one class for each kind, and of how they learn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runners.settings.base import Settings
from runners.settings.conv import ConvSettings


class ActorCriticSettings(Settings):
    """What all actor-critics have."""

    kind: str = Field(description="which actor-critic")
    value: Literal["two_hot", "scalar", "hl_gauss"] = Field(
        "two_hot",
        description="values as shares of two buckets, one number, or a Gaussian's histogram",
    )


class CnnLstmSettings(ActorCriticSettings, ConvSettings):
    """A frame encoder and an LSTM."""

    kind: Literal["cnn_lstm"] = Field("cnn_lstm", description="which actor-critic")
    base: int = Field(32, ge=1, le=1024, description="channels of the first stage")
    latent: int = Field(16, ge=1, le=1024, description="channels of the grid it ends in")
    hidden: int = Field(512, ge=1, le=8192, description="numbers in the LSTM's memory")


ACTOR_CRITICS: dict[str, type[ActorCriticSettings]] = {
    "cnn_lstm": CnnLstmSettings,
}


class BehaviourSettings(Settings):
    """How the policy learns in imagination and acts in the environment."""

    horizon: int = Field(15, ge=1, le=1000, description="imagined steps")
    context: int = Field(5, ge=0, le=1000, description="real steps seen before imagination")
    gamma: float = Field(0.997, gt=0, le=1, description="discount of a step")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of the returns")
    entropy: float = Field(0.001, ge=0, description="weight of the policy's entropy")
    target_decay: float = Field(0.995, ge=0, lt=1, description="share the target network keeps")
    epsilon: float = Field(0.01, ge=0, le=1, description="share of random actions in training")
    temperature: float = Field(1.0, gt=0, le=10, description="sampling temperature of actions")
