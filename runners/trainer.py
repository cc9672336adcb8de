"""The training loop: collect, tokenizer, world model, policy, epoch by epoch.

The loop can stop and be saved between any two updates and any two stretches of collection, and
goes on from there exactly as if it had not stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from agents.agent import Agent
from envs.experience import Finished
from runners.collect import LocalCollector
from runners.errors import UserError
from runners.hardware import Hardware
from runners.meter import Meter
from runners.phases import Phase
from runners.replay import Replay


class Stopped(Exception):
    """Somebody asked the loop to stop; everything is at a point that can be saved."""


@dataclass
class Position:
    """How far the loop is, in the middle of `epoch`, which counts from 1.

    planned: steps due at the end of the epochs before this one. tail: finished epochs of the
    tail. done: updates of this epoch; updates: of all epochs. seconds: time spent on the run.
    """

    epoch: int = 1
    steps: int = 0
    planned: int = 0
    tail: int = 0
    done: dict[str, int] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """When to collect and how much. Epoch 1 collects `first_steps` uniformly random steps.

    It looks ahead from a position, so that `steps` may grow when a run is resumed: collection
    goes on at the same pace, and a new tail follows.
    """

    steps: int
    first_steps: int
    epoch_steps: int
    tail_epochs: int
    chunk_steps: int

    @property
    def epochs(self) -> int:
        """All epochs, those of the tail, which only learn, too."""
        return self.epochs_left(Position())

    def epochs_left(self, at: Position) -> int:
        """Epochs from the present one on; 0 at the end of the run."""
        if self.in_tail(at):
            return max(0, self.tail_epochs - at.tail)
        first = at.epoch == 1
        later = max(0, self.steps - at.planned - first * self.first_steps)
        return first + math.ceil(later / self.epoch_steps) + self.tail_epochs

    def target(self, at: Position) -> int:
        """Steps to have collected at the end of the present epoch's collection."""
        return min(
            self.steps, at.planned + (self.first_steps if at.epoch == 1 else self.epoch_steps)
        )

    def in_tail(self, at: Position) -> bool:
        """Whether the present epoch only learns, as all steps are collected."""
        return at.planned >= self.steps

    def next(self, at: Position) -> Position:
        """The beginning of the next epoch."""
        tail = at.tail + 1 if self.in_tail(at) else 0
        planned = max(at.planned, self.target(at))
        return replace(at, epoch=at.epoch + 1, planned=planned, tail=tail, done={})


