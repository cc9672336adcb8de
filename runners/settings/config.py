"""The whole tree of settings. The defaults are those of the published Crafter run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from runners.settings.base import Settings, Variants
from runners.settings.dynamics import DYNAMICS, AutoregressiveSettings
from runners.settings.environments import SUITES, CrafterSettings, EnvSettings
from runners.settings.phases import PhasesSettings
from runners.settings.policies import (
    ACTOR_CRITICS,
    ActorCriticSettings,
    BehaviourSettings,
    CnnLstmSettings,
)
from runners.settings.tokenizers import TOKENIZERS, DeltaVqSettings, TokenizerSettings
from runners.settings.transformers import DynamicsSettings, TransformerSettings
from runners.settings.vectors import (
    POLICIES,
    VECTORS,
    ActionsSettings,
    BinsSettings,
    GaussianSettings,
    PolicySettings,
    VectorsSettings,
)

Device = Literal["auto", "cpu", "cuda"]


class AgentSettings(Settings):
    """What an agent is made of."""

    tokenizer: Annotated[SerializeAsAny[TokenizerSettings], Variants("kind", TOKENIZERS)] = Field(
        DeltaVqSettings(), description="from pictures to tokens and back"
    )
    vectors: Annotated[SerializeAsAny[VectorsSettings], Variants("kind", VECTORS)] = Field(
        BinsSettings(), description="from vectors of numbers to tokens and back"
    )
    actions: ActionsSettings = Field(
        ActionsSettings(), description="how networks are told of actions"
    )
    dynamics: Annotated[
        SerializeAsAny[DynamicsSettings], Variants("kind", DYNAMICS, shared=TransformerSettings)
    ] = Field(AutoregressiveSettings(), description="what the next tokens, reward and end will be")
    view: Literal["frame", "latent", "reconstruction", "tokens"] = Field(
        "frame",
        description="the policy sees the frame, what tokens show of it, its tokens, or features",
    )
    actor_critic: Annotated[
        SerializeAsAny[ActorCriticSettings], Variants("kind", ACTOR_CRITICS)
    ] = Field(CnnLstmSettings(), description="the network that acts and judges")
    policy: Annotated[SerializeAsAny[PolicySettings], Variants("kind", POLICIES)] = Field(
        GaussianSettings(), description="how continuous actions are drawn"
    )
    behaviour: BehaviourSettings = Field(
        BehaviourSettings(), description="how it learns in imagination and acts"
    )
    length_exponent: float = Field(
        0.0, ge=0, le=4, description="replay draws episodes by length to this power; 1 steps alike"
    )
    phases: PhasesSettings = Field(PhasesSettings(), description="updates in an epoch")


class RunSettings(Settings):
    """Budget and schedule. A step is one decision of the agent."""

    steps: int = Field(10_000_000, ge=1, description="environment steps in all")
    first_steps: int = Field(100_000, ge=1, description="steps of epoch 1, acted at random")
    epoch_steps: int = Field(10_000, ge=1, description="steps of each later epoch")
    tail_epochs: int = Field(9, ge=0, description="epochs at the end that only learn")
    chunk_steps: int = Field(1000, ge=1, description="steps between two chances to stop and save")
    eval_every: int = Field(500_000, ge=0, description="steps between evaluations; 0 at the end")
    eval_episodes: int = Field(64, ge=1, description="episodes of an evaluation")
    eval_envs: int = Field(32, ge=1, le=1024, description="parallel environments evaluating")
    checkpoint_minutes: float = Field(10.0, gt=0, description="minutes between checkpoints")
    keep: int = Field(2, ge=1, le=1000, description="newest checkpoints kept, beside the best")
    dream_minutes: float = Field(5.0, ge=0, description="minutes between pictures; 0 at the end")


class PresetNames(Settings):
    """The presets a run was made from: they name its folder."""

    env: str = Field("crafter", description="preset of the environment")
    agent: str = Field("delta_iris", description="preset of the agent")
    size: str = Field("paper", description="preset of the size")
    run: str = Field("crafter10m", description="preset of budget and schedule")


class Config(Settings):
    """Everything that decides how a run goes."""

    presets: PresetNames = Field(PresetNames(), description="the presets chosen")
    seed: int = Field(0, ge=0, lt=2**31, description="of all random numbers")
    device: Device = Field("auto", description="where the networks live")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of torch; 0 all cores")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic; auto is bfloat16 where the hardware has it"
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="the run folder's name; null made up",
    )
    root: str = Field("runs", min_length=1, description="folder of all run folders")
    console: Literal["auto", "rich", "plain"] = Field(
        "auto", description="a live block (rich), lines (plain), or what fits the terminal"
    )
    env: Annotated[SerializeAsAny[EnvSettings], Variants("suite", SUITES)] = Field(
        CrafterSettings(), description="the environment"
    )
    agent: AgentSettings = Field(AgentSettings(), description="the agent")
    run: RunSettings = Field(RunSettings(), description="budget and schedule")
