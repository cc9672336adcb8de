"""Collection and evaluation where games show several things or numbers, and are steered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.base import Env
from envs.make import make_env
from envs.probes import CountingDictGame
from envs.spaces import Obs, random_actions
from envs.trees import each, leaves, named
from runners.checkpoint import load, save
from runners.collect import LocalCollector
from runners.evaluate import play
from runners.replay import Replay
from tests.runs import HARDWARE, games
from worldmodels.batch import Batch

Counting = functools.partial(CountingDictGame, 7, 3)

ENVS: dict[str, Callable[[], Env]] = {
    "counting": lambda: games(Counting),
    "cartpole": lambda: make_env({"suite": "gym", "id": "CartPole-v1"}, num_envs=3),
    "pendulum": lambda: make_env({"suite": "gym", "id": "Pendulum-v1"}, num_envs=3),
}


class Still:
    """Never moves, remembers how many frames it has seen, and keeps what it was shown and told."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.shown: list[Obs] = []
        self.told: list[np.ndarray] = []

    def initial(self, batch: int) -> tuple[Tensor]:
        return (torch.zeros(batch, 1),)

    def watch(self, past: Batch) -> tuple[Tensor]:
        return (past.seen[:, :-1].float().sum(1, keepdim=True),)

    def act(self, obs: Obs, carry: Any, temperature: float) -> tuple[Tensor, tuple[Tensor]]:
        self.shown.append(each(Tensor.clone, obs))
        return torch.zeros(len(carry[0]), self.size), (carry[0] + 1,)

    def took(self, carry: Any, act: Tensor) -> Any:
        self.told.append(act.numpy().copy())
        return carry


def collector_of(folder: Path, env: Env, epsilon: float = 0.0) -> LocalCollector:
    replay = Replay(
        folder,
        num_streams=env.num_envs,
        obs=env.spec.obs,
        act=env.spec.act,
        priorities={"all": 1.0},
        seed=0,
    )
    return LocalCollector(
        env, replay, HARDWARE, seed=3, context=2, epsilon=epsilon, temperature=1.0
    )


def at_random(collector: LocalCollector, steps: int) -> None:
    collector.collect(None, steps, random=True, recall=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [3, 60])
def test_episodes_in_replay_are_what_happened(tmp_path: Path, chunk: int) -> None:
    collector = collector_of(tmp_path, games(Counting))
    while collector.replay.num_steps < 200:
        at_random(collector, chunk)
    episodes = collector.replay.episodes()
    assert len(episodes) > 20
    for index, episode in enumerate(episodes):
        e = collector.replay.episode(index)
        assert e.obs["pixels"].dtype == np.uint8 and e.act.dtype == np.float32
        (seed,) = set(e.obs["state"][:, 0])
        assert (e.obs["pixels"][:, 0, 0, 1] == np.arange(len(e.act) + 1)).all()
        assert (e.obs["state"][:, 1] == np.arange(len(e.act) + 1)).all()
        assert (e.obs["kind"][:, 0] == np.arange(len(e.act) + 1) % 10).all()
        assert (e.obs["state"][1:, 2:] == e.act).all() and e.act.all()
        assert e.end.any() != episode.running and not e.trunc.any()
        assert seed == int(seed)


def test_exploration_changes_whole_actions_and_the_agent_is_told(tmp_path: Path) -> None:
    collector, agent = collector_of(tmp_path, games(Counting), epsilon=0.3), Still(2)
    for _ in range(3):
        collector.collect(agent, 100, random=False, recall=True)  # type: ignore[arg-type]
    act = np.concatenate([collector.replay.episode(i).act for i in range(20)])
    moved = act != 0
    assert (moved[:, 0] == moved[:, 1]).all() and 0.2 < moved.mean() < 0.4
    assert agent.told and all(told.shape == (3, 2) and told.any() for told in agent.told)
    for name, shown in named(agent.shown[5]).items():
        space = named(collector.env.spec.obs)[name]
        assert shown.shape == (3, *space.shape) and shown.numpy().dtype == space.dtype


@pytest.mark.parametrize("name", ENVS)
def test_running_games_go_on_after_a_resume(tmp_path: Path, name: str) -> None:
    collector = collector_of(tmp_path / "replay", ENVS[name]())
    at_random(collector, 100)
    at_random(collector, 50)
    state = {"collector": collector.state_dict(), "replay": collector.replay.state_dict()}
    save(tmp_path / "saved", state)
    saved, again = load(tmp_path / "saved"), collector_of(tmp_path / "replay", ENVS[name]())
    again.replay.load_state_dict(saved["replay"])
    again.load_state_dict(saved["collector"])
    assert all(leaves(each(np.array_equal, again.obs, collector.obs)))
    assert not any(again.replay.episode(i).trunc.any() for i in range(3))
    rng, env = np.random.default_rng(0), collector.env
    for _ in range(20):
        act = random_actions(env.spec.act, rng, 3)
        ours, theirs = env.step(act), again.env.step(act)
        assert all(leaves(each(np.array_equal, ours.obs, theirs.obs)))
        assert np.array_equal(ours.rew, theirs.rew)


def test_a_game_that_leads_elsewhere_is_closed_as_truncated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collector = collector_of(tmp_path, games(functools.partial(CountingDictGame, 90)))
    at_random(collector, 30)
    state = collector.state_dict()
    state["games"][1]["actions"] = state["games"][1]["actions"] / 2
    collector.load_state_dict(state)
    assert caplog.text.count("did not repeat") == 1
    assert [e.running for e in collector.replay.episodes()] == [True, False, True]
    assert collector.replay.episode(1).trunc.tolist() == [False] * 9 + [True]


@pytest.mark.parametrize("name", ENVS)
def test_kept_games_are_whole(name: str) -> None:
    env = ENVS[name]()
    evaluation, segments = play(None, env, HARDWARE, episodes=3, seed=1, keep=3)
    assert len(evaluation.games) == len(segments) == 3
    for segment in segments:
        steps = len(segment.act)
        for space, shown in zip(leaves(env.spec.obs), leaves(segment.obs), strict=True):
            assert shown.shape == (steps + 1, *space.shape) and shown.dtype == space.dtype
        assert segment.act.shape == (steps, *env.spec.act.shape)
        assert segment.act.dtype == env.spec.act.dtype
        assert segment.end[-1] or segment.trunc[-1]
    kept = sorted((len(segment.act), segment.rew.sum()) for segment in segments)
    told = sorted((game.length, game.ret) for game in evaluation.games)
    np.testing.assert_allclose(kept, told, rtol=1e-5)


def test_random_actions_on_cartpole_score_as_known() -> None:
    """22 steps over many episodes, with a standard deviation of about 12."""
    env = make_env({"suite": "gym", "id": "CartPole-v1"}, num_envs=16)
    evaluation, _ = play(None, env, HARDWARE, episodes=100, seed=5)
    assert abs(evaluation.summary()["return"] - 22.2) < 4


def test_an_agent_that_stays_still_swings_no_pendulum() -> None:
    env, agent = ENVS["pendulum"](), Still(1)
    evaluation, (game,) = play(agent, env, HARDWARE, episodes=3, seed=5, keep=1)  # type: ignore[arg-type]
    assert agent.shown[0].shape == (3, 3) and agent.shown[0].dtype == torch.float32
    assert game.act.shape == (200, 1) and not game.act.any() and game.trunc[-1]
    np.testing.assert_array_equal(game.obs[3], agent.shown[3][0].numpy())
    assert evaluation.summary()["return"] < -300