class Trainer:
    """Owns the parts of a run and moves them forward.

    on_epoch is called at the end of each epoch with the epoch's scalars, to log, evaluate, draw
    and save, when the position is already that of the next epoch; on_progress often, with the
    name of what runs; should_stop before each piece of work.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        collector: LocalCollector,
        replay: Replay,
        phases: list[Phase],
        schedule: Schedule,
        hardware: Hardware,
        context: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[str], None],
        on_epoch: Callable[[dict[str, float], list[Finished]], None],
    ) -> None:
        self.agent, self.collector, self.replay = agent, collector, replay
        self.phases, self.schedule, self.hardware = phases, schedule, hardware
        self.context = context
        self.should_stop, self.on_progress, self.on_epoch = should_stop, on_progress, on_epoch
        self.at = Position(updates={p.name: 0 for p in phases})
        self.meter = Meter()
        self.finished: list[Finished] = []
        self.restarts = 0
        self._clock = time.perf_counter()

    def run(self) -> None:
        """Run to the end of the schedule; raises Stopped where should_stop says so."""
        self._clock = time.perf_counter()
        while self.schedule.epochs_left(self.at):
            self._collect()
            self._fit()
            for phase in self.phases:
                self._learn(phase)
            self.check()
            scalars, finished = self.meter.read(), self.finished
            self.at, self.finished = self.schedule.next(self.at), []
            self.on_epoch(scalars, finished)
            self.tick()

    def tick(self) -> None:
        """Count the time since the last call as spent on the run."""
        now = time.perf_counter()
        self.at.seconds += now - self._clock
        self._clock = now

    def check(self) -> None:
        """Raises UserError where a loss or a gradient of this epoch is not finite.

        It waits for the device; nothing should be kept of a run that fails it.
        """
        broken = [name for name, mean in self.meter.means().items() if not math.isfinite(mean)]
        if broken:
            raise UserError(
                f"{broken[0]} is not finite after {self.at.steps:,} steps: training diverged; "
                "start again with a lower agent.phases.*.lr, or with precision=float32"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the run goes on; call `replay.commit` before keeping it."""
        rng = {"torch": torch.get_rng_state()}
        if self.hardware.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.hardware.device)
        return {
            "model": self.agent.state_dict(),
            "optimizers": {p.name: p.optimizer.state_dict() for p in self.phases},
            "probes": {p.name: p.probe.state_dict() for p in self.phases if p.probe},
            "position": asdict(self.at),
            "collector": self.collector.state_dict(),
            "replay": self.replay.state_dict(),
            "rng": rng,
            "epoch": {
                "finished": [asdict(game) for game in self.finished],
                "restarts": self.restarts,
                "meter": self.meter.state_dict(),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the weights are loaded by whoever opened the checkpoint."""
        for phase in self.phases:
            phase.load_state_dict(state["optimizers"][phase.name])
            if phase.probe:
                phase.probe.load_state_dict(state["probes"][phase.name], self.hardware.device)
        self.at = Position(**state["position"])
        self.replay.load_state_dict(state["replay"])
        self.collector.load_state_dict(state["collector"])
        torch.set_rng_state(state["rng"]["torch"])
        if self.hardware.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.hardware.device)
        epoch = state["epoch"]
        self.finished = [Finished(**game) for game in epoch["finished"]]
        self.restarts = epoch["restarts"]
        self.meter.load_state_dict(epoch["meter"], self.hardware.device)

    def _collect(self) -> None:
        target, random = self.schedule.target(self.at), self.at.epoch == 1
        while self.at.steps < target:
            self._rest("collect")
            with self._timed("collect"):
                chunk = min(self.schedule.chunk_steps, target - self.at.steps)
                # The policy has learned since the last epoch, but not since the last chunk.
                recall = "collect" not in self.at.done
                result = self.collector.collect(self.agent, chunk, random=random, recall=recall)
            self.at.steps += result.steps
            self.at.done["collect"] = self.at.done.get("collect", 0) + result.steps
            self.meter.count("collect", result.steps)
            self.finished += result.finished
            self.restarts += result.lost

    def _fit(self) -> None:
        """Show what was collected first to learners that want to see it before any update."""
        for phase in self.phases:
            done = f"fit_{phase.name}"
            if phase.learner.fit is not None and self.at.epoch == 1 and done not in self.at.done:
                phase.fit(self.replay)
                self.at.done[done] = 1

    def _learn(self, phase: Phase) -> None:
        due = phase.due(self.at.epoch)
        while self.at.done.get(phase.name, 0) < due:
            self._rest(phase.name)
            done = self.at.done.get(phase.name, 0) + 1
            with self._timed(phase.name):
                metrics = phase.update(self._batch(phase))
                if done == due:
                    metrics |= phase.settle()
            self.meter.add(phase.name, metrics)
            self.at.done[phase.name] = done
            self.at.updates[phase.name] += 1
        if self.hardware.device.type == "cuda":
            # What is still queued belongs to this phase's time.
            with self._timed(phase.name):
                torch.cuda.synchronize(self.hardware.device)

    def _batch(self, phase: Phase) -> Any:
        count = self.at.epoch > 1
        if phase.learner.starts:
            batch = self.replay.sample_starts(phase.name, phase.batch, self.context, count=count)
        else:
            batch = self.replay.sample_windows(phase.name, phase.batch, phase.frames, count=count)
        return batch.to(self.hardware.device)

    def _rest(self, what: str) -> None:
        """A moment between two pieces of work."""
        if self.should_stop():
            raise Stopped
        self.tick()
        self.on_progress(what)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.meter.spend(what, time.perf_counter() - begin)
