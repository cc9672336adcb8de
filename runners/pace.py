"""How fast a run goes, how long it still takes, what memory it needs."""

from __future__ import annotations

from collections.abc import Mapping

from runners.console import TimeLeft
from runners.hardware import peak_memory_gib, peak_ram_gib, workers_gib
from runners.trainer import Trainer

WORDS = {
    "env_steps_s": "collect, steps/s",
    "updates_s": "learn, updates/s",
    "dreamed_steps_s": "dream, steps/s",
}


class Pace:
    """Reads a trainer's meter. `imagined` is the number of steps that a policy update imagines."""

    def __init__(self, trainer: Trainer, imagined: int) -> None:
        self.trainer, self.imagined = trainer, imagined
        self.left = TimeLeft()
        self.began = trainer.at.seconds
        self.before: dict[str, tuple[float, float]] = {}
        self.workers = 0.0

    def scalars(self) -> dict[str, float]:
        """Speeds and shares of time since the last call, hours left, memory.

        memory/ram_gib: the peak of this process and what its workers hold now.
        """
        spent = self._spent()
        recent = {
            name: (work - self.before.get(name, (0, 0))[0], took - self.before.get(name, (0, 0))[1])
            for name, (work, took) in spent.items()
        }
        self.before = spent
        total = sum(took for _, took in recent.values()) or 1.0
        out = {f"speed/share_{name}": took / total for name, (_, took) in recent.items()}
        out |= {f"speed/{tag}": rate for tag, rate in self._rates(recent).items()}
        left = self.seconds_left()
        if left is not None:
            out["speed/hours_left"] = left / 3600
        out["memory/replay_gib"] = self.trainer.replay.bytes_on_disk / 2**30
        device = self.trainer.hardware.device
        # Looking for workers takes too long to be done for each line on the console.
        self.workers = workers_gib()
        out["memory/ram_gib"] = peak_ram_gib() + self.workers
        if device.type == "cuda":
            out["memory/gpu_peak_gib"] = peak_memory_gib(device)
        return out

    def speeds(self) -> dict[str, float]:
        """Mean speeds of this process, by words for the console."""
        return {WORDS[tag]: rate for tag, rate in self._rates(self._spent()).items()}

    def memory(self) -> dict[str, float]:
        """GiB by words for the console."""
        device = self.trainer.hardware.device
        out = {"GPU": peak_memory_gib(device)} if device.type == "cuda" else {}
        out["RAM"] = peak_ram_gib() + self.workers
        return out | {"replay": self.trainer.replay.bytes_on_disk / 2**30}

    def seconds_left(self) -> float | None:
        """What remains of each kind of work at its pace, evaluations and saving in proportion."""
        meter, at = self.trainer.meter, self.trainer.at
        self.left.measure(meter.work, meter.seconds)
        work = self.left.estimate(self._remaining())
        worked = sum(meter.seconds.values())
        if work is None or not worked:
            return work
        return work * max(1.0, (at.seconds - self.began) / worked)

    def more_left(self) -> bool:
        """Whether `seconds_left` misses work of a kind that has not run yet."""
        return not self.left.complete(self._remaining())

    def _remaining(self) -> dict[str, float]:
        """Steps and updates until the end."""
        trainer = self.trainer
        at, schedule = trainer.at, trainer.schedule
        epochs = range(at.epoch, at.epoch + schedule.epochs_left(at))
        updates = {
            p.name: sum(p.due(e) for e in epochs) - at.done.get(p.name, 0) for p in trainer.phases
        }
        return {"collect": schedule.steps - at.steps, **updates}

    def _spent(self) -> dict[str, tuple[float, float]]:
        """Work and seconds of each kind in this process."""
        meter = self.trainer.meter
        return {name: (meter.work[name], meter.seconds[name]) for name in meter.work}

    def _rates(self, spent: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Collected steps, updates and imagined steps per second of their own time."""
        rates = {}
        steps, took = spent.get("collect", (0, 0.0))
        if took:
            rates["env_steps_s"] = steps / took
        learned = [x for name, x in spent.items() if name != "collect"]
        if took := sum(t for _, t in learned):
            rates["updates_s"] = sum(n for n, _ in learned) / took
        updates, took = spent.get("policy", (0, 0.0))
        if took:
            rates["dreamed_steps_s"] = updates * self.imagined / took
        return rates
