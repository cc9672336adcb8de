"""A group of games, played in this process or in a worker process of its own.

Requests go out with `send` and answers come back with `receive`, so all groups work at the
same time. A worker process writes frames to shared memory; the pipe carries the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker, shared_memory
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from envs.base import Game, episode_seed
from envs.experience import EnvSpec
from envs.frames import Frames, write

MakeGame = Callable[[], Game]


class GroupCrash(Exception):
    """A group of games failed; its message is a traceback or the fate of the process."""


@dataclass
class Start:
    """Which game an environment shall play, and the actions that bring it up to date."""

    env: int
    episode: int
    actions: Sequence[Any] | None = None


@dataclass
class Started:
    """The episode that runs now, its actions and its return so far."""

    episode: int
    actions: list[Any]
    ret: float


@dataclass
class Row:
    """What one game did in a step; the frames lie in `Frames`. `over`: a new game began."""

    rew: float
    end: bool
    trunc: bool
    over: bool
    stats: dict[str, float]


def the_same(specs: list[EnvSpec]) -> EnvSpec:
    """What all games of one environment are like."""
    assert all(spec == specs[0] for spec in specs), f"the games of one Env differ: {specs}"
    return specs[0]


class Group:
    """Plays its games one after the other; row i of every answer belongs to game i."""

    def __init__(self, make: list[MakeGame]) -> None:
        self._games = [game() for game in make]
        self._seed = 0
        self._envs: list[int] = []
        self._episodes: list[int] = []
        self.frames = Frames({}, {})

    @property
    def spec(self) -> EnvSpec:
        return the_same([game.spec for game in self._games])

    def start(self, seed: int, starts: list[Start]) -> list[Started]:
        """Begin games, and play them up to date.

        A game that ends while its actions are played again cannot be the one they came from;
        the next game is begun in its place.
        """
        self._seed = seed
        self._envs = [start.env for start in starts]
        self._episodes = [start.episode for start in starts]
        return [self._play_again(i, start.actions) for i, start in enumerate(starts)]

    def step(self, acts: list[Any]) -> list[Row]:
        return [self._step_one(i, act) for i, act in enumerate(acts)]

    def close(self) -> None:
        for game in self._games:
            game.close()

    def _begin(self, i: int) -> None:
        seed = episode_seed(self._seed, self._envs[i], self._episodes[i])
        write(self.frames.obs, i, self._games[i].reset(seed))

    def _play_again(self, i: int, actions: Sequence[Any] | None) -> Started:
        self._begin(i)
        ret = 0.0
        acts = [] if actions is None else list(actions)
        for act in acts:
            outcome = self._games[i].step(np.asarray(act))
            ret += outcome.rew
            write(self.frames.obs, i, outcome.obs)
            if outcome.over:
                self._episodes[i] += 1
                self._begin(i)
                return Started(self._episodes[i], [], 0.0)
        return Started(self._episodes[i], acts, ret)

    def _step_one(self, i: int, act: Any) -> Row:
        outcome = self._games[i].step(np.asarray(act))
        if outcome.over:
            write(self.frames.last, i, outcome.obs)
            self._episodes[i] += 1
            self._begin(i)
        else:
            write(self.frames.obs, i, outcome.obs)
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
        self._group.frames = Frames.on(spec.obs, len(self._make))
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
        self.frames = Frames({}, {})
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
        size = Frames.num_bytes(spec.obs, self._num_games)
        self._memory = shared_memory.SharedMemory(create=True, size=size)
        self.frames = Frames.on(spec.obs, self._num_games, self._memory.buf)
        self.send("attach", self._memory.name)
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
        self.frames = Frames({}, {})
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
        spec = group.spec
        pipe.send((-1, False, spec))
        _, _, (name,) = pipe.recv()
        memory = shared_memory.SharedMemory(name)
        try:
            group.frames = Frames.on(spec.obs, len(make), memory.buf)
            _answer(pipe, group)
        finally:
            group.frames = Frames({}, {})  # memory in use cannot be closed
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
