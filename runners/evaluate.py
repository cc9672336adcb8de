"""Returns over whole games in fresh environments, without touching the training's random state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.agent import Agent, forget
from envs.base import Env
from envs.experience import Finished, Segment, Step
from envs.spaces import Obs, random_actions
from envs.trees import each, rows
from runners.console import Status, open_console
from runners.durable import write_atomic
from runners.hardware import Hardware
from runners.opening import load_agent, open_env
from runners.scoring import Evaluation, evaluation_record, evaluation_table
from runners.settings.options import EvaluateOptions

EVALUATION_SEED = 2_000_003
"""Added to the run's seed: games that no training of this run has seen."""
FRESH_SEED = 3_000_017
"""Added to it by the command: nor have these games chosen the checkpoint called best."""


@contextmanager
def own_randomness(seed: int, hardware: Hardware) -> Iterator[None]:
    """Draw from generators of this seed inside; leave torch's as they were."""
    devices = [hardware.device] if hardware.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def play(
    agent: Agent | None,
    env: Env,
    hardware: Hardware,
    *,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
    keep: int = 0,
    watch: Callable[[int], None] | None = None,
) -> tuple[Evaluation, list[Segment]]:
    """Play `episodes` whole games; agent None acts uniformly at random.

    Each environment plays its share of the games, so that quick games are not preferred. Games
    start from seeds that depend on `seed` alone. The first `keep` games that environments start
    are also returned with their frames. watch is told after each step how many are finished;
    what it raises ends the evaluation.
    """
    count = env.num_envs
    quota = np.full(count, episodes // count) + (np.arange(count) < episodes % count)
    games: list[Finished] = []
    film = _Film(keep, quota)
    obs = env.reset(seed)
    rng = np.random.default_rng([seed, 2])
    with own_randomness(seed, hardware):
        carry: Any = None if agent is None else agent.initial(count)
        while quota.any():
            act = random_actions(env.spec.act, rng, count)
            if agent is not None:
                with hardware.autocast():
                    chosen, carry = agent.act(hardware.receive(obs), carry, temperature)
                act = chosen.cpu().numpy()
            step = env.step(act)
            film.add(obs, act, step)
            over = step.end | step.trunc | step.lost
            if agent is not None and over.any():
                carry = forget(carry, torch.from_numpy(over).to(hardware.device))
            for game in step.finished:
                if quota[game.env]:
                    quota[game.env] -= 1
                    games.append(game)
            obs = step.obs
            if watch is not None:
                watch(len(games))
    return Evaluation(games), film.segments


def main(run_dir: Path, options: EvaluateOptions) -> Path:
    """`tokendream evaluate RUN`: play, print the result, and write it with all that it hangs on.

    Returns the file, RUN/eval/<checkpoint>-<policy>-<n>episodes.json, with the seed and the
    temperature in its name where they are not the default.
    """
    run = load_agent(run_dir, options.checkpoint, options.device)
    episodes = options.episodes or run.config.run.eval_episodes
    seed = run.config.seed + FRESH_SEED if options.seed is None else options.seed
    usual = run.config.agent.behaviour.eval_temperature
    temperature = usual if options.temperature is None else options.temperature
    begin = time.perf_counter()
    envs = min(run.config.run.eval_envs, episodes)
    workers = run.config.env.workers
    with (
        closing(open_env(run.config, num_envs=envs, workers=workers, training=False)) as env,
        closing(open_console()) as console,
    ):
        status = Status("evaluate", run.step, run.config.run.steps, due=episodes)

        def watch(played: int) -> None:
            seconds = time.perf_counter() - begin
            left = seconds / played * (episodes - played) if played else None
            console.show(replace(status, done=played, seconds=seconds, seconds_left=left))

        evaluation, _ = play(
            run.agent if options.policy == "agent" else None,
            env,
            run.hardware,
            episodes=episodes,
            seed=seed,
            temperature=temperature,
            watch=watch,
        )
    record = evaluation_record(run, options.policy, evaluation)
    record["protocol"] |= {
        "environments": envs,
        "seed": seed,
        "games_chose_best": seed == run.config.seed + EVALUATION_SEED,
        "temperature": temperature if options.policy == "agent" else None,
    }
    record["seconds"] = time.perf_counter() - begin
    file = run_dir / "eval" / _file_name(run.source.name, episodes, options)
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps(record, indent=1) + "\n")
    print(evaluation_table(record))
    print(f"Written to {file}")
    return file


def _file_name(checkpoint: str, episodes: int, options: EvaluateOptions) -> str:
    words = [checkpoint, options.policy, f"{episodes}episodes"]
    if options.seed is not None:
        words.append(f"seed{options.seed}")
    if options.policy == "agent" and options.temperature is not None:
        words.append(f"temperature{options.temperature:g}")
    return "-".join(words) + ".json"


class _Film:
    """Keeps the frames of the first games of the first environments."""

    def __init__(self, keep: int, quota: np.ndarray) -> None:
        self.envs = [i for i in range(len(quota)) if quota[i]][:keep]
        self.steps: dict[int, list[tuple[Any, ...]]] = {i: [] for i in self.envs}
        self.segments: list[Segment] = []

    def add(self, obs: Obs, act: np.ndarray, step: Step) -> None:
        """Record a vector step; a game whose worker was lost is given up."""
        for i in list(self.envs):
            seen = each(np.copy, rows(obs, i))
            self.steps[i].append((seen, act[i], step.rew[i], step.end[i], step.trunc[i]))
            if step.lost[i]:
                self.envs.remove(i)
            elif step.end[i] or step.trunc[i]:
                self.envs.remove(i)
                self.segments.append(_segment(self.steps.pop(i), rows(step.last_obs, i)))


def _segment(steps: list[tuple[Any, ...]], last_obs: Obs) -> Segment:
    frames, *columns = zip(*steps, strict=True)
    act, rew, end, trunc = map(np.stack, columns)
    return Segment(
        obs=each(lambda *shown: np.stack(shown), *frames, last_obs),
        act=act,
        rew=rew.astype(np.float32),
        end=end.astype(bool),
        trunc=trunc.astype(bool),
        first=True,
    )
