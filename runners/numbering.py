"""The numbers that name a run's checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from runners.trainer import Position, Schedule


@dataclass
class Numbering:
    """Steps, and as those of the tail are all one, one more for each of its epochs begun.

    So a later checkpoint never has a lower number, even where a run went on after its tail, and
    that of an evaluation is not replaced by one of later updates. tails: epochs of the tail
    finished in the run's life. last: the last number given.
    """

    tails: int = 0
    last: int = 0

    def epoch(self, at: Position) -> None:
        """Count an epoch that has just ended; `at` is the beginning of the next."""
        self.tails += at.tail > 0

    def number(self, schedule: Schedule, at: Position) -> int:
        """The number of a checkpoint of this moment."""
        begun = schedule.in_tail(at) and any(at.done.values())
        self.last = max(self.last, at.steps + self.tails + int(begun))
        return self.last
