"""Gymnasium environments become games; what cannot is refused by name, in one line."""

from __future__ import annotations

import functools
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.base import Game
from envs.check import check_game
from envs.gym_game import GymGame
from envs.make import make_env
from envs.spaces import (
    Categories,
    Discrete,
    Image,
    Vector,
)

HERE = __name__


class Counting(gymnasium.Env[Any, Any]):
    """obs = [episode, t]; acting at t earns t + 1; ends after 5 steps, or is cut after 3."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2, start=5)

    def __init__(self, cut: bool = False, both: bool = False) -> None:
        self.cut, self.both = cut, both
        self.episode, self.t, self.closed = -1, 0, False
        self.acts: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t, self.first_seed = self.episode + 1, 0, seed
        return np.array([self.episode, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.acts.append(action)
        self.t += 1
        cut = self.cut and self.t == 3
        end = self.t == 5 or (self.both and cut)
        return np.array([self.episode, float(self.t)]), float(self.t), end, cut, {"x": object()}

    def close(self) -> None:
        self.closed = True


class Endless(Counting):
    action_space = spaces.Box(np.array([-1, -np.inf]), np.ones(2), dtype=np.float64)  # type: ignore


class Written(Counting):
    observation_space = spaces.Dict({"a": spaces.Text(5)})  # type: ignore[assignment]


class Looking(Counting):
    """Shows its step as a wide picture, a small grid of symbols and a direction."""

    observation_space = spaces.Dict(  # type: ignore[assignment]
        {
            "camera": spaces.Box(0, 255, (96, 128, 4), np.uint8),
            "direction": spaces.Discrete(4),
            "grid": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        }
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(seed=seed)
        return self._see(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *rest = super().step(action)
        return self._see(obs), *rest

    @staticmethod
    def _see(obs: Any) -> Any:
        t = int(obs[1])
        camera, grid = np.full((96, 128, 4), 10 * t, np.uint8), np.full((7, 7, 3), t, np.uint8)
        return {"camera": camera, "direction": t % 4, "grid": grid}


class Cut(Counting):
    def __init__(self) -> None:
        super().__init__(cut=True)


class CutAtItsEnd(Counting):
    def __init__(self) -> None:
        super().__init__(cut=True, both=True)


class Forgetful(Counting):
    """Shows at every twelfth step, the eleventh first, how many it has made in all episodes."""

    made = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, rew, end, trunc, info = super().step(action)
        Forgetful.made += 1
        obs = np.array([0.0, Forgetful.made if Forgetful.made % 12 == 11 else 0.0])
        return obs, rew, end, trunc, info

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2), {}


class Rich(Counting):
    """Its third step earns more than float32 can hold."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, rew, *rest = super().step(action)
        return obs, 1e39 if self.t == 3 else rew, *rest


gymnasium.register("TokendreamCounting-v0", f"{HERE}:Counting")
gymnasium.register(
    "TokendreamShort-v0",
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv",
    max_episode_steps=3,
)


def test_cart_pole() -> None:
    game = GymGame("CartPole-v1")
    assert isinstance(game, Game)
    assert game.spec.obs == Vector(4) and game.spec.act == Discrete(2)
    theirs = gymnasium.make("CartPole-v1")
    for seed in (3, 4):
        obs, ours = theirs.reset(seed=seed)[0], game.reset(seed)
        over = False
        for t in range(500):
            assert ours.dtype == np.float32 and np.array_equal(ours, obs)
            if over:
                break
            act = t // 2 % 2
            obs, rew, end, trunc, _ = theirs.step(act)
            outcome = game.step(np.array(act))
            ours, over = outcome.obs, outcome.over
            assert (outcome.rew, outcome.end, outcome.trunc) == (rew, end, trunc)
        assert outcome.end and over
    game.close()


def test_a_time_limit_truncates() -> None:
    game = GymGame("TokendreamShort-v0")
    game.reset(0)
    outcomes = [game.step(np.array(t % 2)) for t in range(3)]
    assert [o.over for o in outcomes] == [False, False, True]
    assert outcomes[-1].trunc and not outcomes[-1].end


