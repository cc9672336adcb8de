"""From settings to games, mistakes answered in one line, and the scores of both suites."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from envs import make as make_module
from envs.experience import Finished
from envs.make import make_env
from envs.scores import (
    ACHIEVEMENTS,
    atari_references,
    crafter_score,
    human_normalised,
    list_games,
    success_rates,
)
from envs.spaces import Vector


def test_crafter_from_settings() -> None:
    env = make_env({"suite": "crafter", "num_envs": 9, "length": 3}, num_envs=2)
    try:
        assert env.num_envs == 2 and env.reset(0).shape == (2, 64, 64, 3)
        steps = [env.step(np.zeros(2, np.int64)) for _ in range(3)]
        assert steps[-1].trunc.all() and not steps[-1].end.any()
        assert len(steps[-1].finished) == 2
    finally:
        env.close()


@pytest.mark.parametrize("training", [True, False])
def test_atari_from_settings(training: bool) -> None:
    settings = {"suite": "atari", "game": "breakout", "noop_max": 0, "eval_noop_max": 1}
    env = make_env(settings, num_envs=1, training=training)
    try:
        env.reset(0)
        game: Any = env._workers[0].group._group._games[0]  # type: ignore[attr-defined]
        assert game._life_loss == training
        assert game._frames == (0 if training else 1)
        assert env.spec.frames_per_step == 4
    finally:
        env.close()


def test_mistakes_name_the_setting_and_the_nearest_choice() -> None:
    with pytest.raises(ValueError, match="env.game=Breakot is unknown; nearest: breakout; choices"):
        make_env({"suite": "atari", "game": "Breakot"}, num_envs=1)
    with pytest.raises(ValueError, match="env.suite=craftr is unknown; nearest: crafter"):
        make_env({"suite": "craftr"}, num_envs=1)


def test_gymnasium_from_settings() -> None:
    env = make_env({"suite": "gym", "id": "CartPole-v1", "num_envs": 9}, num_envs=2)
    try:
        assert env.spec.obs == Vector(4) and env.reset(0).shape == (2, 4)
    finally:
        env.close()


def test_mistakes_in_tasks_and_ids() -> None:
    with pytest.raises(ValueError, match="env.suite=dcm is unknown; nearest: dmc"):
        make_env({"suite": "dcm"}, num_envs=1)
    with pytest.raises(ValueError, match="env.task=wlaker-walk is unknown; nearest: walker-walk"):
        make_env({"suite": "dmc", "task": "wlaker-walk"}, num_envs=1)
    with pytest.raises(ValueError, match="env.id=CartPol-v1 is unknown; nearest: CartPole-v1"):
        make_env({"suite": "gym", "id": "CartPol-v1"}, num_envs=1, workers=1)


def test_what_always_draws_needs_a_graphics_library(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dm_control")

    def none() -> str:
        raise ValueError("nothing can draw")

    monkeypatch.setattr("envs.gl.choose_backend", none)
    settings = {"suite": "dmc", "observe": "state", "task": "quadruped-escape"}
    with pytest.raises(ValueError, match="nothing can draw"):
        make_module.check_settings(settings)
    make_module.check_settings({**settings, "task": "quadruped-walk"})


def test_dm_control_from_settings() -> None:
    pytest.importorskip("dm_control")
    settings = {"suite": "dmc", "task": "walker-walk", "observe": "state", "action_repeat": 3}
    env = make_env(settings, num_envs=1)
    try:
        assert env.reset(0).shape == (1, 24) and env.spec.frames_per_step == 3
    finally:
        env.close()


@pytest.mark.parametrize(
    ("settings", "extra"),
    [({"suite": "crafter"}, "crafter"), ({"suite": "atari", "game": "pong"}, "atari")],
)
def test_a_missing_package_is_named(
    settings: dict[str, str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf'pip install "tokendream\[{extra}\]"') as error:
        make_env(settings, num_envs=1)
    assert "\n" not in str(error.value)


def test_missing_numba_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    make_module._warn_without_numba.cache_clear()
    with caplog.at_level(logging.WARNING):
        make_module._warn_without_numba()
        make_module._warn_without_numba()
    make_module._warn_without_numba.cache_clear()
    assert len(caplog.records) == 1 and "numba" in caplog.text


def test_environments_never_import_torch() -> None:
    code = (
        "import sys, envs.make, envs.atari, envs.crafter, envs.probes, envs.vector\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listing_games_loads_no_simulator() -> None:
    code = (
        "import sys; from envs.scores import list_games; assert len(list_games()) == 26\n"
        "sys.exit(bool({'ale_py', 'crafter', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reference_scores() -> None:
    assert list_games() == tuple(sorted(list_games())) and len(list_games()) == 26
    assert {"jamesbond", "up_n_down", "ms_pacman", "kung_fu_master"} <= set(list_games())
    assert atari_references()["pong"].random == -20.7
    assert atari_references()["up_n_down"].name == "UpNDown"
    assert human_normalised("breakout", 1.7) == 0
    assert human_normalised("breakout", 30.5) == 1
    assert human_normalised("pong", -3.05) == pytest.approx(0.5)


def test_crafter_score() -> None:
    wood = {f"achievement/{name}": float(name == "collect_wood") for name in ACHIEVEMENTS}
    none = dict.fromkeys(wood, 0.0)
    twice = {**wood, "achievement/collect_wood": 2.0}
    games = [Finished(0, 1.0, 9, stats) for stats in (wood, none, twice, none)]
    rates = success_rates(games)
    assert rates["collect_wood"] == 50.0 and sum(rates.values()) == 50.0
    assert crafter_score(rates) == pytest.approx(51 ** (1 / 22) - 1)
    assert crafter_score(dict.fromkeys(ACHIEVEMENTS, 100.0)) == pytest.approx(100)
    assert crafter_score(success_rates([])) == 0
