"""Settings of tokenizers and their quantizers, one class for each kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from runners.settings.base import Settings, Variants
from runners.settings.conv import ContextSettings, ConvSettings, DecoderSettings, EncoderSettings


class QuantizerSettings(Settings):
    """What all quantizers have."""

    kind: str = Field(description="which quantizer")


class VqEmaSettings(QuantizerSettings):
    """A codebook on the unit sphere, moved by averages."""

    kind: Literal["vq_ema"] = Field("vq_ema", description="which quantizer")
    size: int = Field(1024, ge=2, le=65_536, description="codes in the codebook")
    dim: int = Field(64, ge=1, le=1024, description="numbers in a code")
    decay: float = Field(0.99, ge=0, lt=1, description="share a code keeps in one update")
    usage_decay: float = Field(0.98, ge=0, lt=1, description="share the usage counts keep")
    commitment: float = Field(0.02, ge=0, description="weight of the commitment loss")
    revive_updates: int = Field(0, ge=0, description="updates in which unused codes are replaced")
    revive_below: float = Field(
        1.0, ge=0, le=16, description="bits of usage entropy under which they always are"
    )


QUANTIZERS: dict[str, type[QuantizerSettings]] = {
    "vq_ema": VqEmaSettings,
}


class TokenizerSettings(ConvSettings):
    """What all tokenizers have."""

    kind: str = Field(description="which tokenizer")
    tokens: int = Field(4, ge=1, le=1024, description="tokens of one step")


class DeltaVqSettings(TokenizerSettings):
    """Tokens of what the frame before and the action leave undetermined."""

    kind: Literal["delta_vq"] = Field("delta_vq", description="which tokenizer")
    encoder: EncoderSettings = Field(
        EncoderSettings(), description="network from two frames and the action to tokens"
    )
    context: ContextSettings = Field(
        ContextSettings(), description="network that shows the decoder the frame before"
    )
    decoder: DecoderSettings = Field(
        DecoderSettings(), description="network from tokens and context to the frame"
    )
    action_channels: int = Field(
        4, ge=1, le=64, description="channels of the action's picture shown to the decoder"
    )
    context_noise: float = Field(
        0.0, ge=0, le=1, description="noise on the frame before that the decoder trains with"
    )
    l1: float = Field(0.1, ge=0, description="weight of the absolute error")
    l2: float = Field(1.0, ge=0, description="weight of the squared error")
    worst: float = Field(0.01, ge=0, description="weight of each frame's worst squared error")
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], Variants("kind", QUANTIZERS)] = Field(
        VqEmaSettings(), description="from vectors to codes"
    )


TOKENIZERS: dict[str, type[TokenizerSettings]] = {
    "delta_vq": DeltaVqSettings,
}
