"""Kinds of dynamics beside each other: what is measured and told; no speed is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from runners import bench, bench_parts
from runners.bench_costs import Cost
from runners.bench_dynamics import FRAMES, Plan, begin, build, measure_dynamics, repeated
from runners.bench_grid import Cell, Grid, crossing, crossovers, grid_text, times
from runners.bench_table import Row
from runners.errors import UserError
from runners.settings.diffusion import DiffusionSettings, SpaceTimeSettings, TrunkHeadSettings
from runners.settings.load import load
from runners.settings.options import BenchOptions
from worldmodels.dynamics.blocks import BlockMemory
from worldmodels.dynamics.sequence import Memory


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def cell(rate: float, batch: int, steps: int, *, backbone: str = "block", note: str = "") -> Cell:
    """Of 16 tokens; with no steps an autoregressive one."""
    row = Row("", rate, FRAMES, rate, rate, 1, 1.0, note=note)
    if not steps:
        return Cell("autoregressive", "", 0, 16, batch, row, Cost(16, 48, 100))
    return Cell("diffusion", backbone, steps, 16, batch, row, Cost(steps + 1, 3, 100))


def test_all_dynamics_are_measured_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = partial(measure_dynamics, tokens=(2, 5), batches=(1, 6))
    monkeypatch.setattr(bench, "run_part", bench._measure)
    monkeypatch.setattr(bench_parts, "measure_dynamics", small)
    file = tmp_path / "bench.json"
    words = ["agent=diffusion", "size=tiny", "threads=1", "device=cpu", "precision=float32"]
    options = BenchOptions(parts=("dynamics",), seconds=0.01, json_file=str(file))
    bench.main(load(words).config, options)
    found = json.loads(file.read_text())
    assert found["rows"] == found["failed"] == [] and found["dynamics"]["peak_gib"] > 0.1
    cells = found["dynamics"]["cells"]
    names = {(c["dynamics"], c["backbone"], c["steps"]) for c in cells if c["tokens"] == 5}
    denoisers = {("diffusion", "trunk_head", steps) for steps in (1, 2, 4, 5)}
    others = {("diffusion", "block", 4), ("diffusion", "st", 4)}
    assert names == {("autoregressive", "", 0), ("parallel", "", 0)} | denoisers | others
    assert len(cells) == 2 * (4 + 8)
    for one in cells:
        row = one["row"]
        assert 0 < row["low"] <= row["value"] <= row["high"] and row["unit"] == FRAMES
        assert one["cost"]["flops"] > 0
    assert len(found["dynamics"]["crossovers"]) == 2 + 6
    told = capsys.readouterr()
    assert "by FLOPs" in told.out and "trunk_head of 2 + 1 layers" in told.out
    assert "2 tokens: batch 1.... batch 6...." in told.err


def test_all_nets_have_the_layers_and_width_of_the_settings() -> None:
    plan = Plan.of(load(["agent=diffusion"]).config.agent.dynamics)
    assert (plan.settings.layers, plan.settings.width, plan.settings.heads) == (7, 384, 6)
    for kind in plan.kinds(16):
        layers, settings = kind.settings.layers, kind.settings
        if isinstance(settings, DiffusionSettings):
            assert settings.sampler.steps == kind.steps
            if isinstance(settings.backbone, TrunkHeadSettings):
                layers += settings.backbone.head
        assert (layers, settings.width, settings.heads) == (7, 384, 6)


def test_a_net_of_few_layers_still_has_a_trunk() -> None:
    plan = Plan.of(load(["agent=iris", "size=tiny"]).config.agent.dynamics)
    assert plan.settings.layers == 2 and plan.backbone == TrunkHeadSettings(head=1)
    one = load(["agent=iris", "agent.dynamics.layers=1"]).config.agent.dynamics
    assert Plan.of(one).settings.layers == 2


def test_heads_that_cannot_be_turned_are_refused() -> None:
    words = ["agent=iris", "agent.dynamics.width=12", "agent.dynamics.heads=4"]
    with pytest.raises(UserError, match="even width"):
        Plan.of(load(words).config.agent.dynamics)


def test_all_dynamics_know_the_same_past() -> None:
    plan = Plan.of(load(["agent=diffusion", "size=tiny"]).config.agent.dynamics)
    sizes = plan.sizes(3)
    for kind in plan.kinds(3):
        net = build(kind.settings, 3).eval()
        with torch.no_grad():
            memory = repeated(begin(net, sizes, torch.device("cpu")), 5)
            after, _ = net.step(memory, torch.zeros(5, dtype=torch.int64), None)
        assert memory.tokens.shape == after.tokens.shape == (5, 3)
        if isinstance(memory, BlockMemory):
            assert memory.past.filled == sizes.past and after.past.filled == sizes.past + 1
        else:
            assert isinstance(memory, Memory)
            # The first frame has no action; the newest tokens may wait.
            known = memory.cache.filled + memory.pending.shape[1]
            assert known == sizes.past * 4 - 1


@pytest.mark.parametrize("backbone", ["trunk_head", "st"])
def test_nets_multiply_as_much_as_is_counted(backbone: str) -> None:
    """Torch's own count, which also has the heads of reward and end, alike in all dynamics."""
    settings = load(["agent=diffusion", "size=tiny"]).config.agent.dynamics
    assert isinstance(settings, DiffusionSettings)
    if backbone == "st":
        settings = settings.model_copy(update={"backbone": SpaceTimeSettings()})
    plan, tokens, rows = Plan.of(settings), 5, 3
    for kind in plan.kinds(tokens):
        net = build(kind.settings, tokens).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            memory = begin(net, plan.sizes(tokens), torch.device("cpu"))
            memory = repeated(memory, rows)
            before = counter.get_total_flops()
            net.step(memory, torch.zeros(rows, dtype=torch.int64), None)
            flops = (counter.get_total_flops() - before) // rows
        heads = 2 * net.width * (2 * net.width + net.reward.size + 2)
        assert flops - heads == kind.cost(plan.sizes(tokens)).flops, kind


