"""The tasks of the DeepMind Control Suite by name; the simulator is not imported.

A name is `domain-task`, as in `walker-walk` or `ball_in_cup-catch`. Underscores in place of the
hyphen are understood, as result files have them.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

DOMAINS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": (
        "balance",
        "balance_sparse",
        "swingup",
        "swingup_sparse",
        "two_poles",
        "three_poles",
    ),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
"""All tasks but those of the domain lqr, whose actions have no bounds and whose episodes no end."""

TASKS = tuple(f"{domain}-{task}" for domain, tasks in DOMAINS.items() for task in tasks)

VISION_TASKS = (
    "acrobot-swingup",
    "ball_in_cup-catch",
    "cartpole-balance",
    "cartpole-balance_sparse",
    "cartpole-swingup",
    "cartpole-swingup_sparse",
    "cheetah-run",
    "finger-spin",
    "finger-turn_easy",
    "finger-turn_hard",
    "hopper-hop",
    "hopper-stand",
    "pendulum-swingup",
    "quadruped-run",
    "quadruped-walk",
    "reacher-easy",
    "reacher-hard",
    "walker-run",
    "walker-stand",
    "walker-walk",
)
"""The 20 tasks on which agents that see pixels are compared, after 1M control steps."""

STATE_TASKS = tuple(task for task in VISION_TASKS if not task.startswith("quadruped"))
"""The 18 tasks on which agents that see the state are compared, after 500k control steps."""


def split_task(name: str) -> tuple[str, str]:
    """The suite's domain and task of a name.

    Raises ValueError with the nearest name.
    """
    for domain, tasks in DOMAINS.items():
        for task in tasks:
            if _plain(f"{domain}-{task}") == _plain(name):
                return domain, task
    near = difflib.get_close_matches(_plain(name), [_plain(task) for task in TASKS], 1, 0.0)
    nearest = next(task for task in TASKS if _plain(task) == near[0])
    raise ValueError(f"env.task={name} is unknown; nearest: {nearest}; all: tokendream list tasks")


def draws(task: str, observe: str) -> bool:
    """Whether the task hands anything to a renderer, so that a graphics library is needed."""
    # This one hands over its new terrain at every reset, whatever is observed.
    return observe != "state" or split_task(task) == ("quadruped", "escape")


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()


@dataclass(frozen=True)
class RandomReturn:
    """Mean return of a uniformly random policy over whole episodes, and its standard error."""

    mean: float
    error: float


@cache
def random_returns() -> dict[str, RandomReturn]:
    """Of the 20 vision tasks, at action repeat 2; how they were measured is in the data file."""
    return {
        row["task"]: RandomReturn(float(row["random"]), float(row["error"]))
        for row in _rows("dmc_reference.csv")
    }


@dataclass(frozen=True)
class Published:
    """A method's mean return after `control_steps` of the simulator, as `source` has it.

    std is over seeds. Action repeat is part of `control_steps`.
    """

    method: str
    control_steps: int
    score: float
    std: float
    seeds: int
    source: str


def published(task: str, observe: str) -> list[Published]:
    """What others report of a task seen as `pixels` or `state`, fewest control steps first.

    Empty where nothing is on file. How each was measured is said in the data file. Raises
    ValueError with the nearest name where the task is unknown.
    """
    name = "-".join(split_task(task))
    return [
        Published(
            row["method"],
            int(row["control_steps"]),
            float(row["score"]),
            float(row["std"]),
            int(row["seeds"]),
            row["source"],
        )
        for row in _rows("dmc_published.csv")
        if row["task"] == name and row["obs"] == observe
    ]


def _rows(file: str) -> Iterator[dict[str, str]]:
    """A table of envs/data; lines that begin with # are about it."""
    text = resources.files("envs").joinpath(f"data/{file}").read_text("utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
