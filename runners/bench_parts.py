"""The measurements of `tokendream bench`; each part runs in a process of its own.

Frames are random, as black ones would be faster to compute with. A part is warmed up with few
rows, then timed at the batch of the settings as often as the time allows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.base import Env
from envs.make import automatic_workers, make_env
from envs.spaces import Image, ObsSpace, Vector, random_actions
from envs.trees import each
from runners.bench import Measured
from runners.bench_dynamics import measure_dynamics
from runners.bench_table import RATE, SECONDS, Row
from runners.bench_timing import Timing, repeat, time_batch
from runners.hardware import Hardware, bfloat16_unit, open_hardware, peak_memory_gib
from runners.phases import Phase
from runners.settings.config import Config
from runners.train import build_trainer
from runners.trainer import Trainer
from worldmodels.batch import Batch, at

REPLAY_STEPS = 4000
"""Steps in replay when its batches are timed: some twenty games of Crafter."""
ACTING_STEPS = 10
ENV_STEPS = 50


@dataclass(frozen=True)
class Bench:
    """A run's parts, wired as in training, and the seconds that a measurement may take."""

    trainer: Trainer
    env: Env
    config: Config
    seconds: float

    @property
    def hardware(self) -> Hardware:
        """Where everything is."""
        return self.trainer.hardware

    def random_batch(self, rows: int, steps: int) -> Batch:
        """Windows of random frames and actions, all valid, without reward or end."""
        zeros, spaces = torch.zeros(rows, steps), self.env.spec.obs
        return Batch(
            obs=each(lambda space: _random_frames(space, rows, steps + 1), spaces),
            act=self.random_actions(rows, steps),
            rew=zeros,
            end=zeros.bool(),
            trunc=zeros.bool(),
            valid=torch.ones(rows, steps, dtype=torch.bool),
        ).to(self.hardware.device)

    def random_actions(self, rows: int, steps: int) -> Tensor:
        """Actions of as many windows."""
        space = self.env.spec.act
        act = random_actions(space, np.random.default_rng(0), rows * steps)
        act = act.reshape(rows, steps, *space.shape)
        return torch.from_numpy(act).to(self.hardware.device)


def measure(part: str, config: Config, seconds: float) -> Measured:
    """Measure a part in this process; raises MemoryError where a GPU's memory is too small."""
    hardware = open_hardware(config.device, config.precision, config.threads)
    words = f"{hardware.describe()}{_matrix_unit(hardware)}"
    found = Measured([], words, hardware.device.type, torch.__version__)
    try:
        if part == "dynamics":
            # Neither an environment nor an agent is needed.
            grid = measure_dynamics(config.agent.dynamics, hardware, seconds)
            return replace(found, grid=replace(grid, peak_gib=peak_memory_gib(hardware.device)))
        rows = _measure_rows(part, config, hardware, seconds)
    except torch.OutOfMemoryError as error:
        # torch's own error cannot be read by a process without torch.
        raise MemoryError(str(error).split(". ")[0]) from None
    peak = peak_memory_gib(hardware.device)
    return replace(found, rows=[replace(row, peak_gib=peak) for row in rows])


def _measure_rows(part: str, config: Config, hardware: Hardware, seconds: float) -> list[Row]:
    settings = config.env.model_dump()
    workers = config.env.workers if part == "collection" else 0
    with tempfile.TemporaryDirectory() as folder:
        env = make_env(settings, num_envs=config.env.num_envs, workers=workers, training=True)
        try:
            trainer = build_trainer(
                config,
                Path(folder),
                env,
                hardware,
                should_stop=lambda: False,
                on_progress=lambda phase: None,
                on_epoch=lambda scalars, finished: None,
            )
            return _rows(part, Bench(trainer, env, config, seconds))
        finally:
            env.close()


def _matrix_unit(hardware: Hardware) -> str:
    """What a CPU multiplies bfloat16 with, which decides by how much it pays."""
    if hardware.device.type != "cpu":
        return ""
    unit = bfloat16_unit()
    return f" by {unit}" if unit else " without instructions for it"


def _rows(part: str, bench: Bench) -> list[Row]:
    for phase in bench.trainer.phases:
        if phase.name == part:
            return update(bench, phase)
    return OTHERS[part](bench)


