"""Spaces of Gymnasium become ours, and what has no place among them is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from envs.gym_spaces import GymActions, GymObservations
from envs.spaces import (
    Categories,
    Continuous,
    Discrete,
    Image,
    MultiDiscrete,
    Vector,
    check_observation,
    random_action,
)


def box(shape: tuple[int, ...], dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, 255, shape, dtype)


def float32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_observations_of_every_kind() -> None:
    space = spaces.Dict(
        {
            "camera": spaces.Dict({"left": box((64, 64, 3)), "front": box((3, 64, 64))}),
            "depth": box((64, 64)),
            "grid": box((7, 7, 3)),
            "flags": spaces.MultiBinary([2, 2]),
            "joints": box((2, 3), np.float32),
            "pair": spaces.Tuple((spaces.Discrete(4, start=-1), spaces.MultiDiscrete([3, 2]))),
            "ram": box((128,)),
            "speed": box((), np.float64),
        }
    )
    observations = GymObservations(space)
    ours: Any = observations.spaces
    assert ours == {
        "camera/front": Image((64, 64, 3)),
        "camera/left": Image((64, 64, 3)),
        "depth": Image((64, 64, 3)),
        "flags": Categories((2, 2, 2, 2)),
        "grid": Vector(147),
        "joints": Vector(6),
        "pair/0": Categories((4,)),
        "pair/1": Categories((3, 2)),
        "ram": Vector(128),
        "speed": Vector(1),
    }
    space.seed(0)
    raw: Any = space.sample()
    seen = observations(raw)
    assert list(seen) == list(ours)
    for name, entry in ours.items():
        assert seen[name].shape == entry.shape and seen[name].dtype == entry.dtype
    assert np.array_equal(seen["camera/front"], raw["camera"]["front"].transpose(1, 2, 0))
    assert np.array_equal(seen["camera/left"], raw["camera"]["left"])
    assert np.array_equal(seen["depth"][..., 2], raw["depth"])
    assert np.array_equal(seen["grid"], raw["grid"].reshape(-1))
    assert seen["pair/0"][0] == raw["pair"][0] + 1
    assert seen["joints"].tolist() == raw["joints"].reshape(-1).tolist()


@pytest.mark.parametrize(
    ("space", "ours"),
    [
        (box((64, 64, 3)), Image((64, 64, 3))),
        (box((3,)), Vector(3)),
        (spaces.Discrete(3), Categories((3,))),
    ],
)
def test_a_space_alone_has_no_name_and_a_dict_keeps_its_one(space: Any, ours: Any) -> None:
    alone, entry = GymObservations(space), GymObservations(spaces.Dict({"it": space}))
    assert alone.spaces == ours and entry.spaces == {"it": ours}
    assert GymObservations(spaces.Tuple((space,))).spaces == {"0": ours}
    raw = space.sample()
    check_observation(alone.spaces, alone(raw))
    assert np.array_equal(alone(raw), entry({"it": raw})["it"])


@pytest.mark.parametrize(
    "shape",
    [(96, 96, 3), (3, 210, 160), (8, 8), (1, 28, 28), (48, 64, 4), (210, 160, 1), (200, 30, 3)],
)
def test_images_become_squares_of_three_colours(shape: tuple[int, ...]) -> None:
    observations = GymObservations(box(shape))
    assert observations.spaces == Image((64, 64, 3))
    for grey in (0, 77, 255):
        seen = observations(np.full(shape, grey, np.uint8))
        assert seen.shape == (64, 64, 3) and seen.dtype == np.uint8 and (seen == grey).all()


def test_channels_stay_in_their_order() -> None:
    colours = np.array([10, 20, 30, 40], np.uint8)
    for raw in (np.tile(colours[:3], (96, 80, 1)), np.tile(colours, (96, 80, 1))):
        assert (GymObservations(box(raw.shape))(raw) == colours[:3]).all()
    first = np.tile(colours[:3, None, None], (1, 96, 80))
    assert (GymObservations(box(first.shape))(first) == colours[:3]).all()


def test_shrinking_averages_and_a_picture_of_our_size_stays_as_it_is() -> None:
    random = np.random.default_rng(0)
    raw = random.integers(256, size=(128, 192, 3), dtype=np.uint8)
    mean = raw.reshape(64, 2, 64, 3, 3).mean(axis=(1, 3))
    assert np.abs(GymObservations(box(raw.shape))(raw) - mean).max() <= 1
    right = random.integers(256, size=(64, 64, 3), dtype=np.uint8)
    assert np.array_equal(GymObservations(box(right.shape))(right), right)
    assert GymObservations(box(raw.shape), size=32)(raw).shape == (32, 32, 3)


@pytest.mark.parametrize("shape", [(7, 7, 3), (3, 7, 7), (64, 7), (7, 64, 3), (5, 5, 5), (4, 4)])
def test_small_grids_are_vectors(shape: tuple[int, ...]) -> None:
    raw = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    observations = GymObservations(box(shape))
    assert observations.spaces == Vector(raw.size)
    assert observations(raw).tolist() == raw.reshape(-1).tolist()


@pytest.mark.parametrize("shape", [(8, 8, 119), (12, 84, 84), (4, 84, 84), (64, 64, 2)])
def test_images_of_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    channels = min(shape) if shape[0] < 64 and shape[0] != 8 else shape[2]
    with pytest.raises(ValueError, match=f"observation 'eye' has .* of {channels} channels"):
        GymObservations(spaces.Dict({"eye": box(shape)}))
    with pytest.raises(ValueError, match="^the observation has the shape"):
        GymObservations(box(shape))


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
    observations = GymObservations(spaces.Dict({"eye": box((8, 8, 3)), "arm": box((2,), float)}))
    good = {"eye": np.zeros((8, 8, 3), np.uint8), "arm": np.zeros(2)}
    observations(good)
    with pytest.raises(ValueError, match="'eye' has numbers of float64"):
        observations({**good, "eye": np.zeros((8, 8, 3))})
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
    random = np.random.default_rng(0)
    for _ in range(50):
        there = actions(random_action(ours, random))
        assert space.contains(there), there


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


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, (2, 0))])
def test_actions_without_numbers_are_refused(space: spaces.Box) -> None:
    with pytest.raises(ValueError, match="actions are empty: their shape is"):
        GymActions(space)
