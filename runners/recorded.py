"""Recorded games of random actions, and the same batches of them for everything that learns alone.

Axes: B windows, T steps of a window.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from agents.protocols import Learner
from envs.experience import EnvSpec, Segment
from runners.dream import HELD_OUT_SEED
from runners.evaluate import play
from runners.hardware import Hardware
from runners.opening import open_env
from runners.phases import Phase
from runners.replay import Replay
from runners.rollout import windows
from runners.settings.config import Config
from worldmodels.batch import Batch

WINDOWS = 128
HELD_OUT_GAMES = 16
MOST_ENVS = 16
"""Games that run at once while they are recorded."""


@dataclass(frozen=True)
class Games:
    """Recorded games of one environment: those to learn from, and windows (B,T) of others."""

    spec: EnvSpec
    train: list[Segment]
    held_out: Batch

    @property
    def frames(self) -> int:
        """Frames to learn from."""
        return sum(len(game.act) + 1 for game in self.train)


def record(config: Config, games: int, steps: int) -> Games:
    """Games of random actions, and the windows of others; the same for the same environment.

    steps: T. Raises ValueError where no held-out game lasts so long.
    """
    hardware = Hardware(torch.device("cpu"), torch.float32)

    def at_random(count: int, seed: int) -> tuple[EnvSpec, list[Segment]]:
        found: list[Segment] = []
        for first in range(0, count, MOST_ENVS):
            # `play` keeps the first game of each environment.
            now = min(MOST_ENVS, count - first)
            env = open_env(config, num_envs=now, workers=0, training=False)
            try:
                found += play(None, env, hardware, episodes=now, seed=seed + first, keep=now)[1]
            finally:
                env.close()
        return env.spec, found

    spec, held_out = at_random(HELD_OUT_GAMES, HELD_OUT_SEED)
    drawn = windows(held_out, 0, steps, WINDOWS, np.random.default_rng(0))
    if drawn is None:
        raise ValueError(f"no held-out game lasts {steps} steps")
    return Games(spec, at_random(games, 0)[1], drawn[0])


class Course:
    """Draws batches of recorded games as training does, the same for the same seed."""

    def __init__(self, replay: Replay) -> None:
        self._replay, self._start = replay, replay.state_dict()

    def fit(self, phase: Phase) -> None:
        """Let a learner see the games that wants to before its first update."""
        phase.fit(self._replay)

    def batches(self, phase: Phase, seed: int, updates: int) -> Iterator[Batch]:
        """A batch for each update of a phase; one course is followed at a time."""
        self._replay.load_state_dict(self._start | {"rng": np.random.PCG64(seed).state})
        for _ in range(updates):
            yield self._replay.sample_windows(phase.name, phase.batch, phase.frames)


@contextmanager
def open_course(config: Config, games: Games) -> Iterator[Course]:
    """The games to learn from in a replay of their own, drawn by the priorities of the settings."""
    phases = config.agent.phases
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(
            Path(folder),
            num_streams=1,
            obs=games.spec.obs,
            act=games.spec.act,
            priorities={
                "tokenizer": phases.tokenizer.priority,
                "world_model": phases.world_model.priority,
            },
            seed=0,
            length_exponent=config.agent.length_exponent,
        )
        try:
            for game in games.train:
                replay.add(0, game)
            yield Course(replay)
        finally:
            replay.close()


def phase_of(config: Config, learner: Learner, hardware: Hardware) -> Phase:
    """How the settings train a learner that learns from windows."""
    numbers = getattr(config.agent.phases, learner.name).model_dump()
    numbers.pop("priority")
    return Phase(learner, hardware, **numbers)


def clock_of(hardware: Hardware) -> Callable[[], float]:
    """Seconds; on a CPU of processor time, which other programs hardly change."""
    if hardware.device.type == "cpu":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(hardware.device)
        return time.perf_counter()

    return now