@pytest.mark.parametrize("name", ["Counting", "TokendreamCounting-v0"])
def test_every_step_follows_the_one_before(name: str) -> None:
    game = GymGame(f"{HERE}:{name}")
    env: Any = game._env.unwrapped
    for episode in range(3):
        assert game.reset(7 + episode).tolist() == [episode, 0]
        assert env.first_seed == 7 + episode
        for t in range(5):
            outcome = game.step(np.array(t % 2))
            assert outcome.obs.tolist() == [episode, t + 1] and outcome.rew == t + 1
            assert outcome.end == outcome.over == (t == 4) and not outcome.trunc
            assert env.acts[-1] == 5 + t % 2 and type(env.acts[-1]) is int
    game.close()
    assert env.closed


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_grids_and_choices_of_a_dict_in_a_batch(workers: int) -> None:
    settings = {"suite": "gym", "id": f"{HERE}:Looking"}
    with closing(make_env(settings, num_envs=2, workers=workers)) as env:
        assert env.spec.obs == {
            "camera": Image((64, 64, 3)),
            "direction": Categories((4,)),
            "grid": Vector(147),
        }
        env.reset(0)
        for t in range(1, 6):
            step = env.step(np.array([0, 1]))
            assert (step.last_obs["camera"] == 10 * t).all()
            assert (step.last_obs["grid"] == t).all()
            assert step.last_obs["direction"].tolist() == [[t % 4]] * 2
        assert step.end.all() and not step.obs["camera"].any()


@pytest.mark.parametrize(("name", "both"), [("Cut", False), ("CutAtItsEnd", True)])
def test_an_end_at_the_time_limit_is_an_end(name: str, both: bool) -> None:
    game = GymGame(f"{HERE}:{name}")
    game.reset(0)
    last = [game.step(np.array(0)) for _ in range(3)][-1]
    assert last.over and last.end == both and last.trunc != both


def test_a_reward_that_is_not_finite_in_float32_is_told_with_its_step() -> None:
    game = GymGame(f"{HERE}:Rich")
    game.reset(0)
    game.step(np.array(0))
    game.step(np.array(0))
    with pytest.raises(
        ValueError, match=r"the reward of step 3 of an episode is 1e\+39, not a fin"
    ):
        game.step(np.array(0))


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("CartPol-v1", "env.id=CartPol-v1 is unknown; nearest: CartPole-v1; if a package has it"),
        ("cartpole", "nearest: CartPole-v1"),
        (f"{HERE}:Countin", f"nearest: {HERE}:Counting$"),
        ("no_such_package.envs:X-v0", "needs the package no_such_package, which is neither"),
        (
            f"{HERE}:Endless",
            r"Endless: actions need finite bounds.* number 1 lies in \[-inf, 1.0\]",
        ),
        (f"{HERE}:Written", "Written: observation 'a' is of the space Text"),
    ],
)
def test_mistakes_are_told_in_one_line(env_id: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        GymGame(env_id)
    assert "\n" not in str(error.value)


def test_what_a_module_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy.py").write_text("import no_such_module")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(ValueError, match="needs the package no_such_m.*pip install no_such_m"):
        GymGame("needy:Env")


def test_what_a_simulator_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(**options: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled('Box2D: run\n`pip install "gymnasium[x]"`')

    monkeypatch.setattr(f"{HERE}.Counting", lacking)
    with pytest.raises(ValueError, match=r'Box2D: run `pip install "gymnasium\[x\]"`'):
        GymGame(f"{HERE}:Counting")


def test_check_says_what_an_agent_will_see() -> None:
    found = check_game(functools.partial(GymGame, "CartPole-v1"), steps=50)
    assert found.spec.act == Discrete(2)
    assert found.shown[""].startswith("vector of 4, seen -")
    assert found.play.startswith("50 random steps: reward 1 to 1, ")
    assert found.seeds == "seeds repeat a game exactly"


def test_check_notices_what_is_kept_between_episodes() -> None:
    found = check_game(functools.partial(GymGame, f"{HERE}:Counting"), steps=12)
    assert found.seeds.startswith(
        "seeds do NOT repeat a game: the observation differs after 0 steps"
    )


def test_check_counts_steps_not_frames() -> None:
    found = check_game(functools.partial(GymGame, f"{HERE}:Forgetful"), steps=12)
    assert found.seeds.startswith("seeds do NOT repeat a game: the observation differs after 11 s")


def test_check_names_each_of_several_observations() -> None:
    found = check_game(functools.partial(GymGame, f"{HERE}:Looking"), steps=12)
    assert found.shown == {
        "camera": "image 64x64x3, seen 0 to 50",
        "direction": "1 choice of 4, seen 0 to 3",
        "grid": "vector of 147, seen 0 to 5",
    }
    assert found.seeds == "seeds repeat a game exactly"
