"""A group of games, played in this process or in a worker process of its own.

Requests go out with `send` and answers come back with `receive`, so all groups work at the
same time. A worker process writes frames to shared memory; the pipe carries the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker, shared_memory
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from envs.base import Game, episode_seed
from envs.experience import EnvSpec

MakeGame = Callable[[], Game]


class GroupCrash(Exception):
    """A group of games failed; its message is a traceback or the fate of the process."""


@dataclass
class Start:
    """Which game an environment shall play, and the actions that bring it up to date."""

    env: int
    episode: int
    actions: np.ndarray | None = None


@dataclass
class Started:
    """The episode that runs now, its actions and its return so far."""

    episode: int
    actions: list[int]
    ret: float


@dataclass
class Row:
    """What one game did in a step; the frames lie in `Frames`. `over`: a new game began."""

    rew: float
    end: bool
    trunc: bool
    over: bool
    stats: dict[str, float]


@dataclass
class Frames:
    """Frames to act on (n,H,W,C), and true last frames, written only where a game was over."""

    obs: np.ndarray
    last: np.ndarray

    @classmethod
    def on(cls, shape: tuple[int, ...], buffer: memoryview | None = None) -> Frames:
        """Frames in `buffer`, or in memory of their own."""
        both = np.ndarray((2, *shape), np.uint8, buffer)
        return cls(both[0], both[1])

    @staticmethod
    def num_bytes(shape: tuple[int, ...]) -> int:
        return 2 * int(np.prod(shape))


class Group:
    """Plays its games one after the other; row i of every answer belongs to game i."""

    def __init__(self, make: list[MakeGame]) -> None:
        self._games = [game() for game in make]
        self._seed = 0
        self._envs: list[int] = []
        self._episodes: list[int] = []
        self.frames = Frames.on((0,))

    @property
    def spec(self) -> EnvSpec:
        specs = {game.spec for game in self._games}
        assert len(specs) == 1, f"the games of one Env differ: {specs}"
        return specs.pop()

    def start(self, seed: int, starts: list[Start]) -> list[Started]:
        """Begin games, and play them up to date.

        A game that ends while its actions are played again cannot be the one they came from;
        the next game is begun in its place.
        """
        self._seed = seed
        self._envs = [start.env for start in starts]
        self._episodes = [start.episode for start in starts]
        return [self._play_again(i, start.actions) for i, start in enumerate(starts)]

    def step(self, acts: list[int]) -> list[Row]:
        return [self._step_one(i, act) for i, act in enumerate(acts)]

    def close(self) -> None:
        for game in self._games:
            game.close()

    def _begin(self, i: int) -> None:
        seed = episode_seed(self._seed, self._envs[i], self._episodes[i])
        self.frames.obs[i] = self._games[i].reset(seed)

    def _play_again(self, i: int, actions: np.ndarray | None) -> Started:
        self._begin(i)
        ret = 0.0
        acts = [] if actions is None else [int(act) for act in actions]
        for act in acts:
            outcome = self._games[i].step(act)
            ret += outcome.rew
            self.frames.obs[i] = outcome.obs
            if outcome.over:
                self._episodes[i] += 1
                self._begin(i)
                return Started(self._episodes[i], [], 0.0)
        return Started(self._episodes[i], acts, ret)

    def _step_one(self, i: int, act: int) -> Row:
        outcome = self._games[i].step(act)
        if outcome.over:
            self.frames.last[i] = outcome.obs
            self._episodes[i] += 1
            self._begin(i)
        else:
            self.frames.obs[i] = outcome.obs
        return Row(outcome.rew, outcome.end, outcome.trunc, outcome.over, outcome.stats)


class LocalGroup:
    """A group in this process. A crash spoils all of it, as it would in a worker process."""

    def __init__(self, make: list[MakeGame]) -> None:
        self._make = make
        self._group = Group([])
        self._request: tuple[str, tuple[Any, ...]] = ("", ())

    @property
    def frames(self) -> Frames:
        return self._group.frames

    def prepare(self) -> EnvSpec:
        """Build the games and say what they are like; called once, before anything else."""
        try:
            self._group = Group(self._make)
            spec = self._group.spec
        except Exception as error:
            raise GroupCrash(traceback.format_exc()) from error
        self._group.frames = Frames.on((len(self._make), *spec.obs_shape))
        return spec

    def send(self, name: str, *arguments: Any) -> None:
        self._request = (name, arguments)

    def receive(self) -> Any:
        name, arguments = self._request
        try:
            return getattr(self._group, name)(*arguments)
        except Exception as error:
            raise GroupCrash(traceback.format_exc()) from error

    def close(self) -> None:
        self._group.close()


class ProcessGroup:
    """A group in a worker process."""

    def __init__(self, make: list[MakeGame]) -> None:
        self._num_games = len(make)
        self._ids = itertools.count()
        self._last_id = -1
        self._memory: shared_memory.SharedMemory | None = None
        self.frames = Frames.on((0,))
        # Spawned, not forked: a fork would copy the locks of torch's and BLAS's threads.
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make), daemon=True)
        with _signals_blocked():
            self._process.start()
        theirs.close()

    def prepare(self) -> EnvSpec:
        """Wait until the games are built, and give them shared memory for their frames."""
        spec: EnvSpec = self._receive(-1)
        shape = (self._num_games, *spec.obs_shape)
        self._memory = shared_memory.SharedMemory(create=True, size=Frames.num_bytes(shape))
        self.frames = Frames.on(shape, self._memory.buf)
        self.send("attach", self._memory.name, shape)
        return spec

    def send(self, name: str, *arguments: Any) -> None:
        self._last_id = next(self._ids)
        # A dead process is noticed when its answer is missing.
        with contextlib.suppress(OSError):
            self._pipe.send((self._last_id, name, arguments))

    def receive(self) -> Any:
        return self._receive(self._last_id)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send((-1, "close", ()))
        self._process.join(timeout=5)
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self.frames = Frames.on((0,))
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None

    def _receive(self, request: int) -> Any:
        """Answer to `request`; answers to earlier ones, given up on Ctrl-C, are dropped."""
        try:
            while True:
                answered, failed, value = self._pipe.recv()
                if failed:
                    raise GroupCrash(value)
                if answered == request:
                    return value
        except (EOFError, OSError) as error:
            raise GroupCrash(self._fate()) from error

    def _fate(self) -> str:
        self._process.join(timeout=5)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"worker process {self._process.pid} was killed by {signal.Signals(-code).name}"
        return f"worker process {self._process.pid} ended with exit code {code}"


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let children start with SIGINT and SIGTERM blocked, both in the parent's care.

    A terminal or a batch system signals the whole process group; workers must outlive that
    until the parent has saved its run, and they end with their pipe.
    """
    resource_tracker.ensure_running()  # starting it later would unblock the signals
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def serve(pipe: Connection, make: list[MakeGame]) -> None:
    """Answer requests until told to close or until the parent is gone."""
    try:
        group = Group(make)
        pipe.send((-1, False, group.spec))
        _, _, (name, shape) = pipe.recv()
        memory = shared_memory.SharedMemory(name)
        try:
            group.frames = Frames.on(shape, memory.buf)
            _answer(pipe, group)
        finally:
            group.frames = Frames.on((0,))  # memory in use cannot be closed
            memory.close()
    except Exception:
        # If the parent is gone, this is an EOFError and nobody is there to hear of it.
        with contextlib.suppress(OSError):
            pipe.send((-1, True, traceback.format_exc()))


def _answer(pipe: Connection, group: Group) -> None:
    while True:
        request, name, arguments = pipe.recv()
        if name == "close":
            return group.close()
        pipe.send((request, False, getattr(group, name)(*arguments)))
