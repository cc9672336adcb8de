"""Settings of what becomes of numbers: observations that are vectors, and actions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from runners.settings.base import Settings, Variants
from runners.settings.quantizers import QUANTIZERS, FsqSettings, QuantizerSettings


class VectorsSettings(Settings):
    """What all tokenizers of vectors have."""

    kind: str = Field(description="how vectors become tokens")


class BinsSettings(VectorsSettings):
    """A token for each number: the nearest value of a grid."""

    kind: Literal["bins"] = Field("bins", description="how vectors become tokens")
    grid: Literal[
        "core_tails", "quantile", "spread", "symlog", "symlog_two_densities", "uniform"
    ] = Field(
        "spread", description="where the values lie; the first steps of a run tell some grids"
    )
    values: int = Field(125, ge=8, le=1025, description="values of a number")


class VectorMlpSettings(VectorsSettings):
    """A few tokens for a whole vector: perceptrons around a quantizer."""

    kind: Literal["mlp"] = Field("mlp", description="how vectors become tokens")
    tokens: int = Field(8, ge=1, le=1024, description="tokens of a vector")
    hidden: int = Field(256, ge=1, le=8192, description="units of a hidden layer")
    layers: int = Field(2, ge=0, le=16, description="hidden layers of encoder and decoder")
    decay: float = Field(0.999, ge=0, lt=1, description="share the running scale keeps")
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], Variants("kind", QUANTIZERS)] = Field(
        FsqSettings(levels=(5, 5, 5)), description="from vectors to codes"
    )


VECTORS: dict[str, type[VectorsSettings]] = {"bins": BinsSettings, "mlp": VectorMlpSettings}


class ActionsSettings(Settings):
    """How nets are told of actions of several dimensions."""

    form: Literal["floats", "bins", "tokens"] = Field(
        "floats",
        description="continuous ones as numbers, by their bins, or a token for each dimension",
    )
    bins: int = Field(51, ge=2, le=1024, description="values of a dimension, -1 and 1 among them")


class PolicySettings(Settings):
    """What all policies over continuous actions have."""

    kind: str = Field(description="how continuous actions are drawn")


class GaussianSettings(PolicySettings):
    """Gaussians squashed by tanh."""

    kind: Literal["gaussian"] = Field("gaussian", description="how continuous actions are drawn")
    min_std: float = Field(0.1, gt=0, le=10, description="least deviation before tanh")
    max_std: float = Field(1.0, gt=0, le=10, description="largest deviation before tanh")


class BinnedSettings(PolicySettings):
    """A choice among values for each dimension, as Simulus has it."""

    kind: Literal["binned"] = Field("binned", description="how continuous actions are drawn")
    bins: int = Field(51, ge=2, le=1024, description="values of a dimension, -1 and 1 among them")


POLICIES: dict[str, type[PolicySettings]] = {"binned": BinnedSettings, "gaussian": GaussianSettings}
