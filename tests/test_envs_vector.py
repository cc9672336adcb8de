"""Batches of games: equal results whatever the processes, true last frames, crashes survived."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import psutil
import pytest

from envs.base import Env, Game, GameState, Outcome, episode_seed
from envs.crafter import CrafterGame
from envs.probes import ChoiceGame, CountingGame, CrashingGame
from envs.spaces import random_actions
from envs.vector import MAX_CRASHES, EnvCrash, VectorEnv
from envs.worker import MakeGame, ProcessGroup

COUNTING = [
    functools.partial(CountingGame, 4, 3, life_every=2),
    functools.partial(CountingGame, 6, truncate=True),
    functools.partial(CountingGame, 1),
]


@contextmanager
def vector(make: list[Any], workers: int = 0, seed: int = 0) -> Iterator[VectorEnv]:
    with closing(VectorEnv(make, workers)) as env:
        env.reset(seed)
        yield env


def record(env: VectorEnv, seed: int, steps: int) -> list[Any]:
    """All that `steps` steps with fixed random actions answer."""
    random = np.random.default_rng(7)
    seen: list[Any] = [env.reset(seed)]
    for _ in range(steps):
        step = env.step(random_actions(env.spec.act, random, env.num_envs))
        seen += [step.obs, step.last_obs, step.rew, step.end, step.trunc, step.lost]
        seen.append(np.array([[f.env, f.ret, f.length, *f.stats.values()] for f in step.finished]))
    return seen


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_protocols() -> None:
    for game in (CountingGame(), ChoiceGame(), CrashingGame()):
        assert isinstance(game, Game)
    with vector([CountingGame]) as env:
        assert isinstance(env, Env)


def test_every_frame_follows_the_one_before() -> None:
    """The counting game tells apart every way of being off by one."""
    with vector(COUNTING, seed=5) as env:
        obs, episodes = env.reset(5), [0, 0, 0]
        returns = np.zeros(3)
        for _ in range(40):
            act = np.array([1, 2, 0])
            step = env.step(act)
            before = obs[:, 0, 0, 1].astype(int)
            assert np.array_equal(step.last_obs[:, 0, 0, 1], before + 1)
            assert np.array_equal(step.last_obs[:, 0, 0, 2], act)
            assert np.array_equal(step.rew, before + 1)
            returns += step.rew
            over = [finished.env for finished in step.finished]
            for i in range(3):
                seed = episode_seed(5, i, episodes[i])
                assert step.last_obs[i, 0, 0, 0] == seed % 256
                length = (4 + seed % 3, 6, 1)[i]
                assert (i in over) == (step.last_obs[i, 0, 0, 1] == length)
                assert step.trunc[i] == (i in over and i == 1)
                lost_life = i == 0 and before[0] % 2 == 1
                assert step.end[i] == ((i in over and i != 1) or lost_life)
                if i not in over:
                    assert np.array_equal(step.obs[i], step.last_obs[i])
                    continue
                episodes[i] += 1
                assert step.obs[i, 0, 0].tolist() == [episode_seed(5, i, episodes[i]) % 256, 0, 0]
                finished = step.finished[over.index(i)]
                assert (finished.ret, finished.length) == (returns[i], length)
                assert finished.stats == {"seed": float(seed)}
                returns[i] = 0
            obs = step.obs
        assert [state.episode for state in env.state()] == episodes and min(episodes) > 5


@pytest.mark.parametrize("make", [COUNTING, [functools.partial(CrafterGame, length=30)] * 3])
def test_workers_do_not_change_results(make: list[MakeGame]) -> None:
    with vector(make, workers=0) as here, vector(make, workers=1) as one:
        expected = record(here, 11, 70)
        assert same(record(one, 11, 70), expected)
        assert not same(record(one, 12, 70), expected)
    with vector(make, workers=2) as two:
        assert same(record(two, 11, 70), expected)


def test_frames_handed_out_are_never_overwritten() -> None:
    with vector(COUNTING, workers=2) as env:
        first = env.reset(0)
        kept = first.copy()
        step = env.step(np.ones(3, np.int64))
        step.last_obs[...] = 0
        assert np.array_equal(first, kept) and step.obs.any()


@pytest.mark.parametrize("workers", [0, 2])
def test_restored_games_go_on_as_if_never_stopped(workers: int) -> None:
    make = [CrafterGame, functools.partial(CrafterGame, length=20), CrafterGame]
    random = np.random.default_rng(0)
    acts = random.integers(17, size=(80, 3))
    with vector(make, workers, seed=3) as env:
        for act in acts[:50]:
            step = env.step(act)
        states = [GameState(s.episode, s.actions.copy()) for s in env.state()]
        rest = [env.step(act) for act in acts[50:]]
    assert states[1].episode == 2 and len(states[1].actions) == 10
    with vector(make, workers, seed=99) as env:
        assert np.array_equal(env.restore(3, states), step.obs)
        for act, expected in zip(acts[50:], rest, strict=True):
            again = env.step(act)
            assert np.array_equal(again.obs, expected.obs)
            assert np.array_equal(again.rew, expected.rew)
            assert again.finished == expected.finished


def test_a_game_that_cannot_be_rebuilt_gives_way_to_the_next() -> None:
    with vector([CountingGame]) as env:
        frames = env.restore(0, [GameState(4, np.zeros(9, np.int64))])
        assert env.state()[0].episode == 5 and len(env.state()[0].actions) == 0
        assert frames[0, 0, 0].tolist() == [episode_seed(0, 0, 5) % 256, 0, 0]


@pytest.mark.parametrize(("workers", "lost"), [(0, [0, 1, 2]), (2, [1, 2])])
def test_a_game_that_raises(
    workers: int, lost: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with vector([CrashingGame] * 3, workers) as env, caplog.at_level(logging.WARNING):
        env.step(np.array([0, 0, 0]))
        step = env.step(np.array([0, 0, 1]))
        assert np.flatnonzero(step.lost).tolist() == lost
        assert not step.end.any() and not step.trunc.any() and not step.finished
        for i in range(3):
            episode, t = (1, 0) if i in lost else (0, 2)
            assert step.obs[i, 0, 0, :2].tolist() == [episode_seed(0, i, episode) % 256, t]
            assert env.state()[i].episode == episode and len(env.state()[i].actions) == t
        assert [crash.envs for crash in env.crashes] == [tuple(lost)]
        assert "RuntimeError: crashed on demand" in env.crashes[0].reason
        assert "RuntimeError: crashed on demand" in caplog.text and "Traceback" in caplog.text
        after = env.step(np.zeros(3, np.int64))
        assert not after.lost.any()


def test_a_process_that_is_killed() -> None:
    with vector([CrashingGame] * 2, workers=2) as env:
        step = env.step(np.array([2, 0]))
        assert step.lost.tolist() == [True, False]
        assert "was killed by SIGKILL" in env.crashes[0].reason
        group = env._workers[1].group
        assert isinstance(group, ProcessGroup)
        assert group._process.pid is not None
        os.kill(group._process.pid, signal.SIGKILL)
        step = env.step(np.array([0, 0]))
        assert step.lost.tolist() == [False, True]
        assert len(env.crashes) == 2 and not env.step(np.array([0, 0])).lost.any()


def test_crashes_without_end_raise() -> None:
    with vector([CrashingGame]) as env:
        for _ in range(MAX_CRASHES - 1):
            assert env.step(np.array([1])).lost.all()
        assert not env.step(np.array([0])).lost.any()
        for _ in range(MAX_CRASHES - 1):
            env.step(np.array([1]))
        with pytest.raises(EnvCrash, match="(?s)5 times in a row.*crashed on demand"):
            env.step(np.array([1]))


class Unbuildable(CountingGame):
    def __init__(self) -> None:
        raise FileNotFoundError("no such file")


@pytest.mark.parametrize("workers", [0, 1])
def test_games_that_cannot_be_built_raise_at_once(workers: int) -> None:
    with pytest.raises(EnvCrash, match="(?s)could not be built.*FileNotFoundError"):
        VectorEnv([Unbuildable], workers)


class TellTale(CountingGame):
    """Its reward is 1 where torch was imported; it sends itself Ctrl-C and SIGTERM."""

    def step(self, act: Any) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        outcome = super().step(act)
        return Outcome(outcome.obs, float("torch" in sys.modules), False, False, False)


def test_workers_ignore_interrupts_and_have_no_torch() -> None:
    with vector([TellTale], workers=1) as env:
        step = env.step(np.array([0]))
        assert not step.lost.any() and not env.crashes
        assert step.rew[0] == 0


def test_workers_end_with_their_parent() -> None:
    code = (
        "import os; from envs.vector import VectorEnv; from envs.probes import CountingGame\n"
        "env = VectorEnv([CountingGame] * 2, 2)\n"
        "print(*(w.group._process.pid for w in env._workers), flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    workers = [int(pid) for pid in killed.stdout.split()]
    assert killed.returncode == -signal.SIGKILL and len(workers) == 2
    deadline = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_forgotten_env_does_not_keep_the_program_from_ending() -> None:
    code = (
        "from envs.vector import VectorEnv; from envs.probes import CountingGame\n"
        "env = VectorEnv([CountingGame] * 2, 2); env.reset(0)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_an_interrupted_step_asks_for_a_new_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with vector([CountingGame] * 2, workers=2) as env:
        before = env.step(np.zeros(2, np.int64))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ProcessGroup, "receive", _interrupt)
            env.step(np.zeros(2, np.int64))
        with pytest.raises(AssertionError, match="interrupted"):
            env.step(np.zeros(2, np.int64))
        assert np.array_equal(env.restore(0, env.state()), before.obs)
        assert env.step(np.zeros(2, np.int64)).last_obs[0, 0, 0, 1] == 2


def _interrupt(_: ProcessGroup) -> None:
    raise KeyboardInterrupt


def test_closing_twice_frees_everything() -> None:
    env = VectorEnv([CountingGame] * 2, 2)
    env.reset(0)
    group = env._workers[0].group
    assert isinstance(group, ProcessGroup)
    memory = group._memory
    assert memory is not None
    pids = [
        p.pid for p in psutil.Process().children(recursive=True) if "spawn_main" in str(p.cmdline())
    ]
    assert len(pids) >= 2
    env.close()
    env.close()
    assert not any(map(alive, pids))
    assert memory.buf is None


def test_the_best_choice_is_shown() -> None:
    game = ChoiceGame(length=20)
    obs, ret = game.reset(1), 0.0
    for _ in range(20):
        outcome = game.step(int(obs[0, 8::16, 0].argmax()))
        obs, ret = outcome.obs, ret + outcome.rew
    assert outcome.over and ret == 20