def test_the_table_has_a_line_for_each_batch_and_each_way_to_count() -> None:
    cells = [cell(10, 1, 0), cell(1000, 64, 0), cell(80, 1, 4), cell(500, 64, 4, note="scaled")]
    cells += [cell(20, 1, 16), cell(40, 64, 16)]
    cells += [cell(30, 1, 4, backbone="st"), cell(700, 64, 4, backbone="st")]
    lines = grid_text(Grid("width 8", "block", cells)).splitlines()
    assert lines[:2] == [
        "dynamics alone: imagined frames per second of all rows together",
        "width 8",
    ]
    assert lines[3].split()[2:] == ["autoregressive", "K=4", "K=N", "st", "K=4"]
    assert lines[4].split()[2:] == ["10", "80", "(8.0x)", "20", "(2.0x)", "30", "(3.0x)"]
    assert lines[5].split()[2:] == ["1,000", "~500", "(0.50x)", "40", "(0.04x)", "700", "(0.70x)"]
    assert lines[6].split()[1:] == ["by", "calls", "1.0x", "3.2x", "0.94x", "3.2x"]
    assert [times(12.3), times(0.999), times(0.123)] == ["12x", "1.0x", "0.12x"]


def test_the_crossover_is_the_largest_batch_at_which_denoising_is_faster() -> None:
    slow = [cell(10, 1, 0), cell(1000, 64, 0), cell(2000, 512, 0)]
    fast = [cell(80, 1, 4), cell(1500, 64, 4), cell(1000, 512, 4)]
    never = [cell(1, batch, 16) for batch in (1, 64, 512)]
    grid = Grid("", "block", slow + [replace(c, cost=Cost(5, 20, 400)) for c in fast] + never)
    four, all_of_them = crossovers(grid)
    # 200 times faster by the batch, for a quarter of the multiplications.
    assert (four.measured, four.predicted) == (64, 50.0)
    assert (all_of_them.measured, all_of_them.predicted) == (None, None)
    assert "64 (50)" in grid_text(grid) and "none (all)" in grid_text(grid)


def test_more_layers_and_more_multiplications_are_never_faster() -> None:
    small, large = cell(10, 1, 0), cell(1000, 64, 0)
    assert crossing(small, large, Cost(20, 60, 400)) == 0.0
