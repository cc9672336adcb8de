"""The bench measures every part of a run with real environments; no speed is asserted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from envs.probes import CountingDictGame
from envs.spaces import ObsSpace, observe
from envs.trees import each
from runners import bench
from runners.bench_parts import Bench
from runners.bench_table import (
    RATE,
    SECONDS,
    Row,
    comparable,
    references,
    table_text,
    times_faster,
    times_less_work,
)
from runners.bench_timing import repeat, time_batch
from runners.errors import UserError
from runners.hardware import Hardware
from runners.settings.config import Config
from runners.settings.load import load
from runners.settings.options import BenchOptions
from tests.runs import games

CPU = Hardware(torch.device("cpu"), torch.float32)


@pytest.fixture
def config() -> Iterator[Config]:
    """The smallest run, on one thread."""
    threads = torch.get_num_threads()
    yield load(["size=tiny", "run=debug", "threads=1", "device=cpu", "precision=float32"]).config
    torch.set_num_threads(threads)


def test_every_part_is_measured_printed_and_written(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process, as importing torch eight times takes most of a minute.
    monkeypatch.setattr(bench, "run_part", bench._measure)
    file = tmp_path / "bench.json"
    bench.main(config, BenchOptions(json_file=str(file), seconds=0.1))
    found = json.loads(file.read_text())
    rows = [Row(**row) for row in found["rows"]]
    assert {row.name for row in rows} >= {
        *("tokenizer update", "world model update", "policy update"),
        *("policy update, steps trained on", "imagined rollout with targets"),
        *("world model step alone", "acting, 1 environment", "acting, 16 environments"),
        *("environment alone, this process", "collecting, random actions"),
        *("collecting, with the policy", "replay batch, tokenizer", "replay batch, policy"),
    }
    printed = capsys.readouterr().out
    for row in rows:
        assert 0 < row.low <= row.value <= row.high and row.runs > 0 and row.unit in (SECONDS, RATE)
        assert row.peak_gib is not None and row.peak_gib > 0.1
        assert row.name in printed
    assert "size=tiny" in printed and "AMX" not in table_text(rows, compare=False)
    draws = [row for row in rows if row.name.startswith("replay batch")]
    assert len(draws) == 3 and all("% of an update" in row.note for row in draws)
    assert found["failed"] == [] and torch.__version__ == found["about"]["torch"]


def test_a_part_runs_in_its_own_process(config: Config) -> None:
    measured = bench.run_part("acting", config, 0.1)
    assert isinstance(measured, bench.Measured)
    assert [row.unit for row in measured.rows] == [RATE, RATE]
    assert measured.device == "cpu" and "float32" in measured.hardware


def test_a_part_without_memory_is_told_and_the_others_go_on(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("acting, 1 environment", 5.0, RATE, 5.0, 5.0, 1, 1.0)

    def run_part(part: str, config: Config, seconds: float) -> bench.Measured | bench.Failed:
        if part == "tokenizer":
            return bench.Failed(part, "out of memory")
        return bench.Measured([row], "cpu", "cpu", "2")

    monkeypatch.setattr(bench, "run_part", run_part)
    bench.main(config, BenchOptions())
    assert "not measured: tokenizer: out of memory" in capsys.readouterr().out


def test_a_missing_folder_for_the_json_file_is_told_first(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        bench.main(config, BenchOptions(json_file=str(tmp_path / "nowhere" / "bench.json")))


def test_only_the_published_size_on_a_cpu_is_compared() -> None:
    assert comparable(load([]).config, "cpu")
    assert not comparable(load([]).config, "cuda")
    assert not comparable(load(["size=tiny"]).config, "cpu")
    assert not comparable(load(["env=atari"]).config, "cpu")
    assert not comparable(load(["agent.phases.policy.batch=8"]).config, "cpu")


def test_faster_means_fewer_seconds_or_more_steps() -> None:
    known = references()
    update = Row("tokenizer update", 18.0, SECONDS, 18.0, 18.0, 1, 1.0)
    acting = Row("acting, 16 environments", 666.0, RATE, 666.0, 666.0, 1, 1.0)
    assert times_faster(update, known[update.name]) == pytest.approx(2.0)
    assert times_faster(acting, known[acting.name]) == pytest.approx(2.0)
    text = table_text([update, acting], compare=True)
    assert text.count("2.0 x") == 2 and "another machine" in text and "by CPU s" not in text


def test_one_thread_on_a_busy_machine_is_compared_by_its_own_seconds() -> None:
    known = references()
    update = Row("tokenizer update", 40.0, SECONDS, 40.0, 40.0, 1, cores=0.5)
    acting = Row("acting, 16 environments", 205.0, RATE, 205.0, 205.0, 1, cores=0.5)
    assert times_less_work(update, known[update.name]) == pytest.approx(2.0)
    assert times_less_work(acting, known[acting.name]) == pytest.approx(2.0)
    collecting = Row("collecting, with the policy", 50.0, RATE, 50.0, 50.0, 1, cores=0.5)
    assert times_less_work(collecting, known[collecting.name]) is None
    text = table_text([update, acting, collecting], compare=True, one_thread=True)
    assert text.count("2.0 x") == 2 and "by CPU s" in text


def test_a_batch_too_long_to_time_is_timed_in_part_and_scaled() -> None:
    asked: list[int] = []

    def work(rows: int) -> None:
        asked.append(rows)
        time.sleep(0.002 * rows)

    timing = time_batch(1000, lambda rows: rows, work, CPU, seconds=0.1)
    row = timing.row("work", SECONDS, "1000")
    assert timing.rows == asked[-1] < 200 and "scaled" in row.note
    # Sleep lasts as long as asked, or longer.
    assert row.value > 1.99


def test_work_is_repeated_while_it_fits_and_once_at_least() -> None:
    assert len(repeat(lambda: None, CPU, seconds=0.0)) == 1
    assert len(repeat(lambda: None, CPU, seconds=10.0, most=7)) == 7


def test_random_batches_are_of_the_environments_spaces(config: Config) -> None:
    env = games(CountingDictGame)
    trainer: Any = SimpleNamespace(hardware=CPU)
    batch = Bench(trainer, env, config, seconds=0.1).random_batch(50, 4)
    each(lambda space, x: check(space, x, (50, 5)), env.spec.obs, batch.obs)
    assert batch.act.shape == (50, 4, 2) and batch.act.dtype == torch.float32
    assert batch.act.min() < -0.9 and batch.act.max() > 0.9


def check(space: ObsSpace, frames: torch.Tensor, batch: tuple[int, int]) -> None:
    assert frames.shape == (*batch, *space.shape) and frames.numpy().dtype == space.dtype
    for frame in frames.flatten(0, 1).numpy():
        observe("", space, frame)
