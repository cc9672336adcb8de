"""Real processes, signalled and killed: what a checkpoint holds is never lost."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runners import cli
from runners.checkpoint import Checkpoints, load
from runners.run_folder import list_runs, read_summary
from runners.train import main
from tests.runs import CRAFTER, differences, essence, small

ROOT = Path(__file__).parent.parent
CLOCKED = ("time", "speed/", "memory/")


def command(words: list[str]) -> None:
    """What a process of `servers` runs."""
    sys.exit(cli.main(words))


def servers() -> Any:
    """Starts processes that have torch already: importing it takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_interrupt", "envs.crafter"])
    return context


def wait(condition: Callable[[], bool], seconds: float = 200) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "nothing happened"
        time.sleep(0.002)


def committed(run: Path) -> int:
    """Steps and updates that the newest checkpoint holds, -1 without one."""
    last = Checkpoints(run / "checkpoints", keep=2).last()
    if last is None:
        return -1
    position = load(last)["position"]
    return int(position["steps"] + sum(position["updates"].values()))


def touched(run: Path) -> int:
    """Changes whenever something happens to a checkpoint."""
    folder = run / "checkpoints"
    return folder.stat().st_mtime_ns if folder.exists() else 0


def has_worked(run: Path) -> bool:
    """Whether its newest checkpoint is not that of its beginning."""
    last = Checkpoints(run / "checkpoints", keep=2).last()
    return last is not None and int(last.name) > 0


def final(run: Path) -> dict[str, Any]:
    last = Checkpoints(run / "checkpoints", keep=2).last()
    assert last is not None
    return essence(load(last))


def curves(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what the clock says."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(CLOCKED)} for r in records]


def tensorboard(run: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal."""
    return main(small(f"root={tmp_path_factory.mktemp('whole')}", "name=whole"))


def test_a_run_killed_ten_times_is_the_run_that_was_not(
    tmp_path: Path, uninterrupted: Path
) -> None:
    words = [*CRAFTER, f"root={tmp_path}", "name=killed", "run.checkpoint_minutes=1e-9"]
    run = tmp_path / "crafter" / "delta_iris" / "killed"
    context, moments = servers(), random.Random(0)
    kept, history = -1, []
    for life in range(10):
        arguments = ["resume", str(run)] if run.exists() else ["train", *words]
        process = context.Process(target=command, args=(arguments,))
        process.start()
        if life % 3 == 0:
            time.sleep(moments.uniform(0.0, 1.5))
        else:
            for _ in range(moments.randint(1, 24)):
                before = touched(run)
                wait(functools.partial(lambda old: touched(run) != old, before))
            time.sleep(moments.uniform(0.0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was killed while it worked"
        assert committed(run) >= kept, "a checkpoint was lost"
        kept = committed(run)
        history.append(kept)
    assert len(set(history)) > 3, f"it was killed at different moments of its work: {history}"
    process = context.Process(target=command, args=(["resume", str(run)],))
    process.start()
    process.join(200)
    assert process.exitcode == 0 and read_summary(run)["status"] == "finished"
    assert differences(final(uninterrupted), final(run)) == []
    assert curves(uninterrupted) == curves(run)
    for tag in ("world_model/loss", "eval/return"):
        assert tensorboard(uninterrupted, tag) == tensorboard(run, tag)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signalled_run_saves_and_goes_on(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals, code: int
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["train", *CRAFTER, "root=runs", "env.workers=1", "run.checkpoint_minutes=1e-9"]
    process = subprocess.Popen(
        [sys.executable, "-m", "runners", *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait(lambda: any(has_worked(r.path) for r in list_runs(tmp_path / "runs")))
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=200)
    (run,) = list_runs(tmp_path / "runs")
    assert process.returncode == code and err == ""
    assert f"go on with: tokendream resume {run.path.name}" in out
    assert run.status == "interrupted" and 0 < run.steps < 60
    context = servers()
    again = context.Process(target=command, args=(["resume", str(run.path), "env.workers=0"],))
    again.start()
    again.join(200)
    assert again.exitcode == 0 and read_summary(run.path)["status"] == "finished"
    assert differences(final(uninterrupted), final(run.path)) == []
    assert curves(uninterrupted) == curves(run.path)
    for tag in ("world_model/loss", "eval/return"):
        assert tensorboard(uninterrupted, tag) == tensorboard(run.path, tag)
