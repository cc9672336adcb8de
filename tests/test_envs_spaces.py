"""Spaces hold what they promise, and say by name what does not fit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from envs.spaces import (
    Bounds,
    Categories,
    Continuous,
    Discrete,
    Image,
    MultiDiscrete,
    Space,
    Vector,
    as_action,
    check_observation,
    describe,
    observe,
    random_action,
)

IMAGE, VECTOR, CATEGORIES = Image((4, 5, 3)), Vector(6), Categories((2, 3))


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (IMAGE, np.zeros((5, 4, 3), np.uint8), r"shape \(5, 4, 3\), not \(4, 5, 3\)"),
        (IMAGE, np.zeros((4, 5, 3)), "numbers of float64, not uint8"),
        (IMAGE, np.zeros((4, 5, 3), np.int32), "numbers of int32, not uint8"),
        (VECTOR, np.zeros(5), r"shape \(5,\), not \(6,\)"),
        (VECTOR, [0, 1, np.nan, 0, 0, 0], "not finite: its number 2 is nan"),
        (VECTOR, [0, 1, 0, 0, 0, np.inf], "not finite: its number 5 is inf"),
        (VECTOR, [0, 1e39, 0, 0, 0, 0], "not finite: its number 1 is inf"),
        (VECTOR, ["a"] * 6, "numbers of <U1, not float32"),
        (CATEGORIES, [0, 3], "out of range: 3 of 3 choices from 0"),
        (CATEGORIES, [-1, 0], "out of range: -1 of 2 choices from 0"),
        (CATEGORIES, [0.0, 1.0], "numbers of float64, not int64"),
    ],
)
def test_what_does_not_fit_is_named(space: Any, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match="observation 'arm/joints'.*" + words):
        observe("arm/joints", space, value)


def test_observations_are_flattened_cast_and_copied() -> None:
    raw = np.arange(6, dtype=np.float64).reshape(2, 3)
    seen = observe("a", VECTOR, raw)
    assert seen.dtype == np.float32 and seen.tolist() == [0, 1, 2, 3, 4, 5]
    frame = np.zeros((4, 5, 3), np.uint8)
    assert not np.shares_memory(observe("a", IMAGE, frame), frame)
    single = observe("a", Vector(1), np.float32(2.5))
    assert single.shape == (1,)
    assert observe("a", CATEGORIES, np.array([[1], [2]], np.int8)).dtype == np.int64


def test_an_observation_is_checked_as_a_whole() -> None:
    spaces: Space = {"eye": IMAGE, "arm": VECTOR}
    good: dict[str, Any] = {"eye": np.zeros((4, 5, 3), np.uint8), "arm": np.zeros(6, np.float32)}
    check_observation(spaces, good)
    with pytest.raises(ValueError, match=r"are \['arm', 'eye'\], not \['eye', 'arm'\]"):
        check_observation(spaces, dict(sorted(good.items())))
    with pytest.raises(ValueError, match="'arm' is of float64, not float32"):
        check_observation(spaces, good | {"arm": np.zeros(6)})
    with pytest.raises(ValueError, match=r"'arm' has the shape \(6, 1\)"):
        check_observation(spaces, good | {"arm": np.zeros((6, 1), np.float32)})
    with pytest.raises(ValueError, match="'arm' is of list"):
        check_observation(spaces, good | {"arm": [0.0] * 6})
    with pytest.raises(ValueError, match="the observation is one array, not a dict of arrays"):
        check_observation(spaces, good["arm"])


def test_an_observation_alone_is_checked_without_a_name() -> None:
    check_observation(VECTOR, np.zeros(6, np.float32))
    with pytest.raises(ValueError, match="^the observation is of float64, not float32"):
        check_observation(VECTOR, np.zeros(6))
    with pytest.raises(ValueError, match="^the observation is not finite: its number 1 is nan"):
        check_observation(VECTOR, np.array([0, np.nan, 0, 0, 0, 0], np.float32))
    with pytest.raises(ValueError, match="the observation is a dict of arrays, not one array"):
        check_observation(VECTOR, {"arm": np.zeros(6, np.float32)})


@pytest.mark.parametrize(
    ("space", "act", "words"),
    [
        (Continuous(2), [0.0, 1.1], "not within"),
        (Continuous(2), [0.0, np.nan], "not within"),
        (Continuous(2), 0.0, r"shape \(\), not \(2,\)"),
        (Discrete(3), 3, "3 of 3 choices"),
        (Discrete(3), 1.0, "numbers of float64"),
        (MultiDiscrete((2, 2)), [1, 2], "2 of 2 choices"),
    ],
)
def test_wrong_actions_are_refused(space: Any, act: Any, words: str) -> None:
    with pytest.raises(ValueError, match="the action.*" + words):
        as_action(space, act)


@pytest.mark.parametrize("space", [Discrete(3), Continuous(2), MultiDiscrete((2, 5))])
def test_random_actions_are_of_their_space(space: Any) -> None:
    random = np.random.default_rng(0)
    acts = [random_action(space, random) for _ in range(300)]
    for act in acts:
        assert act.dtype == space.dtype and np.array_equal(as_action(space, act), act)
    if isinstance(space, Continuous):
        assert np.abs(np.mean(acts, axis=0)).max() < 0.1
    else:
        sizes = np.array(space.n if isinstance(space, Discrete) else space.sizes)
        assert np.array_equal(np.max(acts, axis=0), sizes - 1)


def test_bounds_expand_to_their_corners() -> None:
    bounds = Bounds(np.array([-2.0, 0, 3]), np.array([2.0, 0.1, 3]))
    corners = np.array([[-1, -1, -1], [1, 1, 1], [0, 0, 0]], np.float32)
    for act, raw in zip(corners, [[-2, 0, 3], [2, 0.1, 3], [0, 0.05, 3]], strict=True):
        assert bounds.expand(act) == pytest.approx(raw, abs=1e-12)
    random = np.random.default_rng(0)
    acts = random.uniform(-1, 1, (500, 3))
    raw = bounds.expand(acts)
    assert (raw >= bounds.low).all() and (raw <= bounds.high).all()


def test_spaces_travel_and_describe_themselves() -> None:
    spaces = (IMAGE, VECTOR, CATEGORIES, Discrete(2, ("a", "b")), Continuous(6))
    assert pickle.loads(pickle.dumps(spaces)) == spaces and len(set(spaces)) == len(spaces)
    assert [describe(space) for space in spaces] == [
        "image 4x5x3",
        "vector of 6",
        "2 choices of 2, 3",
        "one of 2: a, b",
        "6 continuous in [-1, 1]",
    ]
    assert describe(MultiDiscrete((2,) * 4)) == "4 choices of 2"
    assert describe({"a": Vector(2), "b": Vector(1)}) == "a: vector of 2; b: vector of 1"
