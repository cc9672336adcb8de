"""Settings of the networks that decide, one class for each kind, and of how they learn."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from runners.settings.base import Settings, Variants
from runners.settings.conv import IMAGE, ConvSettings

Channels = Annotated[int, Field(ge=1, le=1024)]


class ActorCriticSettings(Settings):
    """What all actor-critics have. `reads`: frames, tokens, features; the view must show one."""

    reads: ClassVar[tuple[str, ...]] = ("frames",)
    kind: str = Field(description="which actor-critic")
    value: Literal["two_hot", "scalar", "hl_gauss"] = Field(
        "two_hot",
        description="values as shares of two buckets, one number, or a Gaussian's histogram",
    )


class CnnLstmSettings(ActorCriticSettings, ConvSettings):
    """A frame encoder and an LSTM."""

    kind: Literal["cnn_lstm"] = Field("cnn_lstm", description="which actor-critic")
    base: int = Field(32, ge=1, le=1024, description="channels of the first stage")
    latent: int = Field(16, ge=1, le=1024, description="channels of the grid it ends in")
    hidden: int = Field(512, ge=1, le=8192, description="numbers in the LSTM's memory")


class PoolLstmSettings(ActorCriticSettings):
    """Convolutions that halve the picture by pooling, and an LSTM, as IRIS has them."""

    kind: Literal["pool_lstm"] = Field("pool_lstm", description="which actor-critic")
    patch: int = Field(1, ge=1, le=32, description="pixels folded into channels before stage 1")
    widths: tuple[Channels, ...] = Field(
        (32, 32, 64, 64), min_length=1, description="channels of each stage, which halves"
    )
    hidden: int = Field(512, ge=1, le=8192, description="numbers in the LSTM's memory")

    @property
    def grid(self) -> float:
        """Height and width of the grid; not whole where the picture cannot be halved so often."""
        return IMAGE / self.patch / 2 ** len(self.widths)


class TokenTransformerSettings(ActorCriticSettings):
    """A transformer over a frame's tokens and a memory token, as DART has it."""

    reads = ("tokens",)
    kind: Literal["token_transformer"] = Field(
        "token_transformer", description="which actor-critic"
    )
    width: int = Field(256, ge=1, le=8192, description="numbers in an embedding and in memory")
    layers: int = Field(6, ge=1, le=64, description="transformer layers")
    heads: int = Field(4, ge=1, le=128, description="attention heads; they divide the width")
    mlp: int = Field(512, ge=1, le=32768, description="units of each layer's MLP")


class MlpSettings(ActorCriticSettings):
    """Perceptrons over features or tokens, without memory; policy and critic share nothing."""

    reads = ("features", "tokens")
    kind: Literal["mlp"] = Field("mlp", description="which actor-critic")
    hidden: int = Field(512, ge=1, le=8192, description="units of a hidden layer")
    layers: int = Field(2, ge=0, le=16, description="hidden layers of each")


ACTOR_CRITICS: dict[str, type[ActorCriticSettings]] = {
    "cnn_lstm": CnnLstmSettings,
    "mlp": MlpSettings,
    "pool_lstm": PoolLstmSettings,
    "token_transformer": TokenTransformerSettings,
}


class CriticTargetsSettings(Settings):
    """What all sources of a critic's targets have."""

    kind: str = Field(description="whose values returns and baselines are made of")


class TargetNetworkSettings(CriticTargetsSettings):
    """The target network's, which trails the critic."""

    kind: Literal["target_network"] = Field(
        "target_network", description="whose values returns and baselines are made of"
    )


class SelfRegularisedSettings(CriticTargetsSettings):
    """The critic's own; its loss also pulls it to the target network's."""

    kind: Literal["self_regularised"] = Field(
        "self_regularised", description="whose values returns and baselines are made of"
    )
    weight: float = Field(1.0, ge=0, description="weight of the pull to the target network's")


CRITIC_TARGETS: dict[str, type[CriticTargetsSettings]] = {
    "target_network": TargetNetworkSettings,
    "self_regularised": SelfRegularisedSettings,
}


class ReturnScaleSettings(Settings):
    """What all units of advantages have."""

    kind: str = Field(description="what advantages are divided by")


class UnscaledSettings(ReturnScaleSettings):
    """Advantages as they are."""

    kind: Literal["none"] = Field("none", description="what advantages are divided by")


class PercentilesSettings(ReturnScaleSettings):
    """A moving average of the range of most returns, where that is large."""

    kind: Literal["percentiles"] = Field(
        "percentiles", description="what advantages are divided by"
    )
    low: float = Field(5.0, ge=0, le=100, description="percentile where the range begins")
    high: float = Field(95.0, ge=0, le=100, description="percentile where it ends")
    decay: float = Field(0.99, ge=0, lt=1, description="share the moving average keeps")
    limit: float = Field(1.0, gt=0, description="the least to divide by: smaller ranges stay small")


RETURN_SCALES: dict[str, type[ReturnScaleSettings]] = {
    "none": UnscaledSettings,
    "percentiles": PercentilesSettings,
}


class GradientSettings(Settings):
    """What all policy gradients have."""

    kind: str = Field(description="what tells the policy which actions are good")


class ReinforceSettings(GradientSettings):
    """What imagined actions brought."""

    kind: Literal["reinforce"] = Field(
        "reinforce", description="what tells the policy which actions are good"
    )


class ReparameterisedSettings(GradientSettings):
    """The slope of reward and value by the action, through one step of the world model."""

    kind: Literal["reparameterised"] = Field(
        "reparameterised", description="what tells the policy which actions are good"
    )


GRADIENTS: dict[str, type[GradientSettings]] = {
    "reinforce": ReinforceSettings,
    "reparameterised": ReparameterisedSettings,
}


class BehaviourSettings(Settings):
    """How the policy learns in imagination and acts in the environment."""

    horizon: int = Field(15, ge=1, le=1000, description="imagined steps")
    context: int = Field(5, ge=0, le=1000, description="real steps seen before imagination")
    model_context: int | None = Field(
        None, ge=0, le=1000, description="how many of them the world model sees; null all"
    )
    gamma: float = Field(0.997, gt=0, le=1, description="discount of a step")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of the returns")
    entropy: float = Field(0.001, ge=0, description="weight of the policy's entropy")
    target_decay: float = Field(0.995, ge=0, lt=1, description="share the target network keeps")
    gradient: Annotated[SerializeAsAny[GradientSettings], Variants("kind", GRADIENTS)] = Field(
        ReinforceSettings(), description="how the policy learns which actions are good"
    )
    critic_targets: Annotated[
        SerializeAsAny[CriticTargetsSettings], Variants("kind", CRITIC_TARGETS)
    ] = Field(TargetNetworkSettings(), description="where the critic's targets come from")
    return_scale: Annotated[
        SerializeAsAny[ReturnScaleSettings], Variants("kind", RETURN_SCALES)
    ] = Field(UnscaledSettings(), description="the unit of advantages")
    epsilon: float = Field(0.01, ge=0, le=1, description="share of random actions in training")
    temperature: float = Field(1.0, gt=0, le=10, description="sampling temperature of actions")
    eval_temperature: float = Field(
        1.0, gt=0, le=100, description="the same in evaluations; small is greedy"
    )
