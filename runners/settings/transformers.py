"""Settings of layouts, and what all dynamics models over them share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from runners.settings.base import Settings, Variants
from runners.settings.conv import ConvSettings


class LayoutSettings(Settings):
    """What all layouts have."""

    kind: str = Field(description="which order of tokens within a step")


class FrameLayoutSettings(LayoutSettings, ConvSettings):
    """What layouts have that see frames themselves."""

    base: int = Field(32, ge=1, le=1024, description="channels of the frame encoder's first stage")
    latent: int = Field(
        8, ge=1, le=1024, description="channels of its grid; grid x grid x latent = width"
    )


class DeltaLayoutSettings(FrameLayoutSettings):
    """A continuous token of the frame, the action, then the delta tokens."""

    kind: Literal["delta"] = Field("delta", description="which order of tokens within a step")


class BlindLayoutSettings(FrameLayoutSettings):
    """The first frame, then actions and tokens alone."""

    kind: Literal["blind"] = Field("blind", description="which order of tokens within a step")


class PackedLayoutSettings(LayoutSettings):
    """All tokens of a frame in one position; the tokens must show whole frames."""

    kind: Literal["packed"] = Field("packed", description="which order of tokens within a step")


class TokenLayoutSettings(LayoutSettings):
    """The action, then the tokens of the next frame; the tokens must show whole frames."""

    kind: Literal["token"] = Field("token", description="which order of tokens within a step")


LAYOUTS: dict[str, type[LayoutSettings]] = {
    "blind": BlindLayoutSettings,
    "delta": DeltaLayoutSettings,
    "packed": PackedLayoutSettings,
    "token": TokenLayoutSettings,
}


class DynamicsSettings(Settings):
    """What all dynamics models have."""

    kind: str = Field(description="which dynamics model")
    reward: Literal["two_hot", "sign", "expected_sign"] = Field(
        "two_hot",
        description="rewards as numbers (two_hot) or as -1, 0, 1, drawn (sign) or their mean",
    )
    token_weight: float = Field(1.0, ge=0, description="weight of the token loss")
    reward_weight: float = Field(1.0, ge=0, description="weight of the reward loss")
    end_weight: float = Field(1.0, ge=0, description="weight of the end loss")


class TransformerSettings(DynamicsSettings):
    """What all dynamics models have that are one transformer over a layout."""

    width: int = Field(512, ge=1, le=8192, description="numbers in an embedding")
    layers: int = Field(3, ge=1, le=64, description="transformer layers, beside those of a head")
    heads: int = Field(8, ge=1, le=128, description="attention heads; they divide the width")
    blocks: int = Field(21, ge=2, le=1024, description="most steps the transformer remembers")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share dropped in training, never in dreams"
    )
    init: Literal["normal", "fan_in"] = Field(
        "normal", description="how weights begin: N(0, 0.02) as GPT-2's, or by number of inputs"
    )
    layout: Annotated[
        SerializeAsAny[LayoutSettings], Variants("kind", LAYOUTS, shared=FrameLayoutSettings)
    ] = Field(DeltaLayoutSettings(), description="order of tokens within a step")
