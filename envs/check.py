"""Look into an environment before an agent does: its spaces, its numbers, its seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from envs.base import Game
from envs.experience import EnvSpec
from envs.spaces import (
    Image,
    Obs,
    ObsSpace,
    Vector,
    called,
    check_observation,
    describe,
    random_action,
)
from envs.trees import each, named

BIG_VECTOR = 1000


@dataclass
class _Play:
    """What random actions in one game showed, for comparing it with another."""

    obs: list[Obs] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    """Of each observation, the steps before it; two have the same where an episode begins."""
    rews: list[float] = field(default_factory=list)
    ends: int = 0
    truncs: int = 0
    longest: int = 0


@dataclass(frozen=True)
class Findings:
    """What was found, in words for people.

    shown: of each observation by name, its space and the range seen. play: what random actions
    led to. seeds: whether they repeat a game.
    """

    spec: EnvSpec
    shown: dict[str, str]
    play: str
    seeds: str


def check_game(make: Callable[[], Game], *, steps: int = 300, seed: int = 0) -> Findings:
    """Play `steps` random actions and say what an agent will see.

    They are played once more in the same game and once in a new one, from the same seeds: what a
    game keeps from one episode to the next shows.

    Raises ValueError, naming the observation at fault, where what the game gives is not what its
    spec says.
    """
    game = make()
    try:
        play = _play(game, steps, seed)
        again = _play(game, steps, seed)
        spec = game.spec
    finally:
        game.close()
    fresh = make()
    try:
        anew = _play(fresh, steps, seed)
    finally:
        fresh.close()
    shown = {}
    for name, space in named(spec.obs).items():
        seen = _range([named(obs)[name] for obs in play.obs], space)
        shown[name] = f"{describe(space)}, {seen}"
        if isinstance(space, Vector) and space.size > BIG_VECTOR:
            shown[name] += "; a picture? Pictures are uint8 and have 2 or 3 axes"
    difference = _difference(play, again) or _difference(play, anew)
    return Findings(
        spec,
        shown,
        f"{steps} random steps: reward {min(play.rews):g} to {max(play.rews):g}, "
        f"{play.ends} ended and {play.truncs} cut episodes, the longest of {play.longest} steps",
        f"seeds do NOT repeat a game: {difference}; a resumed run begins new games"
        if difference
        else "seeds repeat a game exactly",
    )


def _play(game: Game, steps: int, seed: int) -> _Play:
    random = np.random.default_rng(seed)
    episode = t = 0
    play = _Play()

    def see(obs: Obs) -> None:
        play.obs.append(_seen(game, obs))
        play.after.append(len(play.rews))

    see(game.reset(seed))
    for _ in range(steps):
        outcome = game.step(random_action(game.spec.act, random))
        t += 1
        play.rews.append(outcome.rew)
        if not math.isfinite(outcome.rew):
            raise ValueError(f"the reward of step {len(play.rews)} is {outcome.rew}")
        see(outcome.obs)
        play.ends += outcome.end
        play.truncs += outcome.trunc
        play.longest = max(play.longest, t)
        if outcome.over:
            if not (outcome.end or outcome.trunc):
                raise ValueError("an episode is over, but neither ended nor was it cut")
            episode, t = episode + 1, 0
            see(game.reset(seed + episode))
    return play


def _seen(game: Game, obs: Obs) -> Obs:
    check_observation(game.spec.obs, obs)
    return each(np.copy, obs)


def _range(arrays: list[np.ndarray], space: ObsSpace) -> str:
    low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
    text = f"seen {low:g} to {high:g}"
    if low == high:
        return f"{text}: it never changes"
    if not isinstance(space, Image):
        still = int((np.ptp(np.stack(arrays), axis=0) == 0).sum())
        return f"{text}, {still} of them never changed" if still else text
    return text


def _difference(a: _Play, b: _Play) -> str:
    """Where two plays part, or nothing."""
    for i, (x, y) in enumerate(zip(a.obs, b.obs, strict=False)):
        for name, array in named(x).items():
            if not np.array_equal(array, named(y)[name]):
                return f"{called(name)} differs after {a.after[i]} steps"
    for i, (r, s) in enumerate(zip(a.rews, b.rews, strict=False), 1):
        if r != s:
            return f"the reward of step {i} is {r:g} or {s:g}"
    return "" if len(a.obs) == len(b.obs) else "its length differs"
