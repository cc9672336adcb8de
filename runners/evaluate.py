"""Returns over whole games in fresh environments, without touching the training's random state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.agent import Agent
from envs.base import Env
from envs.experience import Finished, Segment
from runners.hardware import Hardware

# Samples for percentile intervals: enough for stable second digits, milliseconds to draw.
RESAMPLES = 10_000
EVALUATION_SEED = 2_000_003
"""Added to the run's seed: games that no training of this run has seen."""


@dataclass(frozen=True)
class Evaluation:
    """Finished games of one policy."""

    games: list[Finished]

    @property
    def returns(self) -> np.ndarray:
        """Unclipped return of each game."""
        return np.array([g.ret for g in self.games])

    def summary(self) -> dict[str, float]:
        """Mean, median, 95 % bootstrap interval of the mean, mean length."""
        low, high = interval(self.returns)
        return {
            "return": float(self.returns.mean()),
            "return_median": float(np.median(self.returns)),
            "return_ci_low": low,
            "return_ci_high": high,
            "length": float(np.mean([g.length for g in self.games])),
        }


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@contextmanager
def own_randomness(seed: int, hardware: Hardware) -> Iterator[None]:
    """Draw from generators of this seed inside; leave torch's as they were."""
    devices = [hardware.device] if hardware.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def play(
    agent: Agent | None,
    env: Env,
    hardware: Hardware,
    *,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
    keep: int = 0,
    watch: Callable[[int], None] | None = None,
) -> tuple[Evaluation, list[Segment]]:
    """Play `episodes` whole games; agent None acts uniformly at random.

    Each environment plays its share of the games, so that quick games are not preferred. Games
    start from seeds that depend on `seed` alone. The first `keep` games that environments start
    are also returned with their frames. watch is told after each game how many are finished.
    """
    count = env.num_envs
    quota = np.full(count, episodes // count) + (np.arange(count) < episodes % count)
    games: list[Finished] = []
    film = _Film(keep, quota)
    obs = env.reset(seed)
    rng = np.random.default_rng([seed, 2])
    with own_randomness(seed, hardware):
        carry: Any = None if agent is None else agent.actor_critic.initial(count)
        while quota.any():
            act = rng.integers(env.spec.act.n, size=count)
            if agent is not None:
                frames = torch.from_numpy(obs).to(hardware.device, non_blocking=True)
                with hardware.autocast():
                    chosen, carry = agent.act(frames, carry, temperature)
                act = chosen.cpu().numpy()
            step = env.step(act)
            film.add(obs, act, step)
            over = step.end | step.trunc | step.lost
            if agent is not None and over.any():
                fresh = torch.from_numpy(over).to(hardware.device)[:, None]
                carry = tuple(torch.where(fresh, 0.0, c) for c in carry)
            for game in step.finished:
                if quota[game.env]:
                    quota[game.env] -= 1
                    games.append(game)
                    if watch is not None:
                        watch(len(games))
            obs = step.obs
    return Evaluation(games), film.segments


class _Film:
    """Keeps the frames of the first games of the first environments."""

    def __init__(self, keep: int, quota: np.ndarray) -> None:
        self.envs = [i for i in range(len(quota)) if quota[i]][:keep]
        self.steps: dict[int, list[tuple[Any, ...]]] = {i: [] for i in self.envs}
        self.segments: list[Segment] = []

    def add(self, obs: np.ndarray, act: np.ndarray, step: Any) -> None:
        """Record a vector step; a game whose worker was lost is given up."""
        for i in list(self.envs):
            row = (obs[i].copy(), act[i], step.rew[i], step.end[i], step.trunc[i])
            self.steps[i].append(row)
            if step.lost[i]:
                self.envs.remove(i)
            elif step.end[i] or step.trunc[i]:
                self.envs.remove(i)
                self.segments.append(_segment(self.steps.pop(i), step.last_obs[i]))


def _segment(rows: list[tuple[Any, ...]], last_obs: np.ndarray) -> Segment:
    obs, act, rew, end, trunc = (np.stack(column) for column in zip(*rows, strict=True))
    return Segment(
        obs=np.concatenate((obs, last_obs[None])),
        act=act.astype(np.int64),
        rew=rew.astype(np.float32),
        end=end.astype(bool),
        trunc=trunc.astype(bool),
        first=True,
    )
