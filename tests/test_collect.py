"""Collection: what goes into replay is what happened, whoever acts, crashes or resumes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.base import Env, Game, Outcome
from envs.experience import Segment
from envs.make import make_env
from envs.probes import CountingGame
from runners.checkpoint import load, save
from runners.collect import LocalCollector
from runners.opening import new_agent
from runners.replay import Replay
from tests.runs import HARDWARE, games, small
from worldmodels.batch import Batch

Counting = functools.partial(CountingGame, 4, 5, num_actions=5)


class Spy:
    """Always takes action 0, and remembers which frame it saw after how many others."""

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []
        self.watched = 0

    def watch(self, past: Batch) -> tuple[Tensor]:
        self.watched += 1
        return (past.seen[:, :-1].float().sum(1, keepdim=True),)

    def act(self, obs: Tensor, carry: Any, temperature: float) -> tuple[Tensor, tuple[Tensor]]:
        self.seen.append((obs[:, 0, 0, 1].numpy().copy(), carry[0][:, 0].numpy().copy()))
        return torch.zeros(len(obs), dtype=torch.long), (carry[0] + 1,)

    def took(self, carry: Any, act: Tensor) -> Any:
        return carry


class Raising(CountingGame):
    """Action 1 raises."""

    def step(self, act: int) -> Outcome:
        if act == 1:
            raise RuntimeError("crashed on demand")
        return super().step(act)


class Forgetful(CountingGame):
    """Its games do not follow from their seeds."""

    started = 0

    def reset(self, seed: int) -> np.ndarray:
        Forgetful.started += 1
        return super().reset(seed + 10 * Forgetful.started)


def replay_of(folder: Path, env: Env) -> Replay:
    return Replay(
        folder,
        num_streams=env.num_envs,
        obs=env.spec.obs,
        act=env.spec.act,
        priorities={"all": 1.0},
        seed=0,
    )


def collector_of(
    folder: Path, env: Env, *, context: int = 2, epsilon: float = 0.0
) -> LocalCollector:
    return LocalCollector(
        env,
        replay_of(folder, env),
        HARDWARE,
        seed=3,
        context=context,
        epsilon=epsilon,
        temperature=1.0,
    )


def collect(collector: LocalCollector, steps: int, chunk: int, agent: Any = None) -> int:
    """Collect in stretches; returns the steps taken."""
    taken = 0
    while taken < steps:
        taken += collector.collect(
            agent, chunk, random=agent is None, recall=agent is not None
        ).steps
    return taken


def stored(replay: Replay) -> list[tuple[bool, Segment]]:
    """All episodes, and whether each still runs."""
    return [(e.running, replay.episode(e.index)) for e in replay.episodes()]


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("life_every", [0, 3])
@pytest.mark.parametrize("chunk", [1, 20])
def test_episodes_in_replay_are_what_happened(
    tmp_path: Path, truncate: bool, life_every: int, chunk: int
) -> None:
    make = functools.partial(CountingGame, 7, truncate=truncate, life_every=life_every)
    collector = collector_of(tmp_path, games(make))
    taken = collect(collector, 150, chunk)
    episodes = stored(collector.replay)
    assert collector.replay.num_steps == taken
    assert len(episodes) > 20
    for running, e in episodes:
        seed, t, act = (e.obs[:, 0, 0, channel].astype(int) for channel in range(3))
        assert (seed == seed[0]).all()
        assert t.tolist() == list(range(t[0], t[0] + len(t)))
        assert t[0] == 0 or (life_every and t[0] % life_every == 0)
        assert act[1:].tolist() == e.act.tolist()
        assert e.rew.tolist() == t[1:].tolist()
        assert not e.end[:-1].any() and not e.trunc[:-1].any()
        over = t[-1] == 7
        assert running or (e.end[-1], e.trunc[-1]) == (not over or not truncate, over and truncate)
        assert running or over or (life_every and t[-1] % life_every == 0)
        assert not running or not (e.end.any() or e.trunc.any())


def test_every_stretch_takes_what_is_asked_and_less_than_one_step_more_each(tmp_path: Path) -> None:
    collector = collector_of(tmp_path, games(Counting))
    taken = [collect(collector, 1, chunk) for chunk in (1, 3, 4)]
    assert taken == [3, 3, 6]


def test_finished_games_are_told_with_their_returns(tmp_path: Path) -> None:
    collector = collector_of(tmp_path, games(functools.partial(CountingGame, 4, life_every=2)))
    finished = collector.collect(None, 30, random=True, recall=False).finished  # type: ignore[arg-type]
    assert [(g.ret, g.length) for g in finished] == [(10.0, 4)] * 6


def test_lost_steps_are_left_out_and_begin_new_episodes(tmp_path: Path) -> None:
    make = functools.partial(Raising, 50, num_actions=30)
    collector = collector_of(tmp_path, games(make))
    results = [collector.collect(None, 30, random=True, recall=False) for _ in range(10)]  # type: ignore[arg-type]
    lost = sum(result.lost for result in results)
    assert lost >= 6 and sum(result.steps for result in results) == collector.replay.num_steps
    episodes = stored(collector.replay)
    for _, e in episodes:
        t = e.obs[:, 0, 0, 1].astype(int)
        assert t.tolist() == list(range(len(t))) and 1 not in e.act
        assert not e.trunc.any() and e.end.any() == (len(e.act) == 50)


@pytest.mark.parametrize("context", [0, 2])
def test_the_policy_remembers_its_context_at_a_stretch_and_all_since(
    tmp_path: Path, context: int
) -> None:
    collector = collector_of(tmp_path, games(Counting), context=context)
    collect(collector, 10, 10)
    for stretch in (3, 9, 30, 60):
        agent = Spy()
        collector.collect(agent, stretch, random=False, recall=True)  # type: ignore[arg-type]
        assert agent.watched == 1 and len(agent.seen) == stretch // 3
        for env in range(3):
            t0 = None
            for step, (t, remembered) in enumerate(agent.seen):
                if step == 0 or t[env] == 0:
                    t0 = (t[env], min(t[env], context) if step == 0 else 0)
                assert t0 is not None
                assert remembered[env] == t0[1] + t[env] - t0[0]


def test_memory_rebuilt_from_replay_is_that_of_acting_on(tmp_path: Path) -> None:
    """Where the context holds the whole episode, a stretch boundary changes nothing."""
    make = functools.partial(CountingGame, 6, size=64, num_actions=5)
    config = small()
    agent = new_agent(config, make().spec, HARDWARE)
    collector = collector_of(tmp_path, games(make), context=10)
    carry = agent.actor_critic.initial(3)
    for t in range(14):
        if t % 6 == 0:
            carry = agent.actor_critic.initial(3)
        rebuilt = collector._recall(agent)
        torch.testing.assert_close(rebuilt, carry, atol=1e-5, rtol=1e-4)
        if collector.obs is None:
            collector.obs = collector.env.reset(3)
        carry = agent.judge(torch.from_numpy(collector.obs), carry)[2]
        collector.collect(agent, 3, random=False, recall=True)


def test_each_environment_explores_by_itself(tmp_path: Path) -> None:
    make = functools.partial(CountingGame, 50, num_actions=100)
    collector = collector_of(tmp_path, games(make, 8), epsilon=0.5)
    collector.collect(Spy(), 800, random=False, recall=True)  # type: ignore[arg-type]
    acts = np.stack([np.concatenate([e.act for _, e in stored(collector.replay)])])
    assert 0.4 < (acts != 0).mean() < 0.6
    rows = [
        np.concatenate([collector.replay.episode(i + 8 * k).act for k in (0, 1)]) for i in range(8)
    ]
    explored = (np.stack(rows) != 0).sum(0)
    assert 0.02 < (explored == 4).mean() < 0.5 and (explored == 8).mean() < 0.1


def test_without_epsilon_only_the_policy_acts(tmp_path: Path) -> None:
    collector = collector_of(tmp_path, games(Counting))
    collector.collect(Spy(), 60, random=False, recall=True)  # type: ignore[arg-type]
    assert all((e.act == 0).all() for _, e in stored(collector.replay))


def through_disk(collector: LocalCollector, folder: Path, env: Env) -> LocalCollector:
    """The collector as a resumed process has it: `env` is new."""
    save(folder, {"collector": collector.state_dict(), "replay": collector.replay.state_dict()})
    state, again = load(folder), collector_of(collector.replay._store.folder, env)
    again.replay.load_state_dict(state["replay"])
    again.load_state_dict(state["collector"])
    return again


REAL: dict[str, Callable[[], Env]] = {
    "crafter": lambda: make_env({"suite": "crafter"}, num_envs=2, training=True),
    "breakout": lambda: make_env(
        {"suite": "atari", "game": "breakout", "life_loss": True}, num_envs=2, training=True
    ),
}


@pytest.mark.parametrize("suite", REAL)
def test_running_games_go_on_after_a_resume(tmp_path: Path, suite: str) -> None:
    collector = collector_of(tmp_path / "replay", REAL[suite]())
    collect(collector, 260, 50)
    lives = [e for running, e in stored(collector.replay) if not running]
    assert suite == "crafter" or len(lives) > 2
    again = through_disk(collector, tmp_path / "saved", REAL[suite]())
    assert again.obs is not None
    np.testing.assert_array_equal(again.obs, collector.obs)
    assert not any(e.trunc.any() for _, e in stored(again.replay))
    acts = np.random.default_rng(0).integers(collector.env.spec.act.n, size=(60, 2))
    for act in acts:
        ours, theirs = collector.env.step(act), again.env.step(act)
        for name in ("obs", "rew", "end", "trunc", "last_obs"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_game_that_does_not_repeat_is_closed_as_truncated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make: Callable[[], Game] = functools.partial(Forgetful, 100)
    collector = collector_of(tmp_path / "replay", games(make, 2))
    collect(collector, 20, 10)
    before = stored(collector.replay)
    with caplog.at_level(logging.WARNING):
        again = through_disk(collector, tmp_path / "saved", games(make, 2))
    assert "environment 1 did not repeat its episode: closed as truncated" in caplog.text
    collect(again, 20, 10)
    after = stored(again.replay)
    assert len(before) == 2 and len(after) == 4
    for (_, old), (running, now) in zip(before, after[:2], strict=True):
        assert not running and now.trunc[-1] and not now.trunc[:-1].any() and not now.end.any()
        np.testing.assert_array_equal(old.obs, now.obs)
    assert all(running and not e.trunc.any() for running, e in after[2:])
