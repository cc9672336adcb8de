"""Collection: an agent acting in real environments, its experience going into replay."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agents.agent import Agent, forget
from agents.protocols import Carry
from envs.base import Env, GameState
from envs.experience import Finished, Segment, Step
from envs.spaces import Obs, random_actions
from envs.trees import each, leaves, rows
from runners.hardware import Hardware
from runners.replay import Replay

log = logging.getLogger(__name__)


@dataclass
class Collected:
    """What a stretch of collection did: decisions taken, games that ended, workers lost."""

    steps: int = 0
    finished: list[Finished] = field(default_factory=list)
    lost: int = 0


class LocalCollector:
    """Steps a batch of environments in lockstep, and hands segments to replay.

    With probability `epsilon`, drawn per environment and step, an action is uniformly random.
    The policy's memory lives as long as an episode; where the policy has changed since, `recall`
    rebuilds it from the last `context` frames, as imagination does.
    """

    def __init__(
        self,
        env: Env,
        replay: Replay,
        hardware: Hardware,
        *,
        seed: int,
        context: int,
        epsilon: float,
        temperature: float,
    ) -> None:
        self.env, self.replay, self.hardware = env, replay, hardware
        self.seed, self.context = seed, context
        self.epsilon, self.temperature = epsilon, temperature
        self.rng = np.random.default_rng([seed, 1])
        self.first = np.ones(env.num_envs, bool)
        self.obs: Obs | None = None
        self.carry: Carry | None = None

    def collect(self, agent: Agent, steps: int, *, random: bool, recall: bool) -> Collected:
        """Take at least `steps` decisions, fewer than one more per environment.

        random: all actions uniform, and the agent is not asked. recall: rebuild its memory first.
        """
        if self.obs is None:
            self.obs = self.env.reset(self.seed)
        count = self.env.num_envs
        carry = None if random else self._recall(agent) if recall else self.carry
        stretch = _Stretch(self.obs)
        result = Collected()
        while result.steps < steps:
            act = random_actions(self.env.spec.act, self.rng, count)
            if carry is not None:
                obs = self.hardware.receive(self.obs)
                with self.hardware.autocast():
                    chosen, carry = agent.act(obs, carry, self.temperature)
                explore = self.rng.random(count) < self.epsilon
                whole = explore.reshape(count, *[1] * (act.ndim - 1))
                act = np.where(whole, act, chosen.cpu().numpy())
                if explore.any():
                    carry = agent.took(carry, torch.from_numpy(act).to(self.hardware.device))
            step = self.env.step(act)
            stretch.add(act, step)
            self.obs = step.obs
            over = step.end | step.trunc | step.lost
            if carry is not None and over.any():
                carry = forget(carry, torch.from_numpy(over).to(self.hardware.device))
            result.steps += int(count - step.lost.sum())
            result.lost += int(step.lost.sum())
            result.finished += step.finished
        for env in range(count):
            for segment in stretch.segments(env, bool(self.first[env])):
                self.replay.add(env, segment)
            self.first[env] = stretch.ended(env)
        self.carry = carry
        return result

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on with the same games."""
        games = [{"episode": g.episode, "actions": g.actions} for g in self.env.state()]
        rng = self.rng.bit_generator.state
        return {
            "rng": rng,
            "first": self.first,
            "games": games,
            "started": self.obs is not None,
            "carry": self.carry,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild the running games by playing their actions again.

        Where the game comes out differently, its episode is closed as truncated, and a new one
        starts at the frame that it did lead to.
        """
        self.rng.bit_generator.state = state["rng"]
        self.first = np.array(state["first"])
        if not state["started"]:
            return
        if state["carry"] is not None:
            self.carry = tuple(c.to(self.hardware.device) for c in state["carry"])
        games = [GameState(g["episode"], np.asarray(g["actions"])) for g in state["games"]]
        self.obs = self.env.restore(self.seed, games)
        known = each(lambda x: x[:, -1].numpy(), self.replay.tails(1).obs)
        rebuilt = self.env.state()
        for env in np.flatnonzero(~self.first):
            same_game = rebuilt[env].episode == games[env].episode
            same = each(np.array_equal, rows(known, env), rows(self.obs, env))
            if not (same_game and all(leaves(same))):
                log.warning("environment %d did not repeat its episode: closed as truncated", env)
                self.replay.close_open(int(env))
                self.first[env] = True

    def _recall(self, agent: Agent) -> Carry:
        past = self.replay.tails(self.context + 1).to(self.hardware.device)
        with self.hardware.autocast():
            carry = agent.watch(past)
        return forget(carry, torch.from_numpy(self.first).to(self.hardware.device))


class _Stretch:
    """Vector steps as they come, cut into per-environment segments afterwards."""

    def __init__(self, obs: Obs) -> None:
        self.obs = [obs]
        self.acts: list[np.ndarray] = []
        self.steps: list[Step] = []

    def add(self, act: np.ndarray, step: Step) -> None:
        self.acts.append(act)
        self.steps.append(step)
        self.obs.append(step.obs)

    def segments(self, env: int, first: bool) -> list[Segment]:
        """The segments of one environment, in order; steps that a worker lost are left out."""
        out: list[Segment] = []
        begin = 0
        for t, step in enumerate(self.steps):
            over = step.end[env] or step.trunc[env]
            if over or step.lost[env] or t + 1 == len(self.steps):
                stop = t if step.lost[env] else t + 1
                if stop > begin:
                    out.append(self._cut(env, begin, stop, first))
                first = bool(over or step.lost[env])
                begin = t + 1
        return out

    def ended(self, env: int) -> bool:
        """Whether the environment now stands at the first frame of an episode."""
        last = self.steps[-1]
        return bool(last.end[env] or last.trunc[env] or last.lost[env])

    def _cut(self, env: int, begin: int, stop: int, first: bool) -> Segment:
        taken = self.steps[begin:stop]
        frames = [rows(obs, env) for obs in (*self.obs[begin:stop], taken[-1].last_obs)]
        return Segment(
            obs=each(lambda *shown: np.stack(shown), *frames),
            act=np.stack([a[env] for a in self.acts[begin:stop]]),
            rew=np.array([s.rew[env] for s in taken], np.float32),
            end=np.array([s.end[env] for s in taken], bool),
            trunc=np.array([s.trunc[env] for s in taken], bool),
            first=first,
        )
