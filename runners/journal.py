"""What a run tells and keeps: console, TensorBoard, evaluations, pictures, checkpoints."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.experience import EnvSpec, Finished
from envs.trees import named
from runners.charts import unlock_bars
from runners.checkpoint import Checkpoints
from runners.console import FinalReport, Status, final_table, open_console
from runners.dream import log_dreams
from runners.evaluate import EVALUATION_SEED, play
from runners.hardware import Hardware
from runners.header import header
from runners.log import RunLog
from runners.log_layout import ABOUT_DREAMS, run_layout
from runners.numbering import Numbering
from runners.opening import open_env
from runners.pace import Pace
from runners.run_folder import run_word, write_summary
from runners.scoring import Evaluation, scores_in_words
from runners.settings.build import dotted, fields
from runners.settings.config import Config
from runners.tally import Tally, evaluation_scores
from runners.trainer import Stopped, Trainer

SHOW_SECONDS = 0.2


class Journal:
    """Follows one trainer. Nothing here changes how training goes on."""

    def __init__(self, config: Config, folder: Path, spec: EnvSpec, hardware: Hardware) -> None:
        self.config, self.folder, self.spec, self.hardware = config, folder, spec, hardware
        self.console = open_console(config.console)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=config.run.keep)
        self.tally, self.numbering, self.evaluated = Tally(), Numbering(), 0
        self.scored: dict[str, Any] = {}
        self.recent: deque[float] = deque(maxlen=20)
        self.evaluation: Evaluation | None = None
        self.saved = self.dreamed = self.shown = time.monotonic()
        self.logged: dict[str, int] | None = None
        self._log: RunLog | None = None

    def open(self, trainer: Trainer) -> None:
        """Meet the trainer; called before anything else."""
        self.trainer = trainer

    def begin(self, resumed: bool) -> None:
        """Open the log, and print what the settings mean in plain units.

        A new run gets its first checkpoint at once, so that it can be resumed whatever happens.
        """
        at, behaviour = self.trainer.at, self.config.agent.behaviour
        self.pace = Pace(self.trainer, self.config.agent.phases.policy.batch * behaviour.horizon)
        purge_step = at.steps if resumed else None
        self._log = RunLog(self.folder, purge_step=purge_step, sizes=self.logged)
        write_summary(self.folder, status="running", error=None)
        for line in header(self.config, self.folder, self.spec, self.trainer):
            self.console.note(line)
        if resumed:
            self.console.note(f"resumed  at step {at.steps:,}, epoch {at.epoch}")
            return
        flat = {dotted(key): value for key, _, value in fields(self.config)}
        self._log.hparams(flat, ["eval/return", "episode/return"])
        entries = list(named(self.spec.obs))
        self._log.layout(run_layout(self.config.env.suite, behaviour.horizon, entries))
        self._log.text("settings", "\n".join(f"    {k} = {v}" for k, v in flat.items()))
        self._log.text("imagination", ABOUT_DREAMS)
        self.save()

    def progress(self, phase: str) -> None:
        """Show where training is, and save if it is time; cheap enough for every update."""
        now = time.monotonic()
        if now - self.shown >= SHOW_SECONDS:
            self.shown = now
            self.console.show(self._status(phase))
        if now - self.saved >= 60 * self.config.run.checkpoint_minutes:
            self.save()

    def epoch(self, scalars: dict[str, float], finished: list[Finished]) -> None:
        """Log an epoch; evaluate and draw if it is time. The end of a run has its own."""
        at, run = self.trainer.at, self.config.run
        self.tally.add(finished)
        self.recent.extend(game.ret for game in finished)
        self.numbering.epoch(at)
        self._scalars(self._epoch_scalars(scalars, finished))
        if not self.trainer.schedule.epochs_left(at):
            return
        if run.eval_every and at.steps // run.eval_every > self.evaluated // run.eval_every:
            self.evaluate()
        if run.dream_minutes and time.monotonic() - self.dreamed >= 60 * run.dream_minutes:
            self.dream()

    def evaluate(self) -> Evaluation:
        """Play whole games with the present policy, log them, and save with the score.

        Raises Stopped, with nothing logged, where somebody asks the trainer to stop.
        """
        run = self.config.run
        count = min(run.eval_envs, run.eval_episodes)
        status = replace(self._status("evaluate"), due=run.eval_episodes)

        def watch(played: int) -> None:
            if self.trainer.should_stop():
                raise Stopped
            self.console.show(replace(status, done=played))

        env = open_env(self.config, num_envs=count, workers=self.config.env.workers, training=False)
        try:
            self.evaluation, _ = play(
                self.trainer.agent,
                env,
                self.hardware,
                episodes=run.eval_episodes,
                seed=self.config.seed + EVALUATION_SEED,
                temperature=self.config.agent.behaviour.eval_temperature,
                watch=watch,
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
        """Write a checkpoint; raises UserError, and leaves the last one, if training diverged."""
        assert self._log is not None
        at = self.trainer.at
        self.trainer.check()
        moment = {"steps": at.steps, "updates": dict(at.updates)}
        if score is not None:
            self.scored = {"moment": moment, "score": score}
        elif self.scored.get("moment") == moment:
            score = self.scored["score"]
        number = self.numbering.number(self.trainer.schedule, at)
        own = {
            "tally": vars(self.tally),
            "numbering": vars(self.numbering),
            "evaluated": self.evaluated,
            "scored": self.scored,
            "logged": self._log.sizes(),
        }
        state = {**self.trainer.state_dict(), "journal": own}
        self.checkpoints.save(number, state, score)
        write_summary(self.folder, steps=at.steps)
        self.saved = time.monotonic()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting where a checkpoint was saved."""
        self.tally, self.evaluated = Tally(**state["tally"]), state["evaluated"]
        self.numbering = Numbering(**state["numbering"])
        self.scored, self.logged = state["scored"], state["logged"]

    def finish(self) -> None:
        """Draw and evaluate once more, save, and print the table of the run."""
        self.dream()
        evaluation = self.evaluate()
        self.trainer.tick()
        write_summary(self.folder, status="finished", seconds=self.trainer.at.seconds)
        self.close()
        print(final_table(self._final_report(evaluation)))

    def stopped(self) -> None:
        """Save, and say how to go on."""
        self.save()
        write_summary(self.folder, status="interrupted")
        self.console.note(
            f"stopped at step {self.trainer.at.steps:,}, everything is saved; "
            f"go on with: tokendream resume {run_word(self.folder)}"
        )

    def close(self) -> None:
        """Give the terminal back and finish writing; may be called twice."""
        self.console.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _scalars(self, scalars: dict[str, float]) -> None:
        assert self._log is not None
        self._log.scalars(self.trainer.at.steps, scalars)

    def _epoch_scalars(
        self, scalars: dict[str, float], finished: list[Finished]
    ) -> dict[str, float]:
        out = dict(scalars)
        for phase in self.trainer.phases:
            if f"grad/{phase.name}" in out:
                out[f"lr/{phase.name}"] = float(phase.optimizer.param_groups[0]["lr"])
        if "policy/return" in out:
            out["policy/advantage_rms"] = float(out.pop("policy/advantage_square")) ** 0.5
            out["imagination/return_mean"] = out.pop("policy/return")
        if finished:
            out["episode/return"] = float(np.mean([g.ret for g in finished]))
            out["episode/length"] = float(np.mean([g.length for g in finished]))
        return (
            out
            | self.tally.scalars()
            | self.pace.scalars()
            | {"collect/restarts": self.trainer.restarts}
        )

    def _status(self, phase: str) -> Status:
        at, schedule = self.trainer.at, self.trainer.schedule
        done, due = at.done.get(phase, 0), 0
        if phase == "collect":
            done, due = at.steps - at.planned, schedule.target(at) - at.planned
        for learned in self.trainer.phases:
            if learned.name == phase:
                due = learned.due(at.epoch)
        left = schedule.epochs_left(at)
        return Status(
            phase=phase,
            step=at.steps,
            num_steps=schedule.steps,
            epoch=at.epoch if left else at.epoch - 1,
            num_epochs=at.epoch - 1 + left,
            done=done,
            due=due,
            seconds=at.seconds,
            seconds_left=self.pace.seconds_left(),
            more_left=self.pace.more_left(),
            ret=float(np.mean(self.recent)) if self.recent else None,
            eval_ret=float(self.evaluation.returns.mean()) if self.evaluation else None,
            speeds=self.pace.speeds(),
            memory=self.pace.memory(),
        )

    def _final_report(self, evaluation: Evaluation) -> FinalReport:
        summary, at, name = evaluation.summary(), self.trainer.at, run_word(self.folder)
        presets = self.config.presets
        own = evaluation_scores(self.config, evaluation.games)
        shown = scores_in_words({tag: x for tag, x in own.items() if "unlock" not in tag})
        return FinalReport(
            title=f"{presets.agent} on {presets.env}, run {self.folder.name}",
            ret=summary["return"],
            ret_low=summary["return_ci_low"],
            ret_high=summary["return_ci_high"],
            episodes=len(evaluation.games),
            steps=at.steps,
            frames=at.steps * self.spec.frames_per_step,
            seconds=at.seconds,
            scores=shown,
            speeds=self.pace.speeds(),
            memory=self.pace.memory(),
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
