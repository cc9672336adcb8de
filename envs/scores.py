"""Scores by which the suites are compared: Crafter's score and Atari's human-normalised score.

Neither simulator is imported, so the command line can list games and check names at once.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from envs.experience import Finished

ACHIEVEMENTS = (
    "collect_coal",
    "collect_diamond",
    "collect_drink",
    "collect_iron",
    "collect_sapling",
    "collect_stone",
    "collect_wood",
    "defeat_skeleton",
    "defeat_zombie",
    "eat_cow",
    "eat_plant",
    "make_iron_pickaxe",
    "make_iron_sword",
    "make_stone_pickaxe",
    "make_stone_sword",
    "make_wood_pickaxe",
    "make_wood_sword",
    "place_furnace",
    "place_plant",
    "place_stone",
    "place_table",
    "wake_up",
)


def success_rates(finished: Iterable[Finished]) -> dict[str, float]:
    """Percent of Crafter episodes that unlocked each achievement at least once.

    The benchmark takes all training episodes that ended within the budget. Without any
    episode every rate is 0.
    """
    counts = dict.fromkeys(ACHIEVEMENTS, 0)
    episodes = 0
    for game in finished:
        episodes += 1
        for name in ACHIEVEMENTS:
            counts[name] += game.stats[f"achievement/{name}"] > 0
    return {name: 100.0 * count / max(episodes, 1) for name, count in counts.items()}


def crafter_score(rates: Mapping[str, float]) -> float:
    """Crafter score in percent, exp(mean ln(1 + s)) - 1 over success rates s in percent.

    A geometric mean: compute it for each run and average the scores over runs.
    Source: Hafner 2021, arXiv:2109.06780, section 4.
    """
    return math.exp(math.fsum(math.log1p(rate) for rate in rates.values()) / len(rates)) - 1


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random policy and of a human in one Atari game; `name` as in papers."""

    name: str
    random: float
    human: float


@cache
def atari_references() -> dict[str, Reference]:
    """The 26 games of Atari 100k with their reference scores; sources in the data file."""
    text = resources.files("envs").joinpath("data/atari_reference.csv").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["game"]: Reference(row["name"], float(row["random"]), float(row["human"]))
        for row in csv.DictReader(lines)
    }


def list_games() -> tuple[str, ...]:
    """The 26 games of Atari 100k as values of the setting `env.game`."""
    return tuple(atari_references())


def human_normalised(game: str, ret: float) -> float:
    """Return of `game` on the scale where a random policy has 0 and a human 1."""
    reference = atari_references()[game]
    return (ret - reference.random) / (reference.human - reference.random)
