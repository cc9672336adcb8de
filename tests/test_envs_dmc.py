"""DeepMind Control as dm-control has it: real tasks, time limits, bounds, seeds and renderers."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from envs import gl
from envs.dmc_tasks import (
    STATE_TASKS,
    TASKS,
    VISION_TASKS,
    published,
    random_returns,
    split_task,
)
from envs.spaces import Continuous, Image, Obs, Vector, random_action
from envs.trees import leaves

HAS_DMC = importlib.util.find_spec("dm_control") is not None
needs_dmc = pytest.mark.skipif(not HAS_DMC, reason='pip install "tokendream[dmc]"')
needs_egl = pytest.mark.skipif(bool(gl.missing_packages("egl")), reason="no EGL")


def make(task: str = "walker-walk", **options: Any) -> Any:
    from envs.dmc import DMCGame

    return DMCGame(task, **{"observe": "state", **options})


def original(task: str, seed: int) -> Any:
    from envs.dmc import load_suite

    return load_suite(draw=False).load(*split_task(task), {"random": seed})


def play(game: Any, seed: int, steps: int) -> list[Obs]:
    random = np.random.default_rng(seed)
    seen = [game.reset(seed)]
    return seen + [game.step(random_action(game.spec.act, random)).obs for _ in range(steps)]


def same(a: list[Obs], b: list[Obs]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(all(map(np.array_equal, leaves(x), leaves(y))) for x, y in pairs)


@needs_dmc
def test_it_is_the_suites_own_task() -> None:
    theirs, ours = original("walker-walk", 5), make(action_repeat=1)
    moment, obs = theirs.reset(), ours.reset(5)
    random = np.random.default_rng(0)
    for _ in range(20):
        flat = np.concatenate([np.ravel(v) for v in moment.observation.values()])
        assert np.array_equal(obs, flat.astype(np.float32))
        act = random_action(ours.spec.act, random)
        moment, outcome = theirs.step(act), ours.step(act)
        assert outcome.rew == moment.reward and not outcome.over
        obs = outcome.obs
    ours.close()


@needs_dmc
@pytest.mark.parametrize(("repeat", "decisions"), [(2, 500), (3, 334)])
def test_a_thousand_control_steps_are_cut_and_never_end(repeat: int, decisions: int) -> None:
    game = make("cartpole-balance", action_repeat=repeat)
    assert game.spec.frames_per_step == repeat
    for seed in (0, 1):
        game.reset(seed)
        outcomes = [game.step(np.zeros(1, np.float32)) for _ in range(decisions)]
        assert [o.over for o in outcomes] == [False] * (decisions - 1) + [True]
        assert outcomes[-1].trunc and not any(o.end for o in outcomes)
        assert outcomes[0].rew == pytest.approx(repeat, abs=0.1)
        assert sum(o.rew for o in outcomes) < 1000


@needs_dmc
def test_a_moment_without_future_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    game = make("cartpole-balance")
    game.reset(0)
    monkeypatch.setattr(game._env.task, "get_termination", lambda physics: 0.0)
    outcome = game.step(np.zeros(1, np.float32))
    assert outcome.end and outcome.over and not outcome.trunc
    assert outcome.rew < 1.1, "the second control step belongs to no episode"


@needs_dmc
@pytest.mark.parametrize("task", ["reacher-easy", "finger-turn_hard", "quadruped-walk"])
def test_the_seed_fixes_a_game_whatever_was_played_before(task: str) -> None:
    game = make(task)
    first = play(game, 1, 10)
    assert not same(play(game, 2, 10), first)
    assert same(play(game, 1, 10), first) and same(play(make(task), 1, 10), first)


@needs_dmc
def test_two_processes_play_the_same_game() -> None:
    code = "from tests.test_envs_dmc import *; print(play(make(), 3, 20)[-1].tobytes())"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == str(play(make(), 3, 20)[-1].tobytes())


@needs_dmc
def test_actions_are_rescaled_to_the_true_bounds() -> None:
    game = make("quadruped-walk")
    assert game.spec.act == Continuous(12)
    game.reset(0)
    raw = game._env.action_spec()
    assert raw.maximum.max() > 1
    for side, bound in ((1, raw.maximum), (-1, raw.minimum)):
        game.step(np.full(12, side, np.float32))
        assert np.allclose(game._env.physics.control(), bound)
    with pytest.raises(ValueError, match="not within"):
        game.step(np.full(12, 1.1, np.float32))


@needs_dmc
def test_the_state_is_one_vector() -> None:
    sizes = {task: make(task).spec.obs for task in ("walker-walk", "finger-turn_easy")}
    assert sizes == {
        "walker-walk": Vector(24),
        "finger-turn_easy": Vector(12),
    }


@needs_dmc
def test_the_tasks_are_the_suites() -> None:
    from envs.dmc import load_suite

    suite = load_suite(draw=False)
    assert {split_task(task) for task in TASKS} == {t for t in suite.ALL_TASKS if t[0] != "lqr"}


@needs_dmc
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_repeats(task: str) -> None:
    if task == "quadruped-escape":
        pytest.skip("it draws, and this process may not")
    game = make(task)
    assert same(play(game, 1, 10), play(game, 1, 10))


def test_published_scores_are_of_the_benchmarks_tasks() -> None:
    for observe, tasks, budget in (
        ("pixels", VISION_TASKS, 1_000_000),
        ("state", STATE_TASKS, 500_000),
    ):
        for task in tasks:
            rows = published(task, observe)
            assert {"DreamerV3", "PPO"} <= {r.method for r in rows if r.control_steps == budget}
            budgets = [row.control_steps for row in rows]
            assert budgets == sorted(budgets) and min(budgets) >= 100_000
            assert all(0 <= row.score <= 1000 and row.std >= 0 and row.source for row in rows)
    found = {r.method: r.score for r in published("cheetah_run", "pixels") if r.seeds == 10}
    assert found["DreamerV3"] == 836
    assert published("walker-walk", "both") == []


def test_names() -> None:
    assert len(VISION_TASKS) == 20 and len(STATE_TASKS) == 18
    assert set(STATE_TASKS) < set(VISION_TASKS) < set(TASKS)
    assert set(random_returns()) == set(VISION_TASKS)
    assert split_task("ball_in_cup-catch") == split_task("ball_in_cup_catch")
    assert split_task("humanoid_cmu_run") == ("humanoid_CMU", "run")
    assert split_task("point_mass-easy") == ("point_mass", "easy")
    with pytest.raises(ValueError, match="env.task=walker-wlak is unknown; nearest: walker-walk;"):
        split_task("walker-wlak")


def pixels() -> None:
    """What must hold of pictures, checked in a process of its own: see `load_suite`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    game = make(observe="both", quality="fast")
    assert list(game.spec.obs.items()) == [("pixels", Image((64, 64, 3))), ("state", Vector(24))]
    seen = play(game, 1, 3)
    assert {frame["pixels"].shape for frame in seen} == {(64, 64, 3)}
    assert seen[0]["pixels"].std() > 10, "an empty picture"
    assert not np.array_equal(seen[0]["pixels"], seen[-1]["pixels"])
    assert same(play(game, 1, 3), seen)
    assert np.array_equal(play(make(), 1, 3)[-1], seen[-1]["state"])
    full = play(make(observe="pixels"), 1, 0)[0].astype(int)
    theirs = original("walker-walk", 1)
    theirs.reset()
    assert np.array_equal(full, theirs.physics.render(64, 64, camera_id=0))
    assert 0.5 < np.abs(full - seen[0]["pixels"]).mean() < 20
    assert make("quadruped-run", observe="pixels", size=32)._camera == 2
    assert make("quadruped-escape").reset(0).shape == (101,)
    assert "MUJOCO_GL" not in os.environ
    print("pictures hold")


