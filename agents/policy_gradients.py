"""Which way a policy is to move its actions. Axes: B rollouts, H steps, A numbers of an action."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agents.protocols import (
    ActionHead,
    ActorCritic,
    Carry,
    Expecting,
    Kept,
    PolicyGradient,
    Retracing,
    ReturnScale,
    View,
)
from worldmodels.protocols import State
from worldmodels.world_model import WorldModel


class Reinforce:
    """By how likely actions were, times what they brought beyond the baseline (Williams 1992)."""

    def __init__(
        self, *, world_model: WorldModel, view: View, head: ActionHead, gamma: float
    ) -> None:
        self.head = head

    def watch(self, actor_critic: ActorCritic, state: State, act: Tensor, carry: Carry) -> Kept:
        """Nothing."""
        return ()

    def terms(
        self, outputs: Tensor, act: Tensor, *, advantage: Tensor, kept: Kept, scale: ReturnScale
    ) -> tuple[Tensor, Tensor]:
        """The log-probabilities of actions times their advantages, and the entropies."""
        taken, entropies = self.head.score(outputs, act)
        return taken * scale(advantage), entropies


class Reparameterised:
    """By the slope of one predicted step: value gradients of SVG(1) in a world model of tokens.

    Heess et al. 2015, arXiv 1510.09142: an action is a function of the policy's outputs and of
    noise, retraced from the action taken, and moves along the slope of

        reward + gamma (1 - probability of the end) V(next moment).

    Tokens are drawn and have no slope. The policy is shown the mean of what tokens stand for
    instead, as DCWM plans (Scannell et al. 2025, arXiv 2503.00653); rollouts go on from drawn
    ones. V is the online critic, whose memory of the rollout is at hand, whichever critic the
    returns are made of. Terms are means over the A numbers of an action, as log-probabilities are,
    so both gradients have the same expectation but for what world model and critic get wrong.

    Raises ValueError for a head of other actions.
    """

    def __init__(
        self, *, world_model: WorldModel, view: View, head: ActionHead, gamma: float
    ) -> None:
        if not isinstance(head, Retracing):
            raise ValueError(
                "agent.behaviour.gradient.kind=reparameterised: the actions of this environment "
                "are choices, which have no slope; agent.behaviour.gradient.kind=reinforce needs "
                "none"
            )
        assert isinstance(view, Expecting), "the view has no picture of tokens not drawn yet"
        self.head, self.view, self.world_model, self.gamma = head, view, world_model, gamma

    def watch(self, actor_critic: ActorCritic, state: State, act: Tensor, carry: Carry) -> Kept:
        """The slope (B,A) of `worth` by the actions."""
        with torch.enable_grad():
            act = act.detach().requires_grad_()
            worth = self.worth(actor_critic, state, act, carry)
            return torch.autograd.grad(worth.sum(), act)

    def worth(self, actor_critic: ActorCritic, state: State, act: Tensor, carry: Carry) -> Tensor:
        """What actions (B,A) are expected to bring, (B,), with gradients to them."""
        outlook = self.world_model.outlook(state, act)
        x = self.view.expected(self.world_model, outlook.logits)
        decision, _ = actor_critic(x[:, None], carry)
        value = actor_critic.value.predict(decision.critic)[:, 0]
        return outlook.rew + self.gamma * (1 - outlook.end_prob) * value

    def terms(
        self, outputs: Tensor, act: Tensor, *, advantage: Tensor, kept: Kept, scale: ReturnScale
    ) -> tuple[Tensor, Tensor]:
        """Actions times their slopes, and the entropies."""
        (slope,) = kept
        _, entropies = self.head.score(outputs, act)
        return (self.head.retrace(outputs, act) * scale(slope)).mean(-1), entropies


POLICY_GRADIENTS: dict[str, Callable[..., PolicyGradient]] = {
    "reinforce": Reinforce,
    "reparameterised": Reparameterised,
}
