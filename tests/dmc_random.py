"""Returns of random policies in DeepMind Control, as envs/data/dmc_reference.csv has them.

`python -m tests.dmc_random 100` prints the rows of that file; about 20 minutes on one core.
"""

from __future__ import annotations

import sys
from contextlib import closing

import numpy as np

from envs.base import episode_seed
from envs.dmc import DMCGame
from envs.dmc_tasks import VISION_TASKS
from envs.spaces import random_action


def random_returns(
    task: str, episodes: int, *, action_repeat: int = 2, seed: int = 0
) -> np.ndarray:
    """Returns (episodes,) of whole episodes under evenly drawn actions, without drawing."""
    random = np.random.default_rng(seed)
    returns = np.zeros(episodes)
    with closing(DMCGame(task, observe="state", action_repeat=action_repeat)) as game:
        for episode in range(episodes):
            game.reset(episode_seed(seed, 0, episode))
            over = False
            while not over:
                outcome = game.step(random_action(game.spec.act, random))
                returns[episode] += outcome.rew
                over = outcome.over
    return returns


def main(episodes: int, action_repeat: int, tasks: list[str]) -> None:
    """Print the rows of the data file."""
    for task in tasks or VISION_TASKS:
        returns = random_returns(task, episodes, action_repeat=action_repeat)
        error = returns.std(ddof=1) / np.sqrt(episodes)
        print(f"{task},{returns.mean():.2f},{error:.2f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2, sys.argv[3:])
