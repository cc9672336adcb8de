"""When a run collects and learns, and what its checkpoints are called."""

from __future__ import annotations

from dataclasses import replace

from runners.numbering import Numbering
from runners.settings.load import load as settings
from runners.trainer import Position, Schedule


def test_the_published_schedules() -> None:
    for words, epochs in (
        (["env=crafter"], 1 + 990 + 9),
        (["env=atari"], 1 + 490 + 109),
        (["env=crafter", "size=tiny", "run=debug"], 1 + 2 + 1),
    ):
        run = settings(words).config.run
        schedule = Schedule(
            run.steps, run.first_steps, run.epoch_steps, run.tail_epochs, run.chunk_steps
        )
        assert schedule.epochs == epochs
        assert walk(schedule)[-1] == run.steps and len(walk(schedule)) == epochs


def test_checkpoints_of_a_run_that_goes_on_after_its_tail_keep_their_order() -> None:
    """Saved at each end of an epoch and within each, of runs made longer and stopped anywhere."""
    short, long = Schedule(16, 10, 6, 9, 5), Schedule(30, 10, 6, 3, 5)
    for stop in range(1, 12):
        at, numbering, ends, given = Position(), Numbering(), [], []
        for schedule in (replace(short, tail_epochs=min(9, stop)), long):
            epochs = schedule.epochs_left(at)
            for _ in range(min(epochs, stop) if schedule is not long else epochs):
                at.steps = schedule.target(at)
                at.done = {"policy": 1}
                given.append(numbering.number(schedule, at))
                at = schedule.next(at)
                numbering.epoch(at)
                given.append(numbering.number(schedule, at))
                ends.append(given[-1])
            if schedule is not long:
                at.done = {"policy": 1}
                given.append(numbering.number(schedule, at))
        assert given == sorted(given) and len(set(ends)) == len(ends), "none replaces another"
        assert given[-1] == at.steps + numbering.tails


def walk(schedule: Schedule, at: Position | None = None) -> list[int]:
    """Steps planned at the end of each epoch."""
    at, planned = at or Position(), []
    while schedule.epochs_left(at):
        left = schedule.epochs_left(at)
        planned.append(schedule.target(at))
        at = schedule.next(at)
        assert schedule.epochs_left(at) == left - 1
    return planned


def test_a_schedule_of_an_odd_number_of_steps() -> None:
    assert walk(Schedule(25, 10, 6, 2, 5)) == [10, 16, 22, 25, 25, 25]
    assert walk(Schedule(10, 10, 6, 0, 5)) == [10]
    assert walk(Schedule(7, 10, 6, 1, 5)) == [7, 7]


def test_a_longer_schedule_goes_on_at_the_same_pace() -> None:
    short, long = Schedule(16, 10, 6, 2, 5), Schedule(30, 10, 6, 2, 5)
    at = Position()
    while short.epochs_left(at):
        at = short.next(at)
    assert at.epoch == 5 and at.tail == 2
    assert walk(long, at) == [22, 28, 30, 30, 30]
