"""What a run will do, in plain units, before it does it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from textwrap import shorten

from envs.experience import EnvSpec
from envs.spaces import describe
from envs.trees import leaves
from runners.console import duration
from runners.replay_spaces import step_record
from runners.settings.config import Config
from runners.suites import steps_text
from runners.trainer import Trainer

PROCESS_GIB = 0.6
"""What Python, torch and the environments take before any network."""
FRAMES_PER_SECOND = {"atari": 60}
"""Simulator frames in a second of play, where the suite has such a thing."""


def header(config: Config, folder: Path, spec: EnvSpec, trainer: Trainer) -> list[str]:
    """Lines that say budget, schedule, memory and hardware of a whole run, begun or not."""
    run, at = config.run, trainer.at
    epochs = at.epoch - 1 + trainer.schedule.epochs_left(at)
    updates = {
        phase.name: at.updates[phase.name]
        - at.done.get(phase.name, 0)
        + sum(phase.due(epoch) for epoch in range(at.epoch, epochs + 1))
        for phase in trainer.phases
    }
    imagined = updates["policy"] * config.agent.phases.policy.batch * config.agent.behaviour.horizon
    presets = config.presets
    return [
        f"run      {folder}",
        f"presets  env={presets.env} agent={presets.agent} size={presets.size} "
        f"run={presets.run} seed={config.seed}",
        f"sees     {describe(spec.obs)}",
        f"acts     {shorten(describe(spec.act), 80, placeholder=' ...')}",
        f"budget   {_budget(config, spec)}",
        f"epochs   {epochs:,}, of {run.epoch_steps:,} steps; the first "
        f"{run.first_steps:,} steps act at random",
        "updates  "
        + ", ".join(
            f"{name.replace('_', ' ')} {count:,} ({count / run.steps:.3g} a step)"
            for name, count in updates.items()
        )
        + f"; {imagined / run.steps:.1f} imagined steps a step",
        f"network  {_millions(trainer)} parameters on {trainer.hardware.describe()}",
        f"memory   {_memory(config, folder, spec, trainer)}",
    ]


def _budget(config: Config, spec: EnvSpec) -> str:
    """Steps, with what else the suite counts."""
    text = steps_text(config, config.run.steps)
    rate = FRAMES_PER_SECOND.get(config.env.suite)
    if rate:
        frames = config.run.steps * spec.frames_per_step
        text += f" = {frames:,} frames = {duration(frames / rate)} of play"
    return f"{text} in {config.env.num_envs} environments; a step is a decision of the agent"


def _memory(config: Config, folder: Path, spec: EnvSpec, trainer: Trainer) -> str:
    frame = sum(space.dtype.itemsize * math.prod(space.shape) for space in leaves(spec.obs))
    step = (frame + step_record(spec.act).itemsize) / 2**30
    replay, growth = config.run.steps * step, (config.run.steps - trainer.at.steps) * step
    free = shutil.disk_usage(folder).free / 2**30
    # Weights, gradients and two moments of 4 bytes each; the rest is the largest update.
    weights = 16 * sum(p.numel() for p in trainer.agent.parameters())
    update = (weights + max(phase.activation_bytes for phase in trainer.phases)) / 2**30
    gpu = trainer.hardware.device.type == "cuda"
    ram = f"about {PROCESS_GIB + (0 if gpu else update):.1f} GiB of RAM"
    text = f"{ram}, {update:.1f} GiB of GPU memory" if gpu else ram
    text += f"; replay grows to {replay:.2f} GiB on disk ({free:.0f} GiB free)"
    return f"{text} -- NOT ENOUGH DISK: free some, or lower run.steps" if growth > free else text


def _millions(trainer: Trainer) -> str:
    total = sum(p.numel() for p in trainer.agent.parameters())
    return f"{total / 1e6:.2f} million"
