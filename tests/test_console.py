"""What a run shows while it runs, on a terminal and elsewhere, and what it says at the end."""

from __future__ import annotations

import io
import os
import pty
import re
import select
from dataclasses import replace
from itertools import pairwise

import pytest

from runners.console import (
    BATCH_VARIABLES,
    FinalReport,
    PlainConsole,
    RichConsole,
    Status,
    TimeLeft,
    duration,
    final_table,
    open_console,
)

STATUS = Status(
    phase="world_model",
    step=12_000,
    num_steps=48_000,
    epoch=3,
    num_epochs=12,
    done=20,
    due=500,
    seconds=75,
    seconds_left=3 * 3600 + 120,
    ret=2.125,
    eval_ret=3.5,
    speeds={"collect, steps/s": 512.4, "updates/s": 3.14159},
    memory={"RAM": 1.23},
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_every_ten_seconds_and_with_new_phases() -> None:
    stream, clock = io.StringIO(), Clock()
    console = PlainConsole(stream, clock)
    for second in range(31):
        clock.now = float(second)
        phase = "collect" if second < 5 or second > 7 else "tokenizer"
        console.show(replace(STATUS, phase=phase, step=second))
    steps = [int(s) for s in re.findall(r"step (\d+)/", stream.getvalue())]
    assert steps == [0, 5, 15, 25]
    console.note("saved")
    assert stream.getvalue().endswith("saved\n")


def test_a_plain_line_says_everything() -> None:
    stream = io.StringIO()
    PlainConsole(stream).show(STATUS)
    assert stream.getvalue() == (
        "step 12,000/48,000 (25.0%)  epoch 3/12  world model 20/500  "
        "1 min 15 s, left: 3 h 02 min  return 2.12, evaluation 3.50  "
        "collect 512 steps/s, updates/s 3.14  RAM 1.2 GiB\n"
    )


def test_unknown_numbers_are_left_out() -> None:
    stream = io.StringIO()
    PlainConsole(stream).show(Status(phase="collect", step=0, num_steps=0))
    assert stream.getvalue() == "step 0/0 (0.0%)  collect  0 s, left: measuring\n"


def on_terminal(act: object) -> str:
    """What arrives at a real pseudo-terminal."""
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        assert callable(act)
        act(stream)
        stream.flush()
        # A read gives what the kernel has passed on so far, which may be a part.
        parts = []
        while select.select([leader], [], [], 0.3)[0]:
            parts.append(os.read(leader, 65536))
    os.close(leader)
    return b"".join(parts).decode()


def test_the_live_block_is_drawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BATCH_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def act(stream: io.TextIOWrapper) -> None:
        console = open_console("auto", stream)
        assert isinstance(console, RichConsole)
        console.show(STATUS)
        console.note("checkpoint [0012000] saved")
        console.show(replace(STATUS, phase="policy", step=13_000))
        console.close()
        console.close()

    text = on_terminal(act)
    assert "12,000/48,000" in text and "13,000/48,000" in text and "left: 3 h 02 min" in text
    assert "checkpoint [0012000] saved" in text
    assert "\x1b[1A" in text, "moves up to draw over the old block"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "gives the cursor back"


def test_auto_is_plain_in_pipes_and_batch_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_console("auto", io.StringIO()), PlainConsole)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("SLURM_JOB_ID", "1")

    def act(stream: io.TextIOWrapper) -> None:
        assert isinstance(open_console("auto", stream), PlainConsole)
        stream.write("x")

    assert on_terminal(act) == "x"


def test_time_left_counts_all_kinds_of_work() -> None:
    left = TimeLeft()
    remaining = {"collect": 1000, "policy": 50, "tokenizer": 0}
    assert left.estimate(remaining) is None
    left.measure({"collect": 100}, {"collect": 1.0})
    assert left.estimate(remaining) == pytest.approx(1000 / 100)
    assert not left.complete(remaining)
    left.measure({"collect": 100, "policy": 10}, {"collect": 1.0, "policy": 5.0})
    assert left.estimate(remaining) == pytest.approx(1000 / 100 + 50 / 2)
    assert left.complete(remaining)
    assert left.estimate({"collect": 0, "policy": 0}) == 0


def test_time_left_follows_a_change_of_speed() -> None:
    left = TimeLeft(half_life=10)
    work = seconds = 0.0
    for _ in range(100):
        work, seconds = work + 10, seconds + 0.1
        left.measure({"collect": work}, {"collect": seconds})
    assert left.estimate({"collect": 100}) == pytest.approx(1, rel=0.01)
    guesses = []
    for _ in range(100):
        work, seconds = work + 10, seconds + 1.0
        left.measure({"collect": work}, {"collect": seconds})
        guesses.append(left.estimate({"collect": 100}) or 0)
    assert all(a <= b for a, b in pairwise(guesses))
    assert guesses[-1] == pytest.approx(10, rel=0.02)


def test_final_table() -> None:
    report = FinalReport(
        title="finished",
        ret=3.4212,
        ret_low=3.1,
        ret_high=3.75,
        episodes=64,
        steps=20_000,
        frames=80_000,
        seconds=900,
        scores={"Crafter score": "4.1 %"},
        speeds={"collect, steps/s": 512.0},
        memory={"RAM": 1.3},
        places={"run": "runs/a/b", "pictures": "runs/a/b/media"},
        commands=("tokendream evaluate last", "tokendream imagine last"),
    )
    table = final_table(report)
    table.encode("ascii")
    lines = table.splitlines()
    assert "evaluation return  3.42, 95 % interval 3.10 to 3.75, 64 episodes" in lines
    assert "steps              20,000 (80,000 frames)" in lines
    assert "time               0.25 hours (15 min 00 s)" in lines
    assert "next               tokendream evaluate last" in lines
    assert "                   tokendream imagine last" in lines
    assert "frames" not in final_table(replace(report, frames=20_000))


def test_durations() -> None:
    shown = [duration(s) for s in (-1, 0.4, 59.7, 3599, 3600, 90_000)]
    assert shown == ["0 s", "0 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "1 d 1 h"]
