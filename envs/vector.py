"""N games stepped together, in this process or spread over worker processes."""

from __future__ import annotations

import atexit
import functools
import logging
import operator
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.base import GameState
from envs.experience import EnvSpec, Finished, Step
from envs.frames import write
from envs.spaces import Obs
from envs.trees import each
from envs.worker import (
    GroupCrash,
    LocalGroup,
    MakeGame,
    ProcessGroup,
    Row,
    Start,
    Started,
    the_same,
)

logger = logging.getLogger(__name__)

# A worker that fails so often without one good step in between is not replaced again.
MAX_CRASHES = 5


class EnvCrash(RuntimeError):
    """The games keep crashing; the message ends with the last traceback."""


@dataclass(frozen=True)
class Crash:
    """One failure of a worker: its number, its environments, and what is known of the cause."""

    worker: int
    envs: tuple[int, ...]
    reason: str


@dataclass
class _Running:
    """The game that an environment plays now."""

    episode: int = 0
    actions: list[Any] = field(default_factory=list)
    ret: float = 0.0


@dataclass
class _Worker:
    number: int
    envs: range
    group: LocalGroup | ProcessGroup
    crashes_in_a_row: int = 0


class VectorEnv:
    """The `Env` protocol over games, `make` giving one picklable maker for each of them.

    The games are dealt out to `workers` processes in runs of neighbours; with 0 workers they
    are played here. Results do not depend on `workers`. Where a game raises, or its process
    dies, `crashes` gets an entry, the worker is replaced, and each of its games starts its
    next episode in a step marked `lost`.

    `restore` begins the next game where the old one cannot be rebuilt, because it ends too
    early or crashes. A game that is not deterministic may also lead elsewhere, so compare the
    frames with those you hold.

    Raises EnvCrash when a worker cannot be started or crashes five times in a row.
    """

    def __init__(self, make: Sequence[MakeGame], workers: int = 0) -> None:
        assert make, "no games"
        self.num_envs = len(make)
        self.crashes: list[Crash] = []
        self._make = list(make)
        self._seed = 0
        self._running = [_Running() for _ in make]
        self._workers: list[_Worker] = []
        self._interrupted = False
        self._remote = workers > 0
        bounds = np.linspace(0, len(make), max(1, min(workers, len(make))) + 1).astype(int)
        # Before multiprocessing's own exit, which would wait for ever for the workers.
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)
        try:
            for low, high in zip(bounds[:-1], bounds[1:], strict=True):
                envs = range(int(low), int(high))
                self._workers.append(_Worker(len(self._workers), envs, self._new_group(envs)))
            specs = [worker.group.prepare() for worker in self._workers]
        except GroupCrash as crash:
            self.close()
            raise EnvCrash(f"the games could not be built:\n{crash}") from crash
        self.spec: EnvSpec = the_same(specs)

    def reset(self, seed: int) -> Obs:
        return self._start(seed, [Start(i, 0) for i in range(self.num_envs)])

    def restore(self, seed: int, states: list[GameState]) -> Obs:
        assert len(states) == self.num_envs, "one state for each environment"
        starts = [Start(i, s.episode, _listed(s.actions)) for i, s in enumerate(states)]
        return self._start(seed, starts)

    def state(self) -> list[GameState]:
        act = self.spec.act
        return [
            GameState(r.episode, np.array(r.actions, act.dtype).reshape(-1, *act.shape))
            for r in self._running
        ]

    def step(self, act: np.ndarray) -> Step:
        assert not self._interrupted, "the last step was interrupted: reset or restore first"
        act = np.array(act, self.spec.act.dtype)  # a copy, since actions are kept
        assert act.shape == (self.num_envs, *self.spec.act.shape), "one action for each environment"
        acts = _listed(act)
        self._interrupted = True
        for worker in self._workers:
            worker.group.send("step", [acts[i] for i in worker.envs])
        rows = [row for worker in self._workers for row in self._receive_rows(worker)]
        step = self._assemble(acts, rows)
        self._interrupted = False
        return step

    def close(self) -> None:
        for worker in self._workers:
            worker.group.send("close")
        for worker in self._workers:
            worker.group.close()
        self._workers.clear()
        atexit.unregister(self._at_exit)

    def _new_group(self, envs: range) -> LocalGroup | ProcessGroup:
        make = [self._make[i] for i in envs]
        return ProcessGroup(make) if self._remote else LocalGroup(make)

    def _start(self, seed: int, starts: list[Start]) -> Obs:
        self._seed, self._interrupted = seed, True
        for worker in self._workers:
            worker.group.send("start", seed, [starts[i] for i in worker.envs])
        for worker in self._workers:
            try:
                self._note(worker, worker.group.receive())
            except GroupCrash as crash:
                for i in worker.envs:
                    self._running[i] = _Running(starts[i].episode)
                self._replace(worker, crash)
        self._interrupted = False
        return self._frames()

    def _note(self, worker: _Worker, started: list[Started]) -> None:
        for i, game in zip(worker.envs, started, strict=True):
            self._running[i] = _Running(game.episode, game.actions, game.ret)

    def _receive_rows(self, worker: _Worker) -> list[Row | None]:
        """Rows of the worker's games; None for games that were lost."""
        try:
            rows: list[Row | None] = worker.group.receive()
        except GroupCrash as crash:
            self._replace(worker, crash)
            return [None] * len(worker.envs)
        worker.crashes_in_a_row = 0
        return rows

    def _replace(self, worker: _Worker, crash: GroupCrash) -> None:
        """Begin the next episodes of the worker's games in a new worker."""
        while True:
            self._record(worker, crash)
            worker.group.close()
            starts = [Start(i, self._running[i].episode + 1) for i in worker.envs]
            self._note(worker, [Started(start.episode, [], 0.0) for start in starts])
            worker.group = self._new_group(worker.envs)
            try:
                worker.group.prepare()
                worker.group.send("start", self._seed, starts)
                worker.group.receive()
                return
            except GroupCrash as again:
                crash = again

    def _record(self, worker: _Worker, crash: GroupCrash) -> None:
        self.crashes.append(Crash(worker.number, tuple(worker.envs), str(crash)))
        worker.crashes_in_a_row += 1
        which = f"environment worker {worker.number} (games {worker.envs[0]}-{worker.envs[-1]})"
        if worker.crashes_in_a_row >= MAX_CRASHES:
            raise EnvCrash(f"{which} crashed {MAX_CRASHES} times in a row:\n{crash}") from crash
        logger.warning("%s crashed; a new one begins other games:\n%s", which, crash)

    def _assemble(self, acts: list[Any], rows: list[Row | None]) -> Step:
        obs = self._frames()
        last_obs = each(np.copy, obs)
        rew = np.zeros(self.num_envs, np.float32)
        end, trunc, lost = np.zeros((3, self.num_envs), bool)
        finished = []
        for worker in self._workers:
            for row_of_worker, i in enumerate(worker.envs):
                row = rows[i]
                if row is None:
                    lost[i] = True
                    continue
                rew[i], end[i], trunc[i] = row.rew, row.end, row.trunc
                running = self._running[i]
                running.actions.append(acts[i])
                running.ret += row.rew
                if row.over:
                    last = each(operator.itemgetter(row_of_worker), worker.group.frames.last)
                    write(last_obs, i, last)
                    finished.append(Finished(i, running.ret, len(running.actions), row.stats))
                    self._running[i] = _Running(running.episode + 1)
        return Step(obs, rew, end, trunc, last_obs, lost, finished)

    def _frames(self) -> Obs:
        parts = [worker.group.frames.obs for worker in self._workers]
        return each(lambda *arrays: np.concatenate(arrays), *parts)


def _listed(acts: np.ndarray) -> list[Any]:
    """Actions one by one: whole numbers of Python, which take less room in a pipe, or arrays."""
    return acts.tolist() if acts.ndim == 1 else list(acts)


def _close(env: weakref.ref[VectorEnv]) -> None:
    alive = env()
    if alive is not None:
        alive.close()
