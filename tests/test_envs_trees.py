"""Batches of games that show several things, and games that show one thing of any kind."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from envs import gl
from envs.base import Env, Game, Outcome, episode_seed
from envs.crafter import CrafterGame
from envs.experience import Step
from envs.frames import Frames, write
from envs.gym_game import GymGame
from envs.make import make_env
from envs.probes import ChoiceGame, CountingDictGame, CountingGame
from envs.spaces import Categories, Continuous, Discrete, Image, Obs, Space, Vector
from envs.trees import each, leaves
from envs.vector import VectorEnv

needs_dmc = pytest.mark.skipif(
    importlib.util.find_spec("dm_control") is None, reason='pip install "tokendream[dmc]"'
)

COUNTING = [
    functools.partial(CountingDictGame, 4, 3),
    functools.partial(CountingDictGame, 6, truncate=True),
    functools.partial(CountingDictGame, 1),
]


def acts(steps: int) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [random.uniform(-1, 1, (3, 2)).astype(np.float32) for _ in range(steps)]


def record(make: list[Any], workers: int, steps: int) -> list[Step]:
    with closing(VectorEnv(make, workers)) as env:
        env.reset(3)
        return [env.step(act) for act in acts(steps)]


def same(a: Step, b: Step) -> bool:
    arrays = all(
        np.array_equal(x, y) and x.dtype == y.dtype
        for one, other in ((a.obs, b.obs), (a.last_obs, b.last_obs))
        for x, y in zip(leaves(one), leaves(other), strict=True)
    )
    fields = ("rew", "end", "trunc", "lost")
    return arrays and all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields)


def test_protocols() -> None:
    assert isinstance(CountingDictGame(), Game)
    with closing(VectorEnv([CountingDictGame])) as env:
        assert isinstance(env, Env)


def test_every_observation_follows_the_one_before() -> None:
    with closing(VectorEnv(COUNTING)) as env:
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
    with closing(VectorEnv(COUNTING, workers)) as env:
        env.reset(3)
        for act in before:
            obs = env.step(act).obs
            act[:] = 0  # actions are the environment's own
        states = env.state()
        assert all(s.actions.dtype == np.float32 and s.actions.shape[1:] == (2,) for s in states)
        rest = [env.step(act) for act in after]
    with closing(VectorEnv(COUNTING, workers)) as env:
        again = env.restore(3, states)
        assert all(np.array_equal(again[name], obs[name]) for name in obs)
        assert all(same(env.step(act), step) for act, step in zip(after, rest, strict=True))


def test_one_of_several_observations_is_as_if_it_came_alone() -> None:
    make = functools.partial(CountingGame, 4, 3)
    many = functools.partial(CountingDictGame, 4, 3)
    with closing(VectorEnv([make] * 2)) as one, closing(VectorEnv([many] * 2)) as several:
        assert one.spec.obs == several.spec.obs["pixels"]  # type: ignore[index]
        assert np.array_equal(one.reset(1), several.reset(1)["pixels"])
        for _ in range(15):
            a, b = one.step(np.zeros(2, np.int64)), several.step(np.zeros((2, 2), np.float32))
            assert np.array_equal(a.obs, b.obs["pixels"])
            assert np.array_equal(a.last_obs, b.last_obs["pixels"])
            assert np.array_equal(a.end, b.end) and a.finished == b.finished


class Alone(CountingDictGame):
    """A counting game that shows its vector, without a name or as a dict of one entry."""

    def __init__(self, named: bool) -> None:
        super().__init__(4, 3)
        self.spec = dataclasses.replace(self.spec, obs=self._only(self.spec.obs, named))
        self._named = named

    def _see(self, frame: np.ndarray, act: np.ndarray) -> Obs:
        return self._only(super()._see(frame, act), self._named)

    @staticmethod
    def _only(tree: Any, named: bool) -> Any:
        return {"state": tree["state"]} if named else tree["state"]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_entry_of_a_dict_stays_in_a_dict(workers: int) -> None:
    plain, named = ([functools.partial(Alone, named=n)] * 2 for n in (False, True))
    with closing(VectorEnv(plain, workers)) as one, closing(VectorEnv(named, workers)) as entry:
        assert one.spec.obs == Vector(4) and entry.spec.obs == {"state": Vector(4)}
        assert np.array_equal(one.reset(2), entry.reset(2)["state"])
        for act in acts(12):
            a, b = (env.step(act[:2]) for env in (one, entry))
            assert np.array_equal(a.obs, b.obs["state"]) and a.obs.dtype == np.float32
            assert np.array_equal(a.last_obs, b.last_obs["state"])
        restored = one.restore(2, one.state())
        assert np.array_equal(restored, a.obs)


class Recording(CountingGame):
    """Its reward says that its action was a whole number without axes."""

    def step(self, act: Any) -> Outcome:
        fits = isinstance(act, np.ndarray) and act.shape == () and act.dtype == np.int64
        return dataclasses.replace(super().step(act), rew=float(fits))


@pytest.mark.parametrize("workers", [0, 1])
def test_single_choices_reach_games_as_arrays_of_their_space(workers: int) -> None:
    with closing(VectorEnv([Recording] * 2, workers)) as env:
        env.reset(0)
        assert env.step(np.array([1, 2], np.int32)).rew.all()


def test_arrays_and_whole_numbers_do_the_same() -> None:
    for make in (CountingGame, ChoiceGame, CrafterGame):
        whole, array = make(), make()
        assert np.array_equal(whole.reset(3), array.reset(3))
        for act in (1, 0, 2, 1):
            a, b = whole.step(act), array.step(np.array(act))
            assert np.array_equal(a.obs, b.obs) and a.rew == b.rew and type(b.rew) is float


def test_what_does_not_fit_a_batch_is_refused() -> None:
    with pytest.raises(AssertionError, match="the games of one Env differ"):
        VectorEnv([CountingDictGame, CountingGame], workers=2)
    with closing(VectorEnv(COUNTING)) as env:
        env.reset(0)
        with pytest.raises(AssertionError, match="one action for each environment"):
            env.step(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "space",
    [
        {"a": Image((3, 3, 1)), "b": Vector(5), "c": Categories((2, 9))},
        {"a": Vector(1)},
        Image((3, 3, 1)),
        Categories((4,)),
    ],
)
def test_frames_share_one_memory_without_overlap(space: Space) -> None:
    memory = memoryview(bytearray(Frames.num_bytes(space, 3)))
    here, there = Frames.on(space, 3, memory), Frames.on(space, 3, memory)
    assert isinstance(here.obs, dict) == isinstance(here.last, dict) == isinstance(space, dict)
    for k, array in enumerate([*leaves(here.obs), *leaves(here.last)]):
        assert array.flags.aligned
        array[...] = k
    views = [*leaves(there.obs), *leaves(there.last)]
    assert all((view == k).all() for k, view in enumerate(views))
    write(here.obs, 1, each(lambda one: np.full(one.shape, 9, one.dtype), space))
    for k, array in enumerate(leaves(there.obs)):
        assert (array[1] == 9).all() and (array[[0, 2]] == k).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_cart_pole_in_a_batch(workers: int) -> None:
    make = [functools.partial(GymGame, "CartPole-v1")] * 2
    with closing(VectorEnv(make, workers)) as env:
        assert env.spec.act == Discrete(2)
        first = env.reset(0)
        assert first.shape == (2, 4) and first.dtype == np.float32
        finished = [f for t in range(60) for f in env.step(np.array([0, t % 2])).finished]
        assert finished and all(f.ret == f.length for f in finished)
        assert env.state()[0].actions.dtype == np.int64


@needs_dmc
def test_dm_control_in_worker_processes() -> None:
    from envs.dmc import DMCGame

    make = [functools.partial(DMCGame, "cartpole-swingup", observe="state")] * 2
    with closing(VectorEnv(make, 2)) as far, closing(VectorEnv(make)) as near:
        assert np.array_equal(far.reset(0), near.reset(0))
        for act in (-1.0, 0.5):
            a, b = (env.step(np.full((2, 1), act, np.float32)) for env in (far, near))
            assert same(a, b)


@needs_dmc
@pytest.mark.skipif(bool(gl.missing_packages("egl")), reason="no EGL")
def test_pixels_and_state_of_dm_control_together() -> None:
    # In worker processes alone, since this one may have loaded dm-control without a renderer.
    settings = {"suite": "dmc", "task": "cartpole-swingup", "observe": "both", "quality": "fast"}
    with closing(make_env(settings, num_envs=2, workers=2)) as env:
        assert env.spec.obs == {"pixels": Image((64, 64, 3)), "state": Vector(5)}
        first = env.reset(0)
        assert {name: (a.shape, a.dtype) for name, a in first.items()} == {
            "pixels": ((2, 64, 64, 3), np.dtype(np.uint8)),
            "state": ((2, 5), np.dtype(np.float32)),
        }
        steps = [env.step(np.array([[0.5], [-1]], np.float32)) for _ in range(5)]
        for name, array in first.items():
            assert not np.array_equal(steps[-1].obs[name], array)
        states = env.state()
        ahead = env.step(np.ones((2, 1), np.float32))
    with closing(make_env(settings, num_envs=2, workers=1)) as env:
        again = env.restore(0, states)
        assert all(map(np.array_equal, leaves(again), leaves(steps[-1].obs)))
        assert same(env.step(np.ones((2, 1), np.float32)), ahead)