@needs_dmc
@needs_egl
def test_pictures() -> None:
    code = "from tests.test_envs_dmc import pixels; pixels()"
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "pictures hold" in done.stdout, done.stderr
    assert "MuJoCo draws with MUJOCO_GL=egl" in done.stderr


@needs_dmc
def test_pictures_after_a_game_without_are_refused() -> None:
    make().close()
    with pytest.raises(ValueError, match="loaded without a renderer in this process"):
        make(observe="pixels")


def test_the_backend_is_the_first_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert gl.choose_backend(lambda name: True) == "egl"
    assert gl.choose_backend(lambda name: name != "libOpenGL.so.0") == "egl"
    assert gl.choose_backend(lambda name: "OSMesa" in name) == "osmesa"
    assert gl.missing_packages("egl", lambda name: "EGL" in name) == ["libopengl0"]
    with pytest.raises(ValueError, match="libegl1 libopengl0 libegl-mesa0 .or libosmesa6.*=state"):
        gl.choose_backend(lambda name: False)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert gl.choose_backend(lambda name: False) == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(ValueError, match="MUJOCO_GL=disabled forbids drawing"):
        gl.choose_backend()


def test_graphics_are_diagnosed() -> None:
    fine = ["egl: its libraries load", "osmesa: its libraries load"]
    assert gl.diagnose(lambda name: True) == fine
    assert gl.diagnose(lambda name: False) == [
        "egl: missing: apt-get install --no-install-recommends libegl1 libopengl0",
        "osmesa: missing: apt-get install --no-install-recommends libosmesa6",
    ]
    assert not gl.loads("libno-such-thing.so.7")


def test_listing_tasks_loads_no_simulator() -> None:
    code = (
        "import sys, envs.dmc, envs.gl; assert len(envs.dmc.split_task('walker-walk')) == 2\n"
        "sys.exit(bool({'mujoco', 'dm_control', 'torch', 'OpenGL'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_dmc
@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        "acrobot-swingup",
        "cartpole-balance",
        "cartpole-swingup",
        "cheetah-run",
        "finger-spin",
        "hopper-hop",
        "hopper-stand",
        "walker-run",
        "walker-stand",
        "walker-walk",
    ],
)
def test_random_policies_earn_what_the_data_file_says(task: str) -> None:
    from tests.dmc_random import random_returns as measure

    returns = measure(task, episodes=20, seed=1)
    reference = random_returns()[task]
    error = np.hypot(returns.std(ddof=1) / np.sqrt(20), reference.error)
    assert abs(returns.mean() - reference.mean) < 4 * error + 0.5
