"""Settings of the dynamics models, one class for each kind."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runners.settings.diffusion import DiffusionSettings
from runners.settings.transformers import DynamicsSettings, TransformerSettings


class AutoregressiveSettings(TransformerSettings):
    """A causal transformer that writes the tokens of a step one after the other."""

    kind: Literal["autoregressive"] = Field("autoregressive", description="which dynamics model")


class ParallelSettings(TransformerSettings):
    """A causal transformer that writes all tokens of a step at once, as REM does."""

    kind: Literal["parallel"] = Field("parallel", description="which dynamics model")


class FactorisedSettings(TransformerSettings):
    """A causal transformer that writes all tokens of a step at once, from one position."""

    kind: Literal["factorised"] = Field("factorised", description="which dynamics model")
    max_offset: int = Field(
        0,
        ge=0,
        le=1024,
        description="up to so many ids from the token now, its offset is scored, too; 0 for none",
    )


DYNAMICS: dict[str, type[DynamicsSettings]] = {
    "autoregressive": AutoregressiveSettings,
    "diffusion": DiffusionSettings,
    "factorised": FactorisedSettings,
    "parallel": ParallelSettings,
}
