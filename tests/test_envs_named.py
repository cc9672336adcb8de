"""Batches of games with named observations; those of one image are the same under a name."""

from __future__ import annotations

import functools
import importlib.util
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from envs.base import DictEnv, DictGame, episode_seed
from envs.experience import DictStep, EnvSpec
from envs.gym_game import GymGame
from envs.named import Frames, image_spec, named, named_spec
from envs.probes import CountingDictGame, CountingGame
from envs.spaces import Categories, Continuous, Discrete, Image, ObsSpace, Vector
from envs.vector import DictVectorEnv, VectorEnv

COUNTING = [
    functools.partial(CountingDictGame, 4, 3),
    functools.partial(CountingDictGame, 6, truncate=True),
    functools.partial(CountingDictGame, 1),
]


def acts(steps: int) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [random.uniform(-1, 1, (3, 2)).astype(np.float32) for _ in range(steps)]


def record(make: list[Any], workers: int, steps: int) -> list[DictStep]:
    with closing(DictVectorEnv(make, workers)) as env:
        env.reset(3)
        return [env.step(act) for act in acts(steps)]


def same(a: DictStep, b: DictStep) -> bool:
    arrays = all(
        np.array_equal(x[name], y[name]) and x[name].dtype == y[name].dtype
        for x, y in ((a.obs, b.obs), (a.last_obs, b.last_obs))
        for name in x
    )
    fields = ("rew", "end", "trunc", "lost")
    return arrays and all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields)


def test_protocols() -> None:
    assert isinstance(CountingDictGame(), DictGame)
    with closing(DictVectorEnv([CountingDictGame])) as env:
        assert isinstance(env, DictEnv)


def test_every_observation_follows_the_one_before() -> None:
    with closing(DictVectorEnv(COUNTING)) as env:
        obs, episodes = env.reset(5), [0, 0, 0]
        for act in acts(30):
            step = env.step(act)
            t = obs["state"][:, 1] + 1
            assert np.array_equal(step.last_obs["state"][:, 1], t)
            assert np.array_equal(step.last_obs["state"][:, 2:], act)
            assert np.array_equal(step.last_obs["kind"], np.stack([t % 10, t // 10], axis=1))
            assert np.array_equal(step.last_obs["pixels"][:, 0, 0, 1], t)
            assert np.array_equal(step.rew, t)
            over = {finished.env for finished in step.finished}
            assert over == set(np.flatnonzero(step.end | step.trunc))
            for i in range(3):
                seed = episode_seed(5, i, episodes[i])
                assert step.last_obs["state"][i, 0] == seed % 1000
                episodes[i] += i in over
                assert (step.obs["state"][i, 1] == 0) == (i in over)
            obs = step.obs
        assert env.spec.act == Continuous(2) and set(obs) == {"pixels", "state", "kind"}


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_change_nothing(workers: int) -> None:
    alone, spread = record(COUNTING, 0, 12), record(COUNTING, workers, 12)
    assert all(same(a, b) for a, b in zip(alone, spread, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_running_games_are_rebuilt(workers: int) -> None:
    before, after = acts(20)[:7], acts(20)[7:]
    with closing(DictVectorEnv(COUNTING, workers)) as env:
        env.reset(3)
        for act in before:
            obs = env.step(act).obs
            act[:] = 0  # actions are the environment's own
        states = env.state()
        assert all(s.actions.dtype == np.float32 and s.actions.shape[1:] == (2,) for s in states)
        rest = [env.step(act) for act in after]
    with closing(DictVectorEnv(COUNTING, workers)) as env:
        again = env.restore(3, states)
        assert all(np.array_equal(again[name], obs[name]) for name in obs)
        assert all(same(env.step(act), step) for act, step in zip(after, rest, strict=True))


def test_games_of_one_image_have_it_under_a_name() -> None:
    make = [functools.partial(CountingGame, 4, 3, life_every=2)] * 2
    with closing(VectorEnv(make)) as one, closing(DictVectorEnv(make)) as many:
        assert many.spec == named_spec(one.spec) and image_spec(many.spec) == one.spec
        assert np.array_equal(one.reset(1), many.reset(1)["pixels"])
        for t in range(15):
            a, b = one.step(np.full(2, t % 3)), many.step(np.full(2, t % 3))
            assert np.array_equal(a.obs, b.obs["pixels"])
            assert np.array_equal(a.last_obs, b.last_obs["pixels"])
            assert np.array_equal(a.end, b.end) and a.finished == b.finished
        for x, y in zip(one.state(), many.state(), strict=True):
            assert x.episode == y.episode and x.actions.tolist() == y.actions.tolist()


def test_what_does_not_fit_a_batch_is_refused() -> None:
    with pytest.raises(AssertionError, match="not a game of one image and one choice"):
        VectorEnv([CountingDictGame])
    with pytest.raises(AssertionError, match="the games of one Env differ"):
        DictVectorEnv([CountingDictGame, CountingGame], workers=2)
    with closing(DictVectorEnv(COUNTING)) as env:
        env.reset(0)
        with pytest.raises(AssertionError, match="one action for each environment"):
            env.step(np.zeros(3, np.float32))


def test_specs_of_one_image_survive_the_general_form() -> None:
    spec = EnvSpec(Image((4, 6, 3)), Discrete(3, ("a", "b", "c")), 4)
    assert image_spec(named_spec(spec)) == spec
    assert named(CountingGame()).spec.obs == {"pixels": Image((8, 8, 3))}


def test_frames_share_one_memory_without_overlap() -> None:
    spaces: dict[str, ObsSpace] = {"a": Image((3, 3, 1)), "b": Vector(5), "c": Categories((2, 9))}
    memory = memoryview(bytearray(Frames.num_bytes(spaces, 3)))
    here, there = Frames.on(spaces, 3, memory), Frames.on(spaces, 3, memory)
    arrays = [*here.obs.values(), *here.last.values()]
    for k, array in enumerate(arrays):
        assert array.flags.aligned
        array[...] = k
    views = [*there.obs.values(), *there.last.values()]
    assert all((view == k).all() for k, view in enumerate(views))


@pytest.mark.parametrize("workers", [0, 2])
def test_cart_pole_in_a_batch(workers: int) -> None:
    make = [functools.partial(GymGame, "CartPole-v1")] * 2
    with closing(DictVectorEnv(make, workers)) as env:
        assert env.spec.act == Discrete(2)
        first = env.reset(0)["state"]
        assert first.shape == (2, 4) and first.dtype == np.float32
        finished = [f for t in range(60) for f in env.step(np.array([0, t % 2])).finished]
        assert finished and all(f.ret == f.length for f in finished)
        assert env.state()[0].actions.dtype == np.int64


@pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason="no dm-control")
def test_dm_control_in_worker_processes() -> None:
    from envs.dmc import DMCGame

    make = [functools.partial(DMCGame, "cartpole-swingup", observe="state")] * 2
    with closing(DictVectorEnv(make, 2)) as far, closing(DictVectorEnv(make)) as near:
        assert np.array_equal(far.reset(0)["state"], near.reset(0)["state"])
        for act in (-1.0, 0.5):
            a, b = (env.step(np.full((2, 1), act, np.float32)) for env in (far, near))
            assert same(a, b)
