"""Settings of the diffusion dynamics: its net, and what the net learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from runners.settings.base import Settings, Variants
from runners.settings.noise import (
    PROCESSES,
    SAMPLERS,
    AbsorbingSettings,
    ProcessSettings,
    RandomSettings,
    SamplerSettings,
)
from runners.settings.transformers import TransformerSettings


class BackboneSettings(Settings):
    """What all backbones have."""

    kind: str = Field(description="how blocks attend to each other")


class BlockSettings(BackboneSettings):
    """One attention over all slots of a frame and of those before it."""

    kind: Literal["block"] = Field("block", description="how blocks attend to each other")


class SpaceTimeSettings(BackboneSettings):
    """Attention within a frame, then of each slot to its own past."""

    kind: Literal["st"] = Field("st", description="how blocks attend to each other")


class TrunkHeadSettings(BackboneSettings):
    """As block for finished frames, and a small head for the calls of the denoiser."""

    kind: Literal["trunk_head"] = Field("trunk_head", description="how blocks attend to each other")
    head: int = Field(2, ge=1, le=64, description="layers of the head, beside those of the trunk")


BACKBONES: dict[str, type[BackboneSettings]] = {
    "block": BlockSettings,
    "st": SpaceTimeSettings,
    "trunk_head": TrunkHeadSettings,
}


class ObjectivesSettings(Settings):
    """What the denoiser learns of a row of the batch; shares, up to a factor."""

    clean: float = Field(0.85, ge=0, description="share of rows whose past is told as it was")
    corrupted: float = Field(0.15, ge=0, description="share of rows with wrong tokens in the past")
    alone: float = Field(0.0, ge=0, description="share of rows without past and action")
    noise: float = Field(
        0.1, ge=0, le=1, description="largest share of tokens replaced in a corrupted past"
    )


class DiffusionSettings(TransformerSettings):
    """A denoiser of all tokens of a frame together, given the frames before it."""

    kind: Literal["diffusion"] = Field("diffusion", description="which dynamics model")
    init: Literal["normal", "fan_in"] = Field(
        "fan_in", description="how weights begin: N(0, 0.02) as GPT-2's, or by number of inputs"
    )
    backbone: Annotated[SerializeAsAny[BackboneSettings], Variants("kind", BACKBONES)] = Field(
        TrunkHeadSettings(), description="how blocks attend to each other"
    )
    process: Annotated[SerializeAsAny[ProcessSettings], Variants("kind", PROCESSES)] = Field(
        AbsorbingSettings(), description="what noise is"
    )
    sampler: Annotated[
        SerializeAsAny[SamplerSettings], Variants("kind", SAMPLERS, shared=SamplerSettings)
    ] = Field(RandomSettings(), description="how noise becomes a frame")
    objectives: ObjectivesSettings = Field(
        ObjectivesSettings(), description="what the denoiser learns of a row"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of a label spread over all tokens"
    )
    guidance: float = Field(
        0.0, ge=-1, le=10, description="how far dreams exaggerate what the past says; 0 not at all"
    )
