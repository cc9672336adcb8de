"""Run folders: made whole, found by little, worked on by one process."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runners.errors import UserError
from runners.run_folder import (
    create_run,
    find_run,
    is_locked,
    list_runs,
    lock_run,
    note_command,
    read_summary,
    write_summary,
)


def make_run(root: Path, name: str | None = None, *, env: str = "crafter", seed: int = 0) -> Path:
    command = ["tokendream", "train", "name=a b"]
    return create_run(
        root,
        env=env,
        agent="delta_iris",
        seed=seed,
        config="seed: 0\n",
        command=command,
        name=name,
    )


def test_a_new_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", seed=7)
    assert run.parent == tmp_path / "runs" / "crafter" / "delta_iris"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_s7_[a-z2-9]{4}", run.name)
    assert sorted(os.listdir(run)) == [
        "command.txt",
        "config.yaml",
        "summary.json",
        "versions.json",
    ]
    assert os.listdir(run.parent) == [run.name]
    assert (run / "config.yaml").read_text() == "seed: 0\n"
    note_command(run, ["tokendream", "resume", "last"])
    commands = (run / "command.txt").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in commands] == [
        "tokendream train 'name=a b'",
        "tokendream resume last",
    ]
    versions = json.loads((run / "versions.json").read_text())
    assert versions["packages"]["numpy"] and versions["cpu"] and versions["cores"] >= 1
    assert versions["git"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", versions["git"])


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "last", ""])
def test_names_must_be_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"name=.*: expected a plain folder name"):
        make_run(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_taken_name_and_a_bad_root_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "mine")
    with pytest.raises(UserError, match=r"name=mine: .* exists; resume it"):
        make_run(tmp_path, "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make .*: Not a directory"):
        make_run(tmp_path / "file")
    with pytest.raises(UserError, match="cannot make "):
        make_run(Path("/proc/nothing"))


def test_runs_are_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run under .* yet; `tokendream train` starts one"):
        find_run("last", tmp_path)
    made = [make_run(tmp_path, name) for name in ("2026-01-01_a", "2026-01-02_b", "2026-01-02_bc")]
    other = make_run(tmp_path, "2026-01-01_a", env="atari")
    for day, run in enumerate([made[2], made[0], other, made[1]]):
        write_summary(run, started=f"2026-01-{day + 1:02d}T10:00:00")
    assert find_run("last", tmp_path) == made[1]
    assert find_run(str(made[0]), tmp_path / "elsewhere") == made[0]
    assert find_run("2026-01-02_bc", tmp_path) == made[2]
    assert find_run("2026-01-02_b", tmp_path) == made[1], "a whole name beats a prefix"
    assert find_run("atari/", tmp_path) == other
    assert find_run("crafter/delta_iris/2026-01-01", tmp_path) == made[0]
    both = "crafter/delta_iris/2026-01-01_a, atari/delta_iris/2026-01-01_a"
    with pytest.raises(UserError, match=f"run '2026-01-01' means 2 runs: {both}"):
        find_run("2026-01-01", tmp_path)
    with pytest.raises(UserError, match="did you mean 2026-01-02_b"):
        find_run("2026-02-02_b", tmp_path)
    with pytest.raises(UserError, match="that folder has no config.yaml; did you mean"):
        find_run(str(tmp_path), tmp_path)
    with pytest.raises(UserError, match="did you mean"):
        find_run("", tmp_path)


def test_many_candidates_are_cut_short(tmp_path: Path) -> None:
    for number in range(11):
        make_run(tmp_path, f"x{number:02d}")
    with pytest.raises(UserError, match=r"means 11 runs: .*x03, .*x10 and 3 older"):
        find_run("x", tmp_path)


def test_list_reads_summaries(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    one, two, three = (make_run(tmp_path, name, seed=3) for name in "abc")
    write_summary(one, status="finished", steps=500, last_return=2.5, started="2026-01-01", note=1)
    write_summary(two, steps=70, started="2026-01-02")
    (three / "summary.json").write_text("{")
    (three.parent / ".new-d").mkdir()
    (three.parent / ".new-d" / "config.yaml").write_text("")
    first, second, third = list_runs(tmp_path)
    assert (first.path, first.env, first.agent, first.seed) == (one, "crafter", "delta_iris", 3)
    assert (first.status, first.steps, first.last_return) == ("finished", 500, 2.5)
    assert second.status == "interrupted", "it says running, but no process holds it"
    assert (third.status, third.env, third.steps) == ("damaged", "crafter", 0)
    assert read_summary(one)["note"] == 1
    with lock_run(two):
        assert list_runs(tmp_path)[1].status == "running"
    for text in ("{", "[]"):
        (three / "summary.json").write_text(text)
        with pytest.raises(UserError, match=r"summary\.json is damaged"):
            read_summary(three)
    with pytest.raises(UserError, match="is not a run folder"):
        read_summary(tmp_path)


HOLDER = """
import os, sys, time
from pathlib import Path
from runners.run_folder import lock_run
with lock_run(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    else:
        os.close(1)
    time.sleep(60)
"""


def test_one_process_holds_a_run_until_it_dies(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert not is_locked(run)
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            assert is_locked(run)
            message = rf"run {run.name} is in use by process {holder.pid} on "
            with pytest.raises(UserError, match=message), lock_run(run):
                pass
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert not is_locked(run), "a worker that outlives the process does not hold the run"
            with lock_run(run):
                assert is_locked(run)
                with pytest.raises(UserError, match=f"process {os.getpid()} on"), lock_run(run):
                    pass
            with lock_run(run):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_full_disk_is_told_when_a_command_is_noted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
        with pytest.raises(UserError, match=f"cannot write to {run}"):
            note_command(run, ["tokendream", "resume", "last"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_torch() -> None:
    code = "import sys, runners.run_folder; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
