"""The few settings of commands that work on a finished or interrupted run."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from runners.settings.base import Settings
from runners.settings.config import Device
from runners.settings.quantizers import QUANTIZERS

Part = Literal[
    "tokenizer",
    "world_model",
    "policy",
    "imagination",
    "acting",
    "environment",
    "collection",
    "replay",
    "dynamics",
]
"""What `bench` measures: the updates of each component, then what is common to all agents.

`dynamics` compares kinds of dynamics with each other, so it is only measured where it is asked for.
"""


class CheckEnvOptions(Settings):
    """What `check-env` takes beside the settings of a run."""

    steps: int = Field(300, ge=1, le=100_000, description="random steps, which are played 3 times")


class EvaluateOptions(Settings):
    """What `evaluate` takes."""

    checkpoint: Literal["last", "best"] = Field("last", description="which checkpoint of the run")
    device: Device = Field("auto", description="where the networks live")
    episodes: int | None = Field(None, ge=1, description="episodes; null as many as in training")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="of the episodes; null others than those that chose the best checkpoint",
    )
    policy: Literal["agent", "random"] = Field(
        "agent", description="who acts: the run's agent, or uniformly random actions to compare"
    )
    temperature: float | None = Field(
        None,
        gt=0,
        le=100,
        description="of the agent's actions; null for agent.behaviour.eval_temperature of the run",
    )


class ImagineOptions(Settings):
    """What `imagine` takes. Of the windows, the most eventful `clips` are drawn."""

    checkpoint: Literal["last", "best"] = Field("last", description="which checkpoint of the run")
    device: Device = Field("auto", description="where the networks live")
    episodes: int = Field(16, ge=1, le=1024, description="episodes played to dream from")
    policy: Literal["agent", "random"] = Field(
        "agent", description="who plays them; random ones compare world models of different agents"
    )
    windows: int = Field(64, ge=1, le=4096, description="moments dreamed from, of all episodes")
    clips: int = Field(3, ge=1, le=64, description="clips of a dream beside reality")
    dreams: int = Field(8, ge=1, le=64, description="dreams from one moment")
    context: int | None = Field(
        None, ge=1, le=1000, description="real steps seen before; null as in training"
    )
    horizon: int | None = Field(
        None, ge=1, le=1000, description="imagined steps; null as in training"
    )
    format: Literal["apng", "gif", "mp4"] = Field("apng", description="of the pictures")
    fps: float = Field(5.0, gt=0, le=60, description="steps shown in a second")


class RunsOptions(Settings):
    """What commands take that put finished runs together."""

    random: int = Field(
        100, ge=0, le=100_000, description="episodes of a random policy to compare with; 0 none"
    )


class ReportOptions(RunsOptions):
    """What `report` takes."""

    out: str = Field("report", min_length=1, description="folder to write to, made if need be")


class CompareOptions(RunsOptions):
    """What `compare` takes."""

    out: str = Field("compare", min_length=1, description="folder to write to, made if need be")


class BenchOptions(Settings):
    """What `bench` takes besides the settings of a run."""

    parts: tuple[Part, ...] = Field(
        get_args(Part)[:-1],
        min_length=1,
        description="which to measure, in this order; dynamics, which takes long, only if named",
    )
    seconds: float = Field(40.0, gt=0, le=3600, description="spent on the timings of a part")
    json_file: str | None = Field(
        None, min_length=1, description="where to write the numbers as well"
    )


class QuantizerOptions(Settings):
    """What `quantizers` takes besides the settings of a run."""

    quantizers: tuple[str, ...] = Field(
        tuple(QUANTIZERS), min_length=1, description="which to compare"
    )
    codes: int = Field(
        1024, ge=64, le=4096, description="codes of each, or about as many where they come in steps"
    )
    seeds: int = Field(3, ge=1, le=100, description="trainings of each")
    updates: int = Field(1000, ge=10, le=1_000_000, description="of the tokenizer, in each")
    games: int = Field(64, ge=1, le=4096, description="recorded games of random actions")
    out: str = Field("quantizers", min_length=1, description="folder to write to, made if need be")


class AblateOptions(Settings):
    """What `ablate` takes besides the settings of a run."""

    table: str = Field("diffusion", min_length=1, description="whose rows: configs/ablation/*.yaml")
    rows: tuple[str, ...] = Field((), description="which of its rows; [] all that can be")
    seeds: int = Field(3, ge=1, le=100, description="trainings of each")
    updates: int = Field(1000, ge=1, le=1_000_000, description="of the dynamics, in each")
    tokenizer_updates: int = Field(
        2000, ge=1, le=1_000_000, description="of the tokenizer before, one for all with a seed"
    )
    games: int = Field(64, ge=1, le=4096, description="recorded games of random actions")
    out: str = Field("ablate", min_length=1, description="folder to write to, made if need be")
