"""Settings of the training phases: what each component's updates are made of."""

from __future__ import annotations

from pydantic import Field

from runners.settings.base import Settings


class PhaseSettings(Settings):
    """Updates of one component."""

    batch: int = Field(32, ge=1, le=65_536, description="windows in a batch")
    updates: int = Field(500, ge=0, description="updates in an epoch")
    first_updates: int = Field(500, ge=0, description="updates in the first epoch")
    after_epoch: int = Field(0, ge=0, description="epochs before the first update")
    lr: float = Field(1e-4, gt=0, le=1, description="learning rate")
    weight_decay: float = Field(0.01, ge=0, le=1, description="weight decay of linear layers")
    clip: float = Field(10.0, gt=0, description="largest norm of a gradient")
    priority: float = Field(
        5.0, ge=0, le=20, description="how much seldom drawn episodes are preferred; 0 not at all"
    )


class WindowPhaseSettings(PhaseSettings):
    """Updates on windows of experience."""

    frames: int = Field(21, ge=2, le=1024, description="frames in a window")


class TokenizerPhaseSettings(WindowPhaseSettings):
    """Updates of the tokenizer."""

    first_updates: int = Field(5000, ge=0, description="updates in the first epoch")


class WorldModelPhaseSettings(WindowPhaseSettings):
    """Updates of the world model."""

    first_updates: int = Field(2500, ge=0, description="updates in the first epoch")


class PolicyPhaseSettings(PhaseSettings):
    """Updates of the actor-critic, each on a batch of imagined rollouts."""

    batch: int = Field(86, ge=1, le=65_536, description="imagined rollouts in a batch")
    repeats: int = Field(
        1, ge=1, le=100, description="steps of the optimiser on each batch of rollouts"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="weight decay of linear layers")


class PhasesSettings(Settings):
    """The phases of an epoch, in their order."""

    tokenizer: TokenizerPhaseSettings = Field(
        TokenizerPhaseSettings(), description="updates of the tokenizer"
    )
    world_model: WorldModelPhaseSettings = Field(
        WorldModelPhaseSettings(), description="updates of the world model"
    )
    policy: PolicyPhaseSettings = Field(
        PolicyPhaseSettings(), description="updates of the actor-critic"
    )
