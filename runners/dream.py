"""Pictures of an agent's dreams: into the log during training, into files on demand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from envs.experience import Segment
from runners.clips import clip_of, grid_of
from runners.denoising import Film, films_of
from runners.durable import disk_full_explained
from runners.errors import UserError
from runners.filmstrip import filmstrip
from runners.horizon import HorizonReport, reports_of
from runners.likelihood import Likelihood, likelihood_of
from runners.log_layout import entry_tag
from runners.media import ENCODERS, SUFFIXES, encode_png
from runners.rollout import (
    Comparison,
    Dreamer,
    FreeDreams,
    free_dreams,
    rollout,
    undisturbed,
    windows,
)
from runners.settings.checks import longest_dream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from agents.agent import Agent
    from runners.hardware import Hardware
    from runners.log import RunLog
    from runners.replay import Replay
    from runners.settings.config import Config
    from runners.settings.options import ImagineOptions
    from worldmodels.batch import Batch

DREAMS = 8
FPS = 5.0
NEWEST = "newest replay"
"""What episodes are dreamed of while a run trains: those it may have learned from."""
HELD_OUT_SEED = 1_000_003
"""Added to the run's seed: episodes that no training of this run has seen."""


@dataclass(frozen=True)
class Dreamt:
    """One session of dreaming: windows beside reality, one start dreamed often.

    The errors by entry of the observation, and what reality costs the world model; of one that
    denoises, how frames came about.
    """

    comparison: Comparison
    free: FreeDreams
    reports: dict[str, HorizonReport]
    likelihood: Likelihood
    films: list[Film]

    def scalars(self) -> dict[str, float]:
        """The numbers to log."""
        errors = [report.scalars() for report in self.reports.values()]
        return {k: v for found in (*errors, self.likelihood.scalars()) for k, v in found.items()}


def dream(
    agent: Dreamer,
    episodes: Sequence[Segment],
    *,
    context: int,
    horizon: int,
    num: int,
    seed: int,
    source: str,
    dreams: int = DREAMS,
    films: int = 1,
) -> Dreamt | None:
    """Dream `num` windows of the episodes, the most eventful first; None if all are too short.

    films: of how many windows to keep how their frames came about.
    source: what episodes these are, in a word or two for the reader.
    """
    drawn = windows(episodes, context, horizon, num, np.random.default_rng(seed))
    if drawn is None:
        return None
    batch, episode = drawn
    order = eventful_first(batch)
    with undisturbed(agent, seed) as device:
        batch = batch.rows(order).to(device)
        comparison = rollout(agent, batch, context)
        free = free_dreams(agent, batch, context, dreams)
        cost = likelihood_of(agent.world_model, batch, context, episode[order.numpy()])
        drawn_so = films_of(agent.world_model, batch, context, films)
    reports = reports_of(comparison, episode[order.numpy()], source)
    return Dreamt(comparison, free, reports, cost, drawn_so)


def log_dreams(
    log: RunLog,
    agent: Dreamer,
    replay: Replay,
    step: int,
    *,
    context: int,
    horizon: int,
    num: int = 16,
    episodes: int = 8,
) -> bool:
    """Log a clip, a grid, the errors by horizon, of windows of the newest episodes in replay.

    And what those cost in nats; of a world model that denoises, a filmstrip.

    Call it under the autocast of training. Draws nothing from replay's or torch's random
    numbers, so a run that shows more pictures is the same run. `context` below 1 counts as 1, as
    somebody has to see a start. Returns False, and logs nothing, while no episode is long enough.
    """
    context = max(1, context)
    long_enough = [e.index for e in replay.episodes() if e.length >= context + horizon]
    newest = [replay.episode(i) for i in long_enough[-episodes:]]
    dreamt = dream(
        agent, newest, context=context, horizon=horizon, num=num, seed=step, source=NEWEST
    )
    if dreamt is None:
        return False
    caption = f"step {step:,}, {NEWEST} episodes"
    log.scalars(step, dreamt.scalars())
    log.clip("imagination/beside_reality", clip_of(dreamt.comparison, 0, caption), step, fps=FPS)
    log.clip("imagination/same_start", grid_of(dreamt.free, caption), step, fps=FPS)
    for entry, report in dreamt.reports.items():
        log.image(f"imagination/{entry_tag(entry)}error_by_horizon", report.chart(), step)
    for film in dreamt.films:
        log.image("imagination/denoising", filmstrip(film, caption), step)
    return True


def eventful_first(batch: Batch) -> Tensor:
    """An order of rows (B,): those with the most reward, in absolute value, first; stable."""
    return batch.rew.abs().sum(1).argsort(descending=True, stable=True)


