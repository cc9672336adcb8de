"""Settings of quantizers, one class for each kind.

Weights of losses count against a reconstruction error in [0,1] pixel units, whose variance is
about 0.06: a published weight for errors divided by their variance is some 17 times as large.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runners.settings.base import Settings

Gradient = Literal["straight_through", "rotation"]
Level = Annotated[int, Field(ge=2, le=256)]


class QuantizerSettings(Settings):
    """What all quantizers have."""

    kind: str = Field(description="which quantizer")


class CodebookSettings(QuantizerSettings):
    """What all quantizers with a table of codes have."""

    size: int = Field(1024, ge=2, le=65_536, description="codes in the codebook")
    dim: int = Field(64, ge=1, le=1024, description="numbers in a code")
    gradient: Gradient = Field(
        "straight_through", description="how gradients pass from codes to vectors"
    )


class AveragedSettings(CodebookSettings):
    """What all quantizers have whose codes are moving averages of their vectors."""

    decay: float = Field(0.99, ge=0, lt=1, description="share a code keeps in one update")
    commitment: float = Field(0.02, ge=0, description="weight of the commitment loss")
    revive_updates: int = Field(0, ge=0, description="updates in which unused codes are replaced")
    revive_below: float = Field(
        1.0, ge=0, le=16, description="bits of usage entropy under which they always are"
    )


class VqEmaSettings(AveragedSettings):
    """A codebook on the unit sphere, moved by averages."""

    kind: Literal["vq_ema"] = Field("vq_ema", description="which quantizer")
    usage_decay: float = Field(0.98, ge=0, lt=1, description="share the usage counts keep")


class VqEuclidSettings(AveragedSettings):
    """A codebook anywhere in space, each code the moving average of its vectors."""

    kind: Literal["vq_euclid"] = Field("vq_euclid", description="which quantizer")
    revive_updates: int = Field(
        5000, ge=0, description="updates in which unused codes are replaced"
    )


class VqGradSettings(CodebookSettings):
    """A codebook that learns by gradient, as IRIS has it."""

    kind: Literal["vq_grad"] = Field("vq_grad", description="which quantizer")
    size: int = Field(512, ge=2, le=65_536, description="codes in the codebook")
    dim: int = Field(512, ge=1, le=1024, description="numbers in a code")
    codebook_weight: float = Field(1.0, ge=0, description="weight of the loss that moves codes")
    commitment: float = Field(1.0, ge=0, description="weight of the commitment loss")


class SimVqSettings(CodebookSettings):
    """Frozen codes through one learned map."""

    kind: Literal["simvq"] = Field("simvq", description="which quantizer")
    codebook_weight: float = Field(0.06, ge=0, description="weight of the loss that moves codes")
    commitment: float = Field(0.015, ge=0, description="weight of the commitment loss")


class FsqSettings(QuantizerSettings):
    """A few numbers, each rounded to a few levels."""

    kind: Literal["fsq"] = Field("fsq", description="which quantizer")
    levels: tuple[Level, ...] = Field(
        (8, 5, 5, 5), min_length=1, max_length=16, description="levels of each number of a code"
    )
    form: Literal["published", "symmetric"] = Field(
        "published", description="even numbers of levels: one more below 0, or alike"
    )


class LfqSettings(QuantizerSettings):
    """The signs of a few numbers."""

    kind: Literal["lfq"] = Field("lfq", description="which quantizer")
    bits: int = Field(10, ge=1, le=16, description="signs in a code; 2^bits codes")
    commitment: float = Field(0.015, ge=0, description="weight of the commitment loss")
    entropy_weight: float = Field(0.001, ge=0, description="weight of the entropy loss")
    gamma: float = Field(1.0, ge=0, description="weight in it of many codes over sure bits")
    temperature: float = Field(1.0, gt=0, le=100, description="how soft the bits of it are")
    entropy: Literal["exact", "factorised"] = Field(
        "exact", description="evenness of codes, or of each bit by itself"
    )
    mean_decay: float = Field(
        0.0, ge=0, lt=1, description="share of mean code probabilities an update keeps"
    )


class BsqSettings(LfqSettings):
    """The signs of a few numbers on the unit sphere."""

    kind: Literal["bsq"] = Field("bsq", description="which quantizer")  # type: ignore[assignment]
    commitment: float = Field(0.0, ge=0, description="weight of the commitment loss")
    entropy: Literal["exact", "factorised"] = Field(
        "factorised", description="evenness of codes, or of each bit by itself"
    )


QUANTIZERS: dict[str, type[QuantizerSettings]] = {
    "bsq": BsqSettings,
    "fsq": FsqSettings,
    "lfq": LfqSettings,
    "simvq": SimVqSettings,
    "vq_ema": VqEmaSettings,
    "vq_euclid": VqEuclidSettings,
    "vq_grad": VqGradSettings,
}
