"""Gymnasium environments become games; what cannot is refused by name, in one line."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.base import DictGame
from envs.check import check_game
from envs.gym_game import GymGame
from envs.gym_spaces import GymActions, GymObservations
from envs.spaces import Categories, Continuous, Discrete, Image, MultiDiscrete, Vector

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


gymnasium.register("TokendreamCounting-v0", f"{HERE}:Counting")


def test_cart_pole() -> None:
    game = GymGame("CartPole-v1")
    assert isinstance(game, DictGame)
    assert game.spec.obs == {"state": Vector(4)} and game.spec.act == Discrete(2)
    theirs = gymnasium.make("CartPole-v1")
    for seed in (3, 4):
        obs, ours = theirs.reset(seed=seed)[0], game.reset(seed)
        over = False
        for t in range(500):
            assert ours["state"].dtype == np.float32 and np.array_equal(ours["state"], obs)
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
    game = GymGame("CartPole-v1", max_episode_steps=3)
    game.reset(0)
    outcomes = [game.step(np.array(t % 2)) for t in range(3)]
    assert [o.over for o in outcomes] == [False, False, True]
    assert outcomes[-1].trunc and not outcomes[-1].end


@pytest.mark.parametrize("name", ["Counting", "TokendreamCounting-v0"])
def test_every_step_follows_the_one_before(name: str) -> None:
    game = GymGame(f"{HERE}:{name}")
    env: Any = game._env.unwrapped
    for episode in range(3):
        assert game.reset(7 + episode)["state"].tolist() == [episode, 0]
        assert env.first_seed == 7 + episode
        for t in range(5):
            outcome = game.step(np.array(t % 2))
            assert outcome.obs["state"].tolist() == [episode, t + 1] and outcome.rew == t + 1
            assert outcome.end == outcome.over == (t == 4) and not outcome.trunc
            assert env.acts[-1] == 5 + t % 2 and type(env.acts[-1]) is int
    game.close()
    assert env.closed


@pytest.mark.parametrize("both", [False, True])
def test_an_end_at_the_time_limit_is_an_end(both: bool) -> None:
    game = GymGame(f"{HERE}:Counting", cut=True, both=both)
    game.reset(0)
    last = [game.step(np.array(0)) for _ in range(3)][-1]
    assert last.over and last.end == both and last.trunc != both


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("CartPol-v1", "env.id=CartPol-v1 is unknown; nearest: CartPole-v1; if a package has it"),
        ("cartpole", "nearest: CartPole-v1"),
        (f"{HERE}:Countin", f"nearest: {HERE}:Counting$"),
        ("no_such_package.envs:X-v0", "needs the package no_such_package.*pip install no_such"),
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


def test_what_a_simulator_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(**options: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled('Box2D: run\n`pip install "gymnasium[x]"`')

    monkeypatch.setattr(f"{HERE}.Counting", lacking)
    with pytest.raises(ValueError, match=r'Box2D: run `pip install "gymnasium\[x\]"`'):
        GymGame(f"{HERE}:Counting")


def box(shape: tuple[int, ...], dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, 255, shape, dtype)


def float32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_observations_of_every_kind() -> None:
    space = spaces.Dict(
        {
            "camera": spaces.Dict({"left": box((6, 8, 3)), "front": box((3, 6, 8))}),
            "depth": box((6, 8)),
            "flags": spaces.MultiBinary([2, 2]),
            "joints": box((2, 3), np.float32),
            "pair": spaces.Tuple((spaces.Discrete(4, start=-1), spaces.MultiDiscrete([3, 2]))),
            "ram": box((128,)),
            "speed": box((), np.float64),
        }
    )
    observations = GymObservations(space)
    assert observations.spaces == {
        "camera/front": Image((6, 8, 3)),
        "camera/left": Image((6, 8, 3)),
        "depth": Image((6, 8, 1)),
        "flags": Categories((2, 2, 2, 2)),
        "joints": Vector(6),
        "pair/0": Categories((4,)),
        "pair/1": Categories((3, 2)),
        "ram": Vector(128),
        "speed": Vector(1),
    }
    space.seed(0)
    raw: Any = space.sample()
    seen = observations(raw)
    assert list(seen) == list(observations.spaces)
    for name, entry in observations.spaces.items():
        assert seen[name].shape == entry.shape and seen[name].dtype == entry.dtype
    assert np.array_equal(seen["camera/front"], raw["camera"]["front"].transpose(1, 2, 0))
    assert np.array_equal(seen["camera/left"], raw["camera"]["left"])
    assert seen["pair/0"][0] == raw["pair"][0] + 1
    assert seen["joints"].tolist() == raw["joints"].reshape(-1).tolist()


@pytest.mark.parametrize(
    ("space", "name"),
    [(box((4, 4, 3)), "pixels"), (box((3,)), "state"), (spaces.Discrete(3), "categories")],
)
def test_an_observation_alone_is_named_after_what_it_is(space: Any, name: str) -> None:
    assert list(GymObservations(space).spaces) == [name]


@pytest.mark.parametrize(
    ("shape", "ours"),
    [
        ((64, 64, 3), (64, 64, 3)),
        ((3, 64, 64), (64, 64, 3)),
        ((12, 84, 84), (84, 84, 12)),
        ((8, 8, 119), (8, 8, 119)),
        ((1, 28, 28), (28, 28, 1)),
        ((48, 64, 4), (48, 64, 4)),
        ((5, 5, 5), (5, 5, 5)),
    ],
)
def test_channels_come_last(shape: Any, ours: Any) -> None:
    assert GymObservations(box(shape)).spaces == {"pixels": Image(ours)}


@pytest.mark.parametrize(
    "inner",
    [spaces.Text(3), spaces.Sequence(spaces.Discrete(2)), spaces.Graph(box((2,), float), None)],
)
def test_spaces_without_a_fixed_size_are_refused_by_name(inner: Any) -> None:
    kind = type(inner).__name__
    with pytest.raises(ValueError, match=f"observation 'a/b' is of the space {kind}"):
        GymObservations(spaces.Dict({"a": spaces.Dict({"b": inner})}))
    with pytest.raises(ValueError, match=f"actions are of the space {kind}"):
        GymActions(inner)


def test_names_that_collide_are_refused() -> None:
    inner = spaces.Dict({"b": spaces.Discrete(2)})
    with pytest.raises(ValueError, match="two observations have one name"):
        GymObservations(spaces.Dict({"a/b": spaces.Discrete(2), "a": inner}))
    with pytest.raises(ValueError, match="is empty"):
        GymObservations(spaces.Dict({}))
    with pytest.raises(ValueError, match="'a' is empty"):
        GymObservations(spaces.Dict({"a": box((0, 3), np.float32)}))


def test_values_that_are_not_of_the_space_are_named() -> None:
    observations = GymObservations(spaces.Dict({"eye": box((4, 4, 3)), "arm": box((2,), float)}))
    good = {"eye": np.zeros((4, 4, 3), np.uint8), "arm": np.zeros(2)}
    observations(good)
    with pytest.raises(ValueError, match="'eye' has numbers of float64"):
        observations({**good, "eye": np.zeros((4, 4, 3))})
    with pytest.raises(ValueError, match="'arm' is not finite"):
        observations({**good, "arm": [0, np.nan]})


@pytest.mark.parametrize(
    ("space", "ours"),
    [
        (spaces.Discrete(3, start=2), Discrete(3)),
        (spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])), MultiDiscrete((2, 3, 4, 5))),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), MultiDiscrete((2, 3))),
        (spaces.MultiBinary(3), MultiDiscrete((2, 2, 2))),
        (spaces.Box(float32(-2, 0), float32(2, 0.5)), Continuous(2)),
        (spaces.Box(-3, 1, (2, 2), np.float64), Continuous(4)),
    ],
)
def test_actions_of_every_kind(space: Any, ours: Any) -> None:
    actions = GymActions(space)
    assert actions.space == ours
    space.seed(0)
    for _ in range(50):
        raw = space.sample()
        act = actions.back(raw)
        assert act.dtype == ours.dtype and act.shape == ours.shape
        there = actions(act)
        assert space.contains(there), there
        assert there == pytest.approx(raw, abs=1e-5)


def test_actions_reach_the_bounds() -> None:
    space = spaces.Box(float32(-2, 0), float32(2, 0.1))
    actions = GymActions(space)
    assert np.array_equal(actions(np.ones(2, np.float32)), space.high)
    assert np.array_equal(actions(-np.ones(2, np.float32)), space.low)
    with pytest.raises(ValueError, match="not within"):
        actions(np.full(2, 1.5, np.float32))


def test_whole_numbers_in_a_box_of_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="Box of int32: whole numbers need MultiDiscrete"):
        GymActions(spaces.Box(0, 5, (2,), np.int32))


def test_check_says_what_an_agent_will_see() -> None:
    lines = "\n".join(check_game(functools.partial(GymGame, "CartPole-v1"), steps=50))
    assert "state  vector of 4, 4 numbers, seen -" in lines
    assert "one of 2" in lines and "seeds repeat a game exactly" in lines


def test_check_notices_what_is_kept_between_episodes() -> None:
    lines = check_game(functools.partial(GymGame, f"{HERE}:Counting"), steps=12)
    assert lines[-1].startswith("seeds do NOT repeat a game: observation 'state' differs after 0")
