"""The environment contracts: one game, and a batch of games that reset themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from envs.experience import EnvSpec, Step
from envs.spaces import Obs


@dataclass(frozen=True)
class Outcome:
    """What one action did to one game.

    `end` is a termination for learning, `trunc` a time limit. `over` says that the game
    needs a reset; a lost life sets `end` without `over`, and the game goes on from `obs`.
    `stats` is read when the game is over.
    """

    obs: Obs
    rew: float
    end: bool
    trunc: bool
    over: bool
    stats: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Game(Protocol):
    """One environment. Its trajectory is a function of the reset seed and the actions."""

    spec: EnvSpec

    def reset(self, seed: int) -> Obs:
        """Start a new game and return its first observation, an array or a dict of arrays."""

    def step(self, act: Any) -> Outcome:
        """Act once. Not allowed after `over` before the next reset.

        act: an array of its space; a single choice is an int64 without axes and indexes lists.
        """

    def close(self) -> None:
        """Free what the game holds."""


@dataclass(frozen=True)
class GameState:
    """Enough to rebuild a running game: which game of this environment it is, and its actions.

    actions (T,*A), as the environment took them.
    """

    episode: int
    actions: np.ndarray


@runtime_checkable
class Env(Protocol):
    """N games stepped together; each is reset on its own as soon as it is over.

    Observations are arrays (N,*O), or dicts of such arrays where a game shows several things.
    Game k of environment i starts from `episode_seed(seed, i, k)`, so a run repeats from its
    seed, and `restore` rebuilds running games by playing their actions again.
    """

    spec: EnvSpec
    num_envs: int

    def reset(self, seed: int) -> Obs:
        """Start all games anew and return the first observations."""

    def step(self, act: np.ndarray) -> Step:
        """Act once in every game; act (N,*A), so (N,) int64 of single choices."""

    def state(self) -> list[GameState]:
        """The running games, for `restore`."""

    def restore(self, seed: int, states: list[GameState]) -> Obs:
        """Rebuild running games and return their current observations."""

    def close(self) -> None:
        """Stop the games and their processes. May be called twice."""


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The 31-bit seed of game number `episode` in environment `env` of a run."""
    return int(np.random.SeedSequence((seed, env, episode)).generate_state(1)[0] >> 1)
