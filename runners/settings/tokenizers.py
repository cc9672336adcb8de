"""Settings of tokenizers, one class for each kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from runners.settings.base import Settings, Variants
from runners.settings.conv import (
    ContextSettings,
    ConvSettings,
    DecoderSettings,
    DeepConvSettings,
    EncoderSettings,
)
from runners.settings.quantizers import QUANTIZERS, QuantizerSettings, VqEmaSettings, VqGradSettings


class TokenizerSettings(Settings):
    """What all tokenizers have."""

    kind: str = Field(description="which tokenizer")


class AutoencoderSettings(TokenizerSettings, ConvSettings):
    """What all tokenizers have that learn to rebuild frames from quantised vectors."""

    tokens: int = Field(4, ge=1, le=1024, description="tokens of one step")
    l1: float = Field(0.1, ge=0, description="weight of the absolute error")
    l2: float = Field(1.0, ge=0, description="weight of the squared error")
    worst: float = Field(0.01, ge=0, description="weight of each frame's worst squared error")
    perceptual: float = Field(
        0.0, ge=0, description="weight of LPIPS, which needs two files of weights; 0 none"
    )
    perceptual_weights: str | None = Field(
        None, min_length=1, description="the folder with those files; null that of torch.hub"
    )
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], Variants("kind", QUANTIZERS)] = Field(
        VqEmaSettings(), description="from vectors to codes"
    )


class DeltaVqSettings(AutoencoderSettings):
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


class FrameVqSettings(DeepConvSettings, AutoencoderSettings):
    """Tokens of a frame by itself, as IRIS has them."""

    kind: Literal["frame_vq"] = Field("frame_vq", description="which tokenizer")
    tokens: int = Field(16, ge=1, le=1024, description="tokens of one frame")
    encoder: EncoderSettings = Field(
        EncoderSettings(latent=512), description="network from a frame to tokens"
    )
    decoder: DecoderSettings = Field(
        DecoderSettings(), description="network from tokens to the frame"
    )
    l1: float = Field(2.0, ge=0, description="weight of the absolute error")
    l2: float = Field(0.0, ge=0, description="weight of the squared error")
    worst: float = Field(0.0, ge=0, description="weight of each frame's worst squared error")
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], Variants("kind", QUANTIZERS)] = Field(
        VqGradSettings(), description="from vectors to codes"
    )


class PatchNnSettings(TokenizerSettings):
    """Tokens of a frame that are the nearest of the patches seen so far; for pictures of tiles."""

    kind: Literal["patch_nn"] = Field("patch_nn", description="which tokenizer")
    patch: int = Field(
        8, ge=4, le=32, description="height and width of a square; 7 fits the tiles of Crafter"
    )
    size: int = Field(4096, ge=2, le=65_536, description="patches stored at most")
    threshold: float = Field(
        0.75, gt=0, description="squared distance above which a square is a new patch"
    )
    candidates: int = Field(
        256, ge=1, le=4096, description="new squares of a batch that one update looks at"
    )


TOKENIZERS: dict[str, type[TokenizerSettings]] = {
    "delta_vq": DeltaVqSettings,
    "frame_vq": FrameVqSettings,
    "patch_nn": PatchNnSettings,
}