def write_dreams(
    folder: Path, dreamt: Dreamt, *, clips: int, format: str, fps: float
) -> list[Path]:
    """Write clips, grid, filmstrips, chart and numbers; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    encode, suffix = ENCODERS[format], SUFFIXES[format]
    contents: dict[str, bytes] = {}
    for row in range(min(clips, len(dreamt.comparison.rew_true))):
        contents[f"dream-{row + 1}{suffix}"] = encode(clip_of(dreamt.comparison, row), fps)
    contents[f"same-start{suffix}"] = encode(grid_of(dreamt.free), fps)
    for number, film in enumerate(dreamt.films, 1):
        contents[f"denoising-{number}.png"] = encode_png(filmstrip(film))
    for entry, report in dreamt.reports.items():
        name = file_name("horizon", entry)
        contents[f"{name}.png"] = encode_png(report.chart())
        contents[f"{name}.json"] = (json.dumps(report.as_dict(), indent=1) + "\n").encode()
        contents[f"{name}.csv"] = report.csv().encode()
    contents["nats.json"] = (json.dumps(dreamt.likelihood.as_dict(), indent=1) + "\n").encode()
    with disk_full_explained(folder):
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def file_name(start: str, entry: str) -> str:
    """Of what is told of one entry of an observation; `start` itself of one alone."""
    return "-".join([start, *re.findall(r"[\w.]+", entry)])


def table(report: HorizonReport) -> str:
    """Error by horizon in a few plain lines."""
    lines = [f"{report.entry}:"] if report.entry else []
    lines.append(
        "imagined steps   imagination   of other actions   copy last frame   reconstruction"
        "   tokens right"
    )
    marks = sorted({h for h in (1, 2, 5, 10, 15, 20, 30, 50) if h < report.horizon})
    for h in [*marks, report.horizon]:
        mse, misled, copy, recon, right = (
            report.bands[name].mean[h - 1]
            for name in ("mse", "misled_mse", "copy_mse", "recon_mse", "token_accuracy")
        )
        lines.append(
            f"{h:14d}   {mse:11.5f}   {misled:16.5f}   {copy:15.5f}   {recon:14.5f}   {right:12.1%}"
        )
    lines.append(f"{report.unit}; {report.num_windows} windows of {report.words()}")
    if off := report.bands.get("recon_l1"):
        lines.append(
            f"reconstructions are off by {off.mean.mean():.4g} in the environment's units, "
            "mean over numbers and steps"
        )
    return "\n".join(lines)


def main(run_dir: Path, options: ImagineOptions) -> list[Path]:
    """`tokendream imagine RUN`: dream held-out episodes, write what was seen, print where.

    Raises UserError where all episodes are too short.
    """
    from runners.opening import load_agent

    run = load_agent(run_dir, options.checkpoint, options.device)
    config, hardware = run.config, run.hardware
    context = options.context or max(1, config.agent.behaviour.context)
    horizon = options.horizon or config.agent.behaviour.horizon
    longest = longest_dream(config.agent)
    if longest is not None and context + horizon > longest:
        raise UserError(
            f"context={context} and horizon={horizon}: imagination without pictures remembers at "
            f"most {longest} steps, those seen among them; choose smaller numbers"
        )
    seed = config.seed + HELD_OUT_SEED
    random = options.policy == "random"
    how = " at random" if random else ""
    print(f"Playing {options.episodes} episodes{how} that training never saw ...", flush=True)
    player = None if random else run.agent
    episodes = _held_out(player, config, hardware, options.episodes, seed)
    print(f"Dreaming {horizon} steps from up to {options.windows} moments ...", flush=True)
    with hardware.autocast():
        dreamt = dream(
            run.agent,
            episodes,
            context=context,
            horizon=horizon,
            num=max(options.windows, options.clips),
            dreams=options.dreams,
            films=options.clips,
            seed=seed,
            source="held-out random" if random else "held-out",
        )
    if dreamt is None:
        raise _too_short(episodes, context, horizon)
    folder = run_dir / "media" / f"imagine-{options.checkpoint}{'-random' if random else ''}"
    files = write_dreams(
        folder, dreamt, clips=options.clips, format=options.format, fps=options.fps
    )
    for report in dreamt.reports.values():
        print(table(report))
    if words := dreamt.likelihood.words():
        print(words)
    print(f"Written to {folder}:")
    for file in files:
        print(f"  {file.name}")
    return files


def _too_short(episodes: Sequence[Segment], context: int, horizon: int) -> UserError:
    longest = max((len(e.act) for e in episodes), default=0)
    return UserError(
        f"horizon={horizon}: with {context} frames seen, an episode of {context + horizon} "
        f"steps is needed, and the longest has {longest}; choose a smaller horizon"
    )


def _held_out(
    agent: Agent | None, config: Config, hardware: Hardware, num: int, seed: int
) -> list[Segment]:
    """Whole games in fresh environments, from seeds that training does not use; None: at random."""
    from runners.evaluate import play
    from runners.opening import open_env

    env = open_env(config, num_envs=num, workers=0, training=False)
    try:
        return play(agent, env, hardware, episodes=num, seed=seed, keep=num)[1]
    finally:
        env.close()
