"""Experience: what environments hand out and what replay stores. NumPy only, no torch.

Worker processes import this package, and torch in each of them would cost seconds and
hundreds of MiB; therefore the tensor `Batch` lives in `worldmodels.batch`.

Axes: N environments, T steps, *O one observation, *A one action: none of a single choice.
Observations are arrays, or dicts of arrays where an environment shows several things.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from envs.spaces import ActSpace, Obs, Space


@dataclass(frozen=True)
class EnvSpec:
    """What an agent must know of an environment before it is built.

    `frames_per_step` is the number of simulator frames that one decision lasts.
    """

    obs: Space
    act: ActSpace
    frames_per_step: int = 1


@dataclass(frozen=True)
class Finished:
    """A whole game that just ended, in environment `env`: its unclipped return, its decisions.

    `stats` holds named counts of the suite, such as `achievement/collect_wood`.
    """

    env: int
    ret: float
    length: int
    stats: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """The answer of N environments to one action each.

    obs (N,*O): what to act on next, already of the next episode where one ended.
    rew end trunc (N,): caused by the action. `end` is termination, `trunc` a time limit.
    last_obs (N,*O): where the action truly led; equals obs where no episode ended.
    lost (N,): the worker died, the action was not executed, obs starts a new episode;
    the other fields of such a row mean nothing.
    """

    obs: Obs
    rew: np.ndarray
    end: np.ndarray
    trunc: np.ndarray
    last_obs: Obs
    lost: np.ndarray
    finished: list[Finished]


@dataclass(frozen=True)
class Segment:
    """A stretch of one episode: T actions and the T+1 observations around them.

    obs (T+1,*O), act (T,*A), rew (T,) float32, end trunc (T,) bool.
    Only the last step may have `end` or `trunc`. `first` is True where obs[0] starts an
    episode; otherwise obs[0] repeats the last frame of the segment before it.
    """

    obs: Obs
    act: np.ndarray
    rew: np.ndarray
    end: np.ndarray
    trunc: np.ndarray
    first: bool
