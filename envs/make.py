"""From the settings of the group `env` to running games."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import logging
import sys
from collections.abc import Mapping
from typing import Any

from envs import gl
from envs.base import Env
from envs.cores import available_cores
from envs.dmc_tasks import draws, split_task
from envs.scores import list_games
from envs.vector import VectorEnv
from envs.worker import MakeGame

logger = logging.getLogger(__name__)

SUITE_PACKAGES = {"crafter": "crafter", "atari": "ale_py", "dmc": "dm_control", "gym": "gymnasium"}
"""Of each suite, the module it needs; the extra that brings it has the name of the suite."""


def make_env(
    settings: Mapping[str, Any], *, num_envs: int, workers: int = 0, training: bool = False
) -> Env:
    """`num_envs` games of `settings["suite"]`, in `workers` processes (-1: as many as pay).

    Settings left out have the defaults of the suite's `Game`. In Atari, a lost life counts as
    an end in `training` only, and `eval_noop_max` stands in for `noop_max` otherwise.

    Raises ValueError, naming the setting or the package to install, on a user's mistake.
    """
    make = game_maker(settings, training=training)
    return VectorEnv([make] * num_envs, automatic_workers(num_envs) if workers < 0 else workers)


def automatic_workers(num_envs: int) -> int:
    """Processes for `num_envs` games: one for each core, or none where there are at most two.

    On two cores 16 games of Crafter ran at 4,100 steps/s in this process, 3,400 in two others.
    """
    cores = available_cores()
    return 0 if cores <= 2 else min(cores, num_envs)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Look for all that can be wrong before a game is made.

    Raises ValueError, naming the setting or what to install: a suite, game, task or id that is not
    known, a package or a graphics library that is missing.
    """
    suite = settings["suite"]
    if suite not in SUITE_PACKAGES:
        raise _unknown("env.suite", suite, tuple(SUITE_PACKAGES))
    if suite == "atari" and settings["game"] not in list_games():
        raise _unknown("env.game", settings["game"], list_games())
    if suite == "dmc":
        split_task(settings["task"])
    _require(suite)
    if suite == "dmc" and draws(settings["task"], settings.get("observe", "pixels")):
        gl.choose_backend()
    if suite == "gym":
        from envs.gym_game import find_gym

        find_gym(settings["id"])


def game_maker(settings: Mapping[str, Any], *, training: bool = False) -> MakeGame:
    """What makes one game of the settings; it can be sent to other processes.

    Raises ValueError as `make_env` does.
    """
    check_settings(settings)
    suite = settings["suite"]
    if suite == "crafter":
        return _crafter(settings)
    if suite == "atari":
        return _atari(settings, training)
    return _dmc(settings) if suite == "dmc" else _gym(settings)


def _crafter(settings: Mapping[str, Any]) -> MakeGame:
    _warn_without_numba()
    from envs.crafter import CrafterGame

    return functools.partial(CrafterGame, **_chosen(settings, "length"))


def _atari(settings: Mapping[str, Any], training: bool) -> MakeGame:
    from envs.atari import AtariGame

    chosen = _chosen(settings, "frame_skip", "noop_max", "sticky", "resize", "max_frames")
    if not training:
        chosen["noop_max"] = settings.get("eval_noop_max", 30)
    life_loss = training and settings.get("life_loss", True)
    return functools.partial(AtariGame, settings["game"], life_loss=life_loss, **chosen)


def _dmc(settings: Mapping[str, Any]) -> MakeGame:
    from envs.dmc import DMCGame

    chosen = _chosen(settings, "observe", "action_repeat", "size", "quality")
    return functools.partial(DMCGame, settings["task"], **chosen)


def _gym(settings: Mapping[str, Any]) -> MakeGame:
    from envs.gym_game import GymGame

    # Once here, where a mistake is a line; in a worker process it would be a traceback.
    GymGame(settings["id"]).close()
    return functools.partial(GymGame, settings["id"])


def _chosen(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _require(suite: str) -> None:
    module = SUITE_PACKAGES[suite]
    if importlib.util.find_spec(module) is None:
        if suite == "dmc" and sys.version_info >= (3, 13):
            # The extra is empty there: labmaze, which dm-control wants, has no wheel.
            raise ValueError("env.suite=dmc needs Python 3.11 or 3.12, as dm-control does")
        raise ValueError(
            f"env.suite={suite} needs the package {module}, which is not installed: "
            f'pip install "tokendream[{suite}]"'
        )


@functools.cache
def _warn_without_numba() -> None:
    if importlib.util.find_spec("numba") is None:
        logger.warning(
            "numba is not installed, so each new Crafter world takes over half a second "
            'instead of some milliseconds: pip install "tokendream[crafter]"'
        )


def _unknown(setting: str, value: object, choices: tuple[str, ...]) -> ValueError:
    near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.0)
    return ValueError(
        f"{setting}={value} is unknown; nearest: {near[0]}; choices: {', '.join(choices)}"
    )
