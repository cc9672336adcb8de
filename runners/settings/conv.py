"""Settings that all the convolutional networks share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runners.settings.base import Settings

IMAGE = 64
"""Height and width of every observation, in pixels."""

Width = Annotated[int, Field(ge=1, le=64)]
Flag = Annotated[int, Field(ge=0, le=1)]


class ConvSettings(Settings):
    """The stages of an encoder from 64x64 pixels to a grid; a decoder runs them backwards."""

    patch: int = Field(1, ge=1, le=32, description="pixels folded into channels before stage 1")
    groups: int = Field(32, ge=1, le=1024, description="groups of each norm, at most")
    mult: tuple[Width, ...] = Field(
        (1, 1, 2, 2, 4), min_length=1, description="width of each stage, in base widths"
    )
    down: tuple[Flag, ...] = Field(
        (1, 0, 1, 1, 0), min_length=1, description="1 where a stage ends by halving the picture"
    )

    @property
    def grid(self) -> float:
        """Height and width of the grid; not whole where the picture cannot be halved so often."""
        return IMAGE / self.patch / 2 ** sum(self.down)


class DeepConvSettings(ConvSettings):
    """Stages of several blocks, some with self-attention; the defaults are those of IRIS."""

    mult: tuple[Width, ...] = Field(
        (1, 1, 1, 1, 1), min_length=1, description="width of each stage, in base widths"
    )
    down: tuple[Flag, ...] = Field(
        (1, 1, 1, 1, 0), min_length=1, description="1 where a stage ends by halving the picture"
    )
    blocks: int = Field(2, ge=1, le=16, description="residual blocks of a stage")
    attend: tuple[Flag, ...] = Field(
        (0, 0, 1, 1, 0), min_length=1, description="1 where self-attention follows each of them"
    )


class EncoderSettings(Settings):
    """Widths of a frame encoder."""

    base: int = Field(64, ge=1, le=1024, description="channels of the first stage")
    latent: int = Field(64, ge=1, le=1024, description="channels of the grid it ends in")


class ContextSettings(EncoderSettings):
    """Widths of the encoder of the frame before."""

    latent: int = Field(8, ge=1, le=1024, description="channels of the grid it ends in")


class DecoderSettings(Settings):
    """Width of a frame decoder."""

    base: int = Field(64, ge=1, le=1024, description="channels of the last stage")
