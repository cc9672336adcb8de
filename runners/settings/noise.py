"""Settings of noise and of samplers, which make frames of it, one class for each kind."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runners.settings.base import Settings

ScheduleName = Literal["linear", "poly", "cosine", "geometric"]
Counts = Literal["cosine", "uniform"]
Shape = Literal["linear", "cosine", "copilot"]


class ProcessSettings(Settings):
    """What all corruption processes have."""

    kind: str = Field(description="what noise is")


class AbsorbingSettings(ProcessSettings):
    """Some tokens are masked, and those are learned."""

    kind: Literal["absorbing"] = Field("absorbing", description="what noise is")
    counts: Counts = Field(
        "cosine", description="how many tokens are masked: often many (cosine), or any number"
    )
    schedule: ScheduleName = Field(
        "linear", description="how noise grows; counts only for sampler.kind=reverse"
    )


class UniformSettings(ProcessSettings):
    """Tokens are replaced by any others."""

    kind: Literal["uniform"] = Field("uniform", description="what noise is")
    schedule: ScheduleName = Field("linear", description="how noise grows with time")


class HybridSettings(ProcessSettings):
    """Tokens are masked or replaced, and masks are the end of it: GIDD."""

    kind: Literal["hybrid"] = Field("hybrid", description="what noise is")
    replaced: float = Field(0.1, ge=0, lt=1, description="share replaced at half the time")


class Copilot4DSettings(ProcessSettings):
    """Tokens are masked, some of the others replaced, and all are learned."""

    kind: Literal["copilot4d"] = Field("copilot4d", description="what noise is")
    replaced: float = Field(0.2, ge=0, le=1, description="largest share of visible tokens replaced")
    counts: Counts = Field(
        "cosine", description="how many tokens are masked: often many (cosine), or any number"
    )


PROCESSES: dict[str, type[ProcessSettings]] = {
    "absorbing": AbsorbingSettings,
    "copilot4d": Copilot4DSettings,
    "hybrid": HybridSettings,
    "uniform": UniformSettings,
}


class SamplerSettings(Settings):
    """What all samplers have."""

    kind: str = Field(description="how noise becomes a frame")
    steps: int = Field(4, ge=1, le=1024, description="steps from noise to a frame")
    temperature: float = Field(1.0, gt=0, le=100, description="of the tokens drawn; 1 as learned")
    top_k: int | None = Field(
        None, ge=1, description="draw among this many likeliest tokens; null all"
    )


class GroupedSettings(SamplerSettings):
    """What samplers have whose every step reveals tokens."""


class ShapedSettings(GroupedSettings):
    """What samplers have that reveal a fixed number of tokens a step."""

    shape: Shape = Field(
        "linear", description="tokens revealed a step: alike, few first (cosine), many (copilot)"
    )


class RandomSettings(ShapedSettings):
    """Reveals tokens in random order: exact with one token a step."""

    kind: Literal["random"] = Field("random", description="how noise becomes a frame")


class ConfidenceSettings(ShapedSettings):
    """Reveals the likeliest tokens first, as MaskGIT does; rare events become rarer."""

    kind: Literal["confidence"] = Field("confidence", description="how noise becomes a frame")
    shape: Shape = Field(
        "cosine", description="tokens revealed a step: alike, few first (cosine), many (copilot)"
    )
    noise: float = Field(4.5, ge=0, le=1000, description="noise on the order at the first step")


class BudgetSettings(GroupedSettings):
    """What samplers have that reveal what may be drawn at once."""

    budget: float = Field(
        0.2, ge=0, le=1000, description="nats by which tokens drawn at once may depend"
    )


class EntropyBoundedSettings(BudgetSettings):
    """Reveals the surest tokens, as many as the budget allows."""

    kind: Literal["entropy_bounded"] = Field(
        "entropy_bounded", description="how noise becomes a frame"
    )


class EventFirstSettings(BudgetSettings):
    """Reveals the least sure token, and with it the surest ones that the budget allows."""

    kind: Literal["event_first"] = Field("event_first", description="how noise becomes a frame")


class ReviseSettings(ShapedSettings):
    """Reveals the likeliest tokens and draws those shown anew, as Copilot4D does."""

    kind: Literal["copilot4d"] = Field("copilot4d", description="how noise becomes a frame")
    shape: Shape = Field(
        "copilot", description="tokens revealed a step: alike, few first (cosine), many (copilot)"
    )
    visible: Literal["resample", "keep"] = Field(
        "resample", description="what becomes of tokens shown already"
    )
    noise: float = Field(1.0, ge=0, le=1000, description="noise on the order at the first step")


class GibbsSettings(GroupedSettings):
    """Hides tokens group by group and draws them anew."""

    kind: Literal["gibbs"] = Field("gibbs", description="how noise becomes a frame")
    sweeps: int = Field(2, ge=1, le=64, description="times that every token is drawn")


class PlannedSettings(ShapedSettings):
    """Draws the least credible tokens anew; two calls a step."""

    kind: Literal["planned"] = Field("planned", description="how noise becomes a frame")
    finish: float = Field(0.05, ge=0, le=1, description="doubt of a token above which it may go")


class TimedSettings(SamplerSettings):
    """What samplers have that go back in time."""

    schedule: ScheduleName = Field("linear", description="how noise ceases with time")


class AncestralSettings(TimedSettings):
    """Reveals each token with a probability of its own."""

    kind: Literal["ancestral"] = Field("ancestral", description="how noise becomes a frame")


class RemaskSettings(TimedSettings):
    """The same, and hides some tokens again: ReMDM."""

    kind: Literal["remask"] = Field("remask", description="how noise becomes a frame")
    rule: Literal["cap", "rescale", "conf"] = Field(
        "rescale", description="how likely a shown token is hidden: see strength"
    )
    strength: float = Field(
        0.1,
        ge=0,
        le=1,
        description="of hiding: at most that (cap), or that share of the most",
    )


class ReverseSettings(SamplerSettings):
    """The reverse of the noise itself in steps of time; errs, as no net is told the time."""

    kind: Literal["reverse"] = Field("reverse", description="how noise becomes a frame")


SAMPLERS: dict[str, type[SamplerSettings]] = {
    "ancestral": AncestralSettings,
    "confidence": ConfidenceSettings,
    "copilot4d": ReviseSettings,
    "entropy_bounded": EntropyBoundedSettings,
    "event_first": EventFirstSettings,
    "gibbs": GibbsSettings,
    "planned": PlannedSettings,
    "random": RandomSettings,
    "remask": RemaskSettings,
    "reverse": ReverseSettings,
}