def update(bench: Bench, phase: Phase) -> list[Row]:
    """One optimiser step at the batch of the settings, without drawing it from replay."""
    steps, full = phase.frames - 1, phase.batch
    slices = -(-full // phase.slice)
    name, batch = f"{_words(phase)} update", f"{full} x {phase.frames} frames"
    if phase.learner.starts:
        steps, horizon = bench.trainer.context, bench.config.agent.behaviour.horizon
        batch = f"{full} x {horizon} steps"
    batch += f", {slices} slice{'s' * (slices > 1)}"

    def prepare(rows: int) -> Batch:
        phase.batch = rows
        return bench.random_batch(rows, steps)

    timing = time_batch(full, prepare, phase.update, bench.hardware, bench.seconds)
    found = [timing.row(name, SECONDS, batch)]
    if phase.learner.starts:
        found.append(timing.row(f"{name}, steps trained on", RATE, batch, work=full * horizon))
    return found


def imagination(bench: Bench) -> list[Row]:
    """Imagination without learning: policy and world model, then the world model alone."""
    agent, hardware = bench.trainer.agent, bench.hardware
    batch, horizon = bench.config.agent.phases.policy.batch, bench.config.agent.behaviour.horizon

    def past(rows: int) -> Batch:
        return bench.random_batch(rows, bench.trainer.context)

    def whole(past: Batch) -> None:
        with hardware.autocast():
            agent.lesson(past)

    def past_and_actions(rows: int) -> tuple[Batch, Tensor]:
        return past(rows), bench.random_actions(rows, horizon)

    def world_model(given: tuple[Batch, Tensor]) -> None:
        past, acts = given
        with hardware.autocast():
            state = agent.world_model.start(past)
            for t in range(horizon):
                state, _ = agent.world_model.imagine(state, acts[:, t])

    timings = {
        "imagined rollout with targets": time_batch(batch, past, whole, hardware, bench.seconds),
        "world model step alone": time_batch(
            batch, past_and_actions, world_model, hardware, bench.seconds
        ),
    }
    return [
        timing.row(name, RATE, f"{batch} x {horizon} steps", work=batch * horizon)
        for name, timing in timings.items()
    ]


def acting(bench: Bench) -> list[Row]:
    """Decisions from frames of the host to actions on the host, without environments."""
    return [_acting(bench, 1), _acting(bench, 16)]


def _acting(bench: Bench, num_envs: int) -> Row:
    agent, hardware = bench.trainer.agent, bench.hardware
    frames = at(bench.random_batch(num_envs, 0).to(torch.device("cpu")).obs, 0)

    def act() -> None:
        carry = agent.initial(num_envs)
        for _ in range(ACTING_STEPS):
            with hardware.autocast():
                obs = each(lambda x: x.to(hardware.device, non_blocking=True), frames)
                chosen, carry = agent.act(obs, carry)
            chosen.cpu()

    act()
    timing = Timing(repeat(act, hardware, bench.seconds / 8), num_envs, num_envs)
    name = f"acting, {num_envs} environment{'s' * (num_envs > 1)}"
    return timing.row(name, RATE, f"{num_envs}", work=ACTING_STEPS * num_envs)


def environment(bench: Bench) -> list[Row]:
    """Random actions, resets included, in this process and as in training."""
    rows = [_stepping(bench, bench.env, "environment alone, this process")]
    settings = bench.config.env
    workers = settings.workers
    if workers < 0:
        workers = automatic_workers(settings.num_envs)
    if workers:
        num_envs = settings.num_envs
        env = make_env(settings.model_dump(), num_envs=num_envs, workers=workers, training=True)
        try:
            rows.append(_stepping(bench, env, f"environment alone, {workers} workers"))
        finally:
            env.close()
    return rows


def _stepping(bench: Bench, env: Env, name: str) -> Row:
    rng = np.random.default_rng(0)

    def step() -> None:
        for _ in range(ENV_STEPS):
            env.step(random_actions(env.spec.act, rng, env.num_envs))

    env.reset(bench.config.seed)
    step()
    # Of all stretches together, as games end and begin in some of them only.
    runs = repeat(step, bench.hardware, bench.seconds / 5, most=10_000)
    timing = Timing(runs, env.num_envs, env.num_envs)
    return timing.mean_rate(name, f"{env.num_envs}", len(runs) * ENV_STEPS * env.num_envs)


def collection(bench: Bench) -> list[Row]:
    """Steps of real games that go into replay, as in training."""
    trainer, chunk = bench.trainer, bench.config.run.chunk_steps
    rows = []
    for name, random in (("random actions", True), ("with the policy", False)):
        chunk = min(chunk, max(bench.env.num_envs, int(25 * bench.seconds)))
        trainer.collector.collect(trainer.agent, bench.env.num_envs, random=random, recall=True)
        counts: list[int] = []

        def collect(random: bool = random, counts: list[int] = counts, chunk: int = chunk) -> None:
            counts.append(
                trainer.collector.collect(trainer.agent, chunk, random=random, recall=True).steps
            )

        runs = repeat(collect, bench.hardware, bench.seconds / 4)
        timing = Timing(runs, bench.env.num_envs, bench.env.num_envs)
        rows.append(timing.mean_rate(f"collecting, {name}", f"{bench.env.num_envs}", sum(counts)))
    return rows


def replay(bench: Bench) -> list[Row]:
    """A batch of each component drawn from games on disk, and copied to the device."""
    trainer, store = bench.trainer, bench.trainer.replay
    steps = min(REPLAY_STEPS, int(200 * bench.seconds))
    trainer.collector.collect(trainer.agent, steps, random=True, recall=False)
    rows = []
    for phase in trainer.phases:

        def draw(phase: Phase = phase) -> None:
            if phase.learner.starts:
                batch = store.sample_starts(phase.name, phase.batch, trainer.context)
            else:
                batch = store.sample_windows(phase.name, phase.batch, phase.frames)
            batch.to(bench.hardware.device)

        draw()
        timing = Timing(repeat(draw, bench.hardware, 1.0, most=100), phase.batch, phase.batch)
        frames = trainer.context + 1 if phase.learner.starts else phase.frames
        words = f"{phase.batch} x {frames} frames"
        rows.append(timing.row(f"replay batch, {_words(phase)}", SECONDS, words))
    return rows


def _random_frames(space: ObsSpace, rows: int, frames: int) -> Tensor:
    if isinstance(space, Image):
        return torch.randint(0, 256, (rows, frames, *space.shape), dtype=torch.uint8)
    if isinstance(space, Vector):
        return torch.randn(rows, frames, space.size)
    return torch.stack([torch.randint(n, (rows, frames)) for n in space.sizes], -1)


def _words(phase: Phase) -> str:
    return phase.name.replace("_", " ")


OTHERS: dict[str, Callable[[Bench], list[Row]]] = {
    "imagination": imagination,
    "acting": acting,
    "environment": environment,
    "collection": collection,
    "replay": replay,
}
