"""What must hold between the settings of a policy gradient and of what it goes through."""

from __future__ import annotations

from collections.abc import Iterator

from runners.settings.config import AgentSettings
from runners.settings.dynamics import FactorisedSettings, ParallelSettings
from runners.settings.policies import ReparameterisedSettings
from runners.settings.vectors import GaussianSettings

HERE = "with agent.behaviour.gradient.kind=reparameterised"


def check_gradient(agent: AgentSettings) -> Iterator[str]:
    """A line for each part that has no slope from the action to the value of the next step."""
    dynamics = agent.dynamics
    if not isinstance(agent.behaviour.gradient, ReparameterisedSettings):
        return
    if not isinstance(dynamics, FactorisedSettings | ParallelSettings):
        yield (
            f"agent.dynamics.kind={dynamics.kind} {HERE}: the next tokens must be known together, "
            "before any is drawn, as agent.dynamics.kind=factorised or parallel knows them"
        )
    if dynamics.reward == "sign":
        yield (
            f"agent.dynamics.reward=sign {HERE}: drawn rewards have no slope; "
            "agent.dynamics.reward=expected_sign has their mean"
        )
    if agent.view != "tokens":
        yield (
            f"agent.view={agent.view} {HERE}: only of tokens there is a mean to be seen; "
            "it must be agent.view=tokens"
        )
    if not isinstance(agent.policy, GaussianSettings):
        yield (
            f"agent.policy.kind={agent.policy.kind} {HERE}: actions that are chosen from some "
            "have no slope; it must be agent.policy.kind=gaussian"
        )
    if agent.actions.form != "floats":
        yield (
            f"agent.actions.form={agent.actions.form} {HERE}: the world model must be told actions "
            "as numbers; it must be agent.actions.form=floats"
        )
