"""An agent: a world model, a view of it, an actor-critic that learns inside it.

Axes: B batch, N environments, H imagined steps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.imagine import imagine
from agents.protocols import (
    ActionHead,
    ActorCritic,
    Carry,
    CriticTargets,
    Kept,
    Learner,
    PolicyGradient,
    ReturnScale,
    View,
)
from agents.returns import alive, lambda_returns
from envs.spaces import Obs
from worldmodels.batch import Batch, at, stretch
from worldmodels.nets.conv import largest_map
from worldmodels.protocols import Loss, State
from worldmodels.tokenizers.entries import Several, Whole
from worldmodels.world_model import WorldModel


@dataclass(frozen=True)
class Lesson:
    """What imagination teaches the policy: moments, actions, targets.

    x (B,H,*X); act (B,H,*A); ret baseline (B,H); slow (B,H): the slow critic's values; mask (B,H)
    bool, up to the first end; carry: the online policy's memory before x. kept (B,H,...): by the
    policy gradient.
    """

    x: Obs
    act: Tensor
    ret: Tensor
    baseline: Tensor
    slow: Tensor
    mask: Tensor
    carry: Carry
    kept: Kept = ()


class Agent(nn.Module):
    """Acts in real environments, and learns from real windows and imagined steps.

    horizon: imagined steps. gamma, lam: discount and lambda of the returns. entropy: weight of
    the policy's entropy. target_decay: how much of the target network one update keeps.
    gradient: what actions are good for.
    critic_targets: whose values returns are made of. return_scale: the unit of advantages.
    """

    def __init__(
        self,
        *,
        world_model: WorldModel,
        view: View,
        actor_critic: ActorCritic,
        head: ActionHead,
        gradient: PolicyGradient,
        horizon: int,
        gamma: float,
        lam: float,
        entropy: float,
        target_decay: float,
        critic_targets: CriticTargets,
        return_scale: ReturnScale,
    ) -> None:
        super().__init__()
        self.world_model, self.view, self.actor_critic = world_model, view, actor_critic
        self.head, self.gradient = head, gradient
        self.target = copy.deepcopy(actor_critic)
        self.horizon, self.gamma, self.lam = horizon, gamma, lam
        self.entropy, self.target_decay = entropy, target_decay
        self.critic_targets, self.return_scale = critic_targets, return_scale

    def initial(self, batch: int) -> Carry:
        """The carry before the first observation: the view's tensors, then the policy's."""
        return (*self.view.initial(self.world_model, batch), *self.actor_critic.initial(batch))

    @torch.no_grad()
    def watch(self, past: Batch) -> Carry:
        """The carry after the real frames before past.obs[:, -1]."""
        x = self.view.real(self.world_model, past)
        remembered = self.actor_critic.watch(at(x, slice(None, -1)), past.seen[:, :-1])
        return (*self.view.watch(past), *remembered)

    @torch.no_grad()
    def judge(self, obs: Obs, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Outputs for the action head (B,size), value (B,), next carry at real frames (B,*O).

        What is done there is for `took` to say.
        """
        own, policys = self._parts(carry)
        x, own = self.view.observe(self.world_model, obs, own)
        outputs, value, policys = self._judge(x, policys)
        return outputs, value, (*own, *policys)

    @torch.no_grad()
    def judge_dream(self, state: State, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """The same at imagined moments."""
        own, policys = self._parts(carry)
        x = self.view.imagined(self.world_model, state)
        outputs, value, policys = self._judge(x, policys)
        return outputs, value, (*own, *policys)

    def _parts(self, carry: Carry) -> tuple[Carry, Carry]:
        """The view's and the policy's."""
        return carry[: self.view.carries], carry[self.view.carries :]

    def _judge(self, x: Obs, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        decision, carry = self.actor_critic(stretch(x), carry)
        value = self.actor_critic.value.predict(decision.critic)
        return decision.actor[:, 0].float(), value[:, 0], carry

    def act(self, obs: Obs, carry: Carry, temperature: float = 1.0) -> tuple[Tensor, Carry]:
        """Sample actions (N,*A) for frames (N,*O); the carry counts them as taken."""
        outputs, _, carry = self.judge(obs, carry)
        act = self.head.sample(outputs, temperature)
        return act, self.took(carry, act)

    def took(self, carry: Carry, act: Tensor) -> Carry:
        """The carry where these actions (N,*A) were taken, whatever was chosen."""
        own, policys = self._parts(carry)
        return (*self.view.took(own, act), *policys)

    def learners(self) -> list[Learner]:
        """What a trainer updates, in this order: tokenizer, world model, policy."""
        tokenizer, dynamics = self.world_model.tokenizer, self.world_model.dynamics
        policy = self.actor_critic
        assert isinstance(tokenizer, nn.Module) and isinstance(dynamics, nn.Module)
        assert isinstance(policy, nn.Module)
        return [
            Learner(
                name="tokenizer",
                prepare=lambda batch: batch,
                weight=tokenizer.weight,
                loss=tokenizer.loss,
                learn=tokenizer.learn,
                module=tokenizer,
                starts=False,
                frame_values=largest_map(tokenizer),
                tokenize=self.world_model.tokenize,
                fit=tokenizer.fit if isinstance(tokenizer, Whole | Several) else None,
            ),
            Learner(
                name="world_model",
                prepare=lambda batch: (batch, self.world_model.tokenize(batch)),
                weight=lambda pair: pair[0].valid.sum(1),
                loss=lambda pair: dynamics.loss(*pair),
                learn=lambda _: {},
                module=dynamics,
                starts=False,
                frame_values=dynamics.frame_values,
            ),
            Learner(
                name="policy",
                prepare=self.lesson,
                weight=lambda lesson: lesson.mask.sum(1),
                loss=self.policy_loss,
                learn=lambda seen: self._learn(*seen),
                module=policy,
                starts=True,
                frame_values=policy.frame_values,
            ),
        ]

    @torch.no_grad()
    def lesson(self, past: Batch) -> Lesson:
        """Imagine from past.obs[:, -1] and work out the targets, without gradient."""
        world_model, view, online = self.world_model, self.view, self.actor_critic
        real, seen = view.real(world_model, past), past.seen[:, :-1]
        before = at(real, slice(None, -1))
        carry = online.watch(before, seen)
        state, x = world_model.start(past), at(real, -1)
        rollout = imagine(
            world_model,
            view,
            online,
            self.head,
            self.gradient,
            state=state,
            x=x,
            carry=carry,
            horizon=self.horizon,
        )

        def slow() -> Tensor:
            return values(self.target, rollout.x, self.target.watch(before, seen))

        value, slow_value = self.critic_targets.judge(
            online=lambda: values(online, rollout.x, carry), slow=slow
        )
        return Lesson(
            x=at(rollout.x, slice(None, -1)),
            act=rollout.act,
            ret=lambda_returns(rollout.rew, rollout.end, value, gamma=self.gamma, lam=self.lam),
            baseline=value[:, :-1],
            slow=slow_value[:, :-1],
            mask=alive(rollout.end),
            carry=carry,
            kept=rollout.kept,
        )

    def policy_loss(self, lesson: Lesson) -> Loss:
        """The policy gradient, entropy, and the critic's losses; means over the mask.

        Advantages count in the unit of `return_scale`; the log has them as they are. Gradients
        flow through the policy's memory over the H steps, never through the world model.
        """
        decision, _ = self.actor_critic(lesson.x, lesson.carry)
        weight = lesson.mask.float() / lesson.mask.sum().clamp_min(1)
        advantage = lesson.ret - lesson.baseline
        gains, entropies = self.gradient.terms(
            decision.actor,
            lesson.act,
            advantage=advantage,
            kept=lesson.kept,
            scale=self.return_scale,
        )
        policy = -(gains * weight).sum()
        entropy = (entropies * weight).sum()
        terms = self.critic_targets.losses(
            self.actor_critic.value, decision.critic, lesson.ret, lesson.slow
        )
        critic = {name: (term * weight).sum() for name, term in terms.items()}
        parts = {
            "policy_loss": policy,
            "entropy": entropy,
            **critic,
            "value": (lesson.baseline * weight).sum(),
            "return": (lesson.ret * weight).sum(),
            "advantage_square": (advantage.square() * weight).sum(),
        }
        total = policy - self.entropy * entropy + sum(critic.values())
        return Loss(total, parts, learn=(lesson.ret, lesson.mask))

    @torch.no_grad()
    def _learn(self, ret: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Move the target network towards the online one, and the scale towards these returns.

        The reference moves the target network a step earlier.
        """
        assert isinstance(self.target, nn.Module) and isinstance(self.actor_critic, nn.Module)
        ours: list[Tensor] = list(self.target.parameters())
        theirs: list[Tensor] = list(self.actor_critic.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - self.target_decay)
        return self.return_scale.learn(ret, mask)


def values(critic: ActorCritic, x: Obs, carry: Carry) -> Tensor:
    """A critic's values (B,T) of what it sees in a stretch (B,T,*X) after its carry."""
    decision, _ = critic(x, carry)
    return critic.value.predict(decision.critic)


def forget(carry: Carry, over: Tensor) -> Carry:
    """The carry with the rows where over (N,) is True as before the first observation."""
    return tuple(torch.where(over[:, None], c.new_zeros(()), c) for c in carry)
