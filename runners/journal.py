"""What a run tells and keeps: console, TensorBoard, evaluations, pictures, checkpoints."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.experience import EnvSpec, Finished
from envs.make import make_env
from runners.charts import unlock_bars
from runners.checkpoint import Checkpoints
from runners.console import FinalReport, Status, TimeLeft, final_table, open_console
from runners.dream import log_dreams
from runners.evaluate import EVALUATION_SEED, Evaluation, play
from runners.hardware import Hardware, peak_memory_gib
from runners.header import header
from runners.log import RunLog
from runners.log_layout import run_layout
from runners.run_folder import write_summary
from runners.settings.build import dotted, fields
from runners.settings.config import Config
from runners.tally import Tally, evaluation_scores
from runners.trainer import Scalars, Trainer

SHOW_SECONDS = 0.2


class Journal:
    """Follows one trainer. Nothing here changes how training goes on."""

    def __init__(self, config: Config, folder: Path, spec: EnvSpec, hardware: Hardware) -> None:
        self.config, self.folder, self.spec, self.hardware = config, folder, spec, hardware
        self.console = open_console(config.console)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=config.run.keep)
        self.time_left = TimeLeft()
        self.tally, self.evaluated = Tally(), 0
        self.recent: deque[float] = deque(maxlen=20)
        self.evaluation: Evaluation | None = None
        self.saved = self.dreamed = self.shown = time.monotonic()
        self.before: dict[str, tuple[float, float]] = {}
        self._log: RunLog | None = None

    def open(self, trainer: Trainer) -> None:
        """Meet the trainer; called before anything else."""
        self.trainer = trainer

    def begin(self, resumed: bool) -> None:
        """Open the log, and print what the settings mean in plain units."""
        at = self.trainer.at
        self._log = RunLog(self.folder, purge_step=at.steps if resumed else None)
        if resumed:
            self.console.note(f"resumed {self.folder} at step {at.steps:,}, epoch {at.epoch}")
            return
        flat = {dotted(key): value for key, _, value in fields(self.config)}
        self._log.hparams(flat, ["eval/return", "episode/return"])
        self._log.layout(run_layout(self.config.env.suite, self.config.agent.behaviour.horizon))
        self._log.text("settings", "\n".join(f"    {k} = {v}" for k, v in flat.items()))
        for line in header(self.config, self.folder, self.spec, self.trainer):
            self.console.note(line)

    def progress(self, phase: str) -> None:
        """Show where training is, and save if it is time; cheap enough for every update."""
        now = time.monotonic()
        if now - self.shown >= SHOW_SECONDS:
            self.shown = now
            self.console.show(self._status(phase))
        if now - self.saved >= 60 * self.config.run.checkpoint_minutes:
            self.save()

    def epoch(self, scalars: Scalars, finished: list[Finished]) -> None:
        """Log an epoch; evaluate and draw if it is time. The end of a run has its own."""
        at, run = self.trainer.at, self.config.run
        self.tally.add(finished)
        self.recent.extend(game.ret for game in finished)
        last = at.epoch > self.trainer.schedule.epochs
        if (at.epoch - 1) % run.log_every == 0 or last:
            self._scalars(self._epoch_scalars(scalars, finished))
        if last:
            return
        if run.eval_every and at.steps // run.eval_every > self.evaluated // run.eval_every:
            self.evaluate()
        if run.dream_minutes and time.monotonic() - self.dreamed >= 60 * run.dream_minutes:
            self.dream()

    def evaluate(self) -> Evaluation:
        """Play whole games with the present policy, log them, and save with the score."""
        run = self.config.run
        count = min(run.eval_envs, run.eval_episodes)
        workers = min(count, len(os.sched_getaffinity(0)))
        status = self._status("evaluate")
        env = make_env(self.config.env.model_dump(), num_envs=count, workers=workers)
        try:
            self.evaluation, _ = play(
                self.trainer.agent,
                env,
                self.hardware,
                episodes=run.eval_episodes,
                seed=self.config.seed + EVALUATION_SEED,
                watch=lambda n: self.console.show(replace(status, done=n, due=run.eval_episodes)),
            )
        finally:
            env.close()
        self.evaluated = self.trainer.at.steps
        summary = self.evaluation.summary()
        own = evaluation_scores(self.config, self.evaluation.games)
        self._scalars({**{f"eval/{k}": v for k, v in summary.items()}, **own})
        self.save(score=summary["return"])
        write_summary(self.folder, last_return=summary["return"])
        return self.evaluation

    def dream(self) -> None:
        """Log what the world model imagines beside reality."""
        assert self._log is not None
        behaviour, step = self.config.agent.behaviour, self.trainer.at.steps
        self.console.show(self._status("dream"))
        with self.hardware.autocast():
            log_dreams(
                self._log,
                self.trainer.agent,
                self.trainer.replay,
                step,
                context=behaviour.context,
                horizon=behaviour.horizon,
            )
        if self.tally.games:
            self._log.image("crafter/unlocks", unlock_bars(self.tally.rates()), step)
        self.dreamed = time.monotonic()

    def save(self, score: float | None = None) -> None:
        """Write a checkpoint."""
        assert self._log is not None
        at = self.trainer.at
        self._log.flush()
        own = {"tally": vars(self.tally), "evaluated": self.evaluated}
        self.checkpoints.save(at.steps, {**self.trainer.state_dict(), "journal": own}, score)
        write_summary(self.folder, steps=at.steps, status="running")
        self.saved = time.monotonic()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting where a checkpoint was saved."""
        self.tally, self.evaluated = Tally(**state["tally"]), state["evaluated"]

    def finish(self) -> None:
        """Draw and evaluate once more, save, and print the table of the run."""
        self.dream()
        evaluation = self.evaluate()
        write_summary(self.folder, status="finished", seconds=self.trainer.at.seconds)
        self.close()
        print(final_table(self._final_report(evaluation)))

    def stopped(self) -> None:
        """Save, and say how to go on."""
        self.save()
        write_summary(self.folder, status="interrupted")
        self.console.note(
            f"stopped at step {self.trainer.at.steps:,}, everything is saved; "
            f"go on with: tokendream resume {self.folder.name}"
        )

    def close(self) -> None:
        """Give the terminal back and finish writing; may be called twice."""
        self.console.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _scalars(self, scalars: Scalars) -> None:
        assert self._log is not None
        self._log.scalars(self.trainer.at.steps, scalars)

    def _epoch_scalars(self, scalars: Scalars, finished: list[Finished]) -> Scalars:
        out = dict(scalars)
        if "policy/return" in out:
            out["policy/advantage_std"] = float(out.pop("policy/advantage_square")) ** 0.5
            out["imagination/return_mean"] = out.pop("policy/return")
        if finished:
            out["episode/return"] = float(np.mean([g.ret for g in finished]))
            out["episode/length"] = float(np.mean([g.length for g in finished]))
        out |= self.tally.scalars()
        work, seconds = self.trainer.meter.work, self.trainer.meter.seconds
        recent = {
            name: (
                work[name] - self.before.get(name, (0, 0))[0],
                seconds[name] - self.before.get(name, (0, 0))[1],
            )
            for name in work
        }
        self.before = {name: (work[name], seconds[name]) for name in work}
        total = sum(took for _, took in recent.values()) or 1.0
        out |= {f"speed/share_{name}": took / total for name, (_, took) in recent.items()}
        out |= {f"speed/{tag}": rate for tag, rate in self._rates(recent).items()}
        left = self._seconds_left()
        if left is not None:
            out["speed/hours_left"] = left / 3600
        out["memory/replay_gib"] = self.trainer.replay.bytes_on_disk / 2**30
        gpu = self.hardware.device.type == "cuda"
        out["memory/gpu_peak_gib" if gpu else "memory/ram_gib"] = peak_memory_gib(
            self.hardware.device
        )
        out["collect/restarts"] = self.trainer.restarts
        return out

    def _rates(self, spent: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Collected steps, updates and imagined steps per second of their own time."""
        rates = {}
        if "collect" in spent:
            steps, took = spent["collect"]
            rates["env_steps_s"] = steps / took if took else 0.0
        learned = [x for name, x in spent.items() if name != "collect"]
        if took := sum(t for _, t in learned):
            rates["updates_s"] = sum(n for n, _ in learned) / took
        updates, took = spent.get("policy", (0, 0.0))
        if took:
            batch = self.config.agent.phases.policy.batch
            rates["dreamed_steps_s"] = updates * batch * self.config.agent.behaviour.horizon / took
        return rates

    def _seconds_left(self) -> float | None:
        trainer = self.trainer
        meter, at, schedule = trainer.meter, trainer.at, trainer.schedule
        self.time_left.measure(meter.work, meter.seconds)
        epochs = range(at.epoch, schedule.epochs + 1)
        remaining: dict[str, float] = {
            p.name: sum(p.due(e) for e in epochs) - at.done.get(p.name, 0) for p in trainer.phases
        }
        return self.time_left.estimate({"collect": schedule.steps - at.steps, **remaining})

    def _status(self, phase: str) -> Status:
        at, schedule = self.trainer.at, self.trainer.schedule
        phases = {p.name: p for p in self.trainer.phases}
        done, due = at.done.get(phase, 0), 0
        if phase in phases:
            due = phases[phase].due(at.epoch)
        elif phase == "collect":
            begin = schedule.target(at.epoch - 1) if at.epoch > 1 else 0
            done, due = at.steps - begin, schedule.target(at.epoch) - begin
        return Status(
            phase=phase,
            step=at.steps,
            num_steps=schedule.steps,
            epoch=min(at.epoch, schedule.epochs),
            num_epochs=schedule.epochs,
            done=done,
            due=due,
            seconds=at.seconds,
            seconds_left=self._seconds_left(),
            ret=float(np.mean(self.recent)) if self.recent else None,
            eval_ret=float(self.evaluation.returns.mean()) if self.evaluation else None,
            speeds=self._speeds(),
            memory=self._memory(),
        )

    def _speeds(self) -> dict[str, float]:
        meter = self.trainer.meter
        rates = self._rates({n: (meter.work[n], meter.seconds[n]) for n in meter.work})
        words = {
            "env_steps_s": "collect, steps/s",
            "updates_s": "learn, updates/s",
            "dreamed_steps_s": "dream, steps/s",
        }
        return {words[tag]: rate for tag, rate in rates.items()}

    def _memory(self) -> dict[str, float]:
        name = "GPU" if self.hardware.device.type == "cuda" else "RAM"
        replay = self.trainer.replay.bytes_on_disk / 2**30
        return {name: peak_memory_gib(self.hardware.device), "replay": replay}

    def _final_report(self, evaluation: Evaluation) -> FinalReport:
        summary, at, name = evaluation.summary(), self.trainer.at, self.folder.name
        own = evaluation_scores(self.config, evaluation.games)
        shown = {tag: f"{value:.3g}" for tag, value in own.items() if "unlock" not in tag}
        return FinalReport(
            title=f"{self.config.presets.agent} on {self.config.presets.env}, run {name}",
            ret=summary["return"],
            ret_low=summary["return_ci_low"],
            ret_high=summary["return_ci_high"],
            episodes=len(evaluation.games),
            steps=at.steps,
            frames=at.steps * self.spec.frames_per_step,
            seconds=at.seconds,
            scores=shown,
            speeds=self._speeds(),
            memory=self._memory(),
            places={
                "run folder": str(self.folder),
                "pictures": f"in TensorBoard, tab Images; files: tokendream imagine {name}",
            },
            commands=[
                f"tensorboard --logdir {self.folder}",
                f"tokendream imagine {name}",
                f"tokendream evaluate {name} episodes=100",
            ],
        )
