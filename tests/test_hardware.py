"""The machine as seen on other systems than this one, and its memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from envs.cores import available_cores
from envs.make import automatic_workers
from runners import cli
from runners.hardware import (
    bfloat16_unit,
    has_fast_bfloat16,
    open_hardware,
    peak_ram_gib,
    workers_gib,
)
from runners.versions import describe_versions


def test_all_cores_count_where_affinity_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    assert available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores() == 3 == automatic_workers(16) == describe_versions()["cores"]
    open_hardware("cpu", "float32", 0)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)


def test_another_system_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "name", "nt")
    code = cli.main(["list", "games"])
    monkeypatch.undo()
    assert code == 2
    assert capsys.readouterr().err == "error: tokendream runs on Linux and macOS\n"


def test_a_torch_that_cannot_tell_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert bfloat16_unit() is None and not has_fast_bfloat16("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert bfloat16_unit() == "AVX-512" and has_fast_bfloat16("cpu")


@pytest.mark.parametrize(("system", "unit"), [("linux", 2**20), ("darwin", 2**30)])
def test_the_peak_is_in_gib_everywhere(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    usage = SimpleNamespace(ru_maxrss=3 * unit)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(sys, "platform", system)
    assert peak_ram_gib() == 3.0


def test_memory_of_workers_counts(tmp_path: Path) -> None:
    before = workers_gib()
    code = "held = bytearray(b'x' * 2**27); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert 0.125 <= workers_gib() - before < 0.3
        worker.communicate(b"\n")
    assert workers_gib() <= before + 0.01
