"""Grids of vectors: what lies where, what is nearest, and what never moves."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from runners.checkpoint import load, save
from tests.nets import no_waiting
from tests.quantizers import same, state
from worldmodels.nets.heads import symexp, symlog
from worldmodels.tokenizers.bins import Bins
from worldmodels.tokenizers.grids import GRIDS

KINDS = sorted(GRIDS)
FITTED = sorted(name for name, kind in GRIDS.items() if kind.fitted)
FIXED = sorted(set(KINDS) - set(FITTED))
DIMS = 9


def warm_up(count: int = 1000, seed: int = 0) -> Tensor:
    """(N,9): wide, narrow, far from 0, huge, constants, a flag, counts, mostly one value."""
    rng = torch.Generator().manual_seed(seed)
    wide = torch.randn(count, 4, generator=rng) * torch.tensor([20.0, 1e-3, 0.5, 1e4])
    wide[:, 2] += 1000
    steps = torch.arange(count)
    rest = [torch.zeros(count), torch.full((count,), -7.3), steps % 2, steps % 5 - 2.0]
    rare = torch.where(steps % 50 == 0, wide[:, 0], 1.0)
    return torch.cat((wide, torch.stack([*rest, rare], 1)), 1)


def bins(grid: str, values: int = 125, seed: int = 0) -> Bins:
    net = Bins(size=DIMS, grid=grid, values=values)
    net.fit(warm_up(seed=seed))
    return net


def line(net: Bins, points: int = 3001) -> Tensor:
    """(N,9): over the grid of each dimension and beyond its ends."""
    low, high = net.support[:, 0], net.support[:, -1]
    place = torch.linspace(-0.1, 1.1, points)[:, None]
    return low + place * (high - low)


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_read_as_itself(kind: str) -> None:
    net = bins(kind)
    assert net.support.shape == (DIMS, 125) and (net.support.diff(dim=1) > 0).all()
    every = torch.arange(125)[:, None].expand(-1, DIMS)
    values = net.decode(every)
    assert torch.equal(values, net.support.T)
    assert torch.equal(net.encode(values), every)
    assert torch.equal(net.encode(values.double()), every)


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_value_is_chosen_and_more_is_more(kind: str) -> None:
    """Nearest as grids count: those of symlog in symlog units."""
    net = bins(kind)
    for x in (line(net), warm_up(), symexp(line(net) / net.support[:, -1:].T * 8)):
        tokens = net.encode(x)
        ordered = net.encode(x.sort(0).values)
        assert (ordered.diff(dim=0) >= 0).all()
        unit = symlog if "symlog" in kind else torch.Tensor.double
        apart = (unit(x.double())[..., None] - unit(net.support.double())).abs()
        found = apart.gather(-1, tokens[..., None])[..., 0]
        # What lies on an edge may go either way by the rounding of this test.
        slack = 3e-7 * unit(net.support.double()).abs().amax() if "symlog" in kind else 0
        least = apart.min(-1)
        rounding = 1e-6 * unit(x.double()).abs() + 1e-12
        assert (found <= least.values + slack + rounding).all()
        wrong = tokens != least.indices
        assert wrong.float().mean() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_at_most_half_the_spacing_around(kind: str) -> None:
    net = bins(kind)
    x = torch.rand(4000, DIMS) * (net.support[:, -1] - net.support[:, 0]) + net.support[:, 0]
    x = torch.cat((x, warm_up().clamp(net.support[:, 0], net.support[:, -1])))
    tokens = net.encode(x)
    unit = symlog if "symlog" in kind else torch.Tensor.double
    support = unit(net.support.double())
    ends = torch.nn.functional.pad(support.diff(dim=1), (1, 1))
    half = torch.maximum(ends[:, 1:], ends[:, :-1]) / 2
    allowed = half[torch.arange(DIMS), tokens]
    error = (unit(net.decode(tokens).double()) - unit(x.double())).abs()
    assert (error <= allowed * 1.001 + 1e-6 * unit(x.double()).abs()).all()


def test_a_number_half_way_goes_down() -> None:
    net = Bins(size=1, grid="uniform", values=13)
    net.fit(torch.arange(0.0, 101.0)[:, None])
    expected = torch.arange(-10.0, 111.0, 10.0)
    torch.testing.assert_close(net.support[0], expected, atol=1e-5, rtol=0)
    net.support.copy_(expected)
    net.edges.copy_(expected[:-1] + 5)
    assert net.encode(torch.tensor([[-5.0], [-4.99], [5.0], [5.001]]))[:, 0].tolist() == [
        0,
        1,
        1,
        2,
    ]


def test_simulus_values_are_its_own() -> None:
    """63 from 0 up: 32 even in symlog units to ln(1+pi), 31 more even ones to 6; and mirrored."""
    net = Bins(size=2, grid="symlog_two_densities", values=125)
    joint = math.log(1 + math.pi)
    place = [joint * k / 31 for k in range(32)]
    place += [joint + (6 - joint) * k / 31 for k in range(1, 32)]
    expected = [math.expm1(y) for y in place]
    both = torch.tensor([-v for v in expected[:0:-1]] + expected)
    assert len(both) == 125
    torch.testing.assert_close(net.support, both.expand(2, -1), atol=1e-7, rtol=1e-6)
    assert net.support[0, 62] == 0
    torch.testing.assert_close(net.support, -net.support.flip(1), atol=0, rtol=0)
    values = torch.randn(500, 2) * 30
    oracle = (symlog(values)[..., None] - torch.tensor(place)).abs().argmin(-1)
    positive = values > 0
    assert torch.equal(net.encode(values)[positive], oracle[positive] + 62)


@pytest.mark.parametrize("kind", FIXED)
def test_fixed_grids_ask_for_no_data(kind: str) -> None:
    net = Bins(size=DIMS, grid=kind, values=125)
    before = state(net)
    for seed in (1, 2):
        net.fit(warm_up(seed=seed))
    assert same(state(net), before) and net.fitted
    torch.testing.assert_close(net.support[:, -1], torch.full((DIMS,), math.expm1(6)))


def test_core_and_tails_are_where_they_should_be() -> None:
    data = torch.cat((torch.linspace(-1, 3, 500)[:, None], torch.linspace(5, 6, 500)[:, None]), 1)
    net = Bins(size=2, grid="core_tails", values=125)
    net.fit(data)
    torch.testing.assert_close(net.support[0, 16:-16], torch.linspace(-2, 4, 93))
    torch.testing.assert_close(net.support[1, 16:-16], torch.linspace(4.75, 6.25, 93))
    far = math.exp(6)
    assert net.support[:, 0].tolist() == pytest.approx([-far] * 2)
    assert net.support[:, -1].tolist() == pytest.approx([far] * 2)
    for tail in (net.support[:, -17:], net.support[:, :17]):
        steps = symlog(tail).diff(dim=1)
        torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=1e-4)


def test_data_beyond_the_tails_has_tails_of_its_own() -> None:
    net = bins("core_tails")
    high = warm_up()[:, 3].max()
    assert high > 2e4 and net.support[3, -1] > 2 * high and net.support[3, 0] < -2 * high


@pytest.mark.parametrize("kind", FITTED)
def test_data_grids_cover_the_data_they_saw(kind: str) -> None:
    net, data = bins(kind), warm_up()
    if kind != "quantile":
        assert (net.support[:, 0] <= data.amin(0)).all()
        assert (net.support[:, -1] >= data.amax(0)).all()
    shown = net.decode(net.encode(data))
    spread = data.var(0).clamp_min(1e-12)
    error = (shown - data).square().mean(0) / spread
    # Wide, narrow, far off and huge ones alike.
    assert error[:4].max() < (0.02 if kind == "quantile" else 2e-3)
    constant = [4, 5]
    torch.testing.assert_close(shown[:, constant], data[:, constant], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["core_tails", "uniform"])
def test_constants_flags_and_counts_are_exact(kind: str) -> None:
    net, data = bins(kind), warm_up()
    shown = net.decode(net.encode(data))
    assert torch.equal(shown[:, 4:8], data[:, 4:8])


def test_few_values_that_are_almost_alike_bend_no_grid() -> None:
    net = Bins(size=1, grid="uniform", values=13)
    net.fit(torch.tensor([0.0, 44.999996, 45.000004, 100.0])[:, None])
    torch.testing.assert_close(net.support[0], torch.linspace(-10, 110, 13))


def test_a_constant_that_moves_later_is_told_by_a_scale_of_one() -> None:
    net = bins("core_tails")
    later = warm_up()[:100]
    later[:, 4] = torch.linspace(-1, 1, 100)
    shown = net.decode(net.encode(later))
    assert (shown[:, 4] - later[:, 4]).abs().max() < 0.02


def test_quantiles_are_quantiles() -> None:
    data = torch.randn(5000, 1).exp()
    net = Bins(size=1, grid="quantile", values=25)
    net.fit(data)
    share = (torch.arange(25) + 0.5) / 25
    torch.testing.assert_close(net.support[0], data[:, 0].quantile(share), atol=1e-3, rtol=1e-3)
    used = net.encode(data)[:, 0].bincount(minlength=25) / 5000
    assert used.min() > 0.02 and used.max() < 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_no_dimension_hears_of_another(kind: str) -> None:
    net, data, other = bins(kind), warm_up(seed=5), warm_up(seed=6)
    tokens = net.encode(data)
    for d in range(DIMS):
        changed = other.clone()
        changed[:, d] = data[:, d]
        assert torch.equal(net.encode(changed)[:, d], tokens[:, d])
        alone = Bins(size=1, grid=kind, values=125)
        alone.fit(warm_up()[:, d : d + 1])
        assert torch.equal(alone.support[0], net.support[d])
        assert torch.equal(alone.encode(data[:, d : d + 1])[:, 0], tokens[:, d])


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (2, 0), (2, 3, 4)])
def test_any_leading_shape_equals_one_number_at_a_time(shape: tuple[int, ...]) -> None:
    net = bins("core_tails")
    x = torch.randn(*shape, DIMS) * 30
    tokens = net.encode(x)
    assert tokens.shape == x.shape and tokens.dtype == torch.int64
    for index in product(*map(range, x.shape)):
        d = index[-1]
        one = int((x[index] > net.edges[d]).sum())
        assert tokens[index] == one
        assert net.decode(tokens)[index] == net.support[d, one]
    embedded = net.embed(tokens)
    assert embedded.shape == (*x.shape, net.dim) and embedded.dtype == torch.float32
    assert not embedded.numel() or embedded.abs().max() < 12
    torch.testing.assert_close(embedded[..., 0], symlog(net.decode(tokens)))


def test_what_is_far_out_is_the_end_and_what_is_no_number_is_refused() -> None:
    net = bins("core_tails")
    far = torch.tensor([torch.inf, 3e38, -3e38, -torch.inf])[:, None].expand(-1, DIMS)
    assert net.encode(far)[:, 0].tolist() == [124, 124, 0, 0]
    with pytest.raises(RuntimeError, match="not a number"):
        net.encode(torch.full((2, DIMS), torch.nan))
    for wrong in (torch.nan, torch.inf):
        fresh, data = Bins(size=DIMS, grid="uniform", values=125), warm_up()
        data[3, 2] = data[5, 7] = wrong
        with pytest.raises(ValueError, match=r"dimensions \[2, 7\]"):
            fresh.fit(data)
        assert not fresh.fitted


@pytest.mark.parametrize("kind", FITTED)
def test_a_grid_is_laid_once(kind: str) -> None:
    fresh = Bins(size=DIMS, grid=kind, values=125)
    default = Bins(size=DIMS, grid="symlog", values=125)
    assert torch.equal(fresh.support, default.support) and not fresh.fitted
    with pytest.raises(ValueError, match="no data"):
        fresh.fit(torch.zeros(0, DIMS))
    fresh.fit(warm_up())
    before = state(fresh)
    with pytest.raises(ValueError, match="laid already"):
        fresh.fit(warm_up(seed=1))
    assert same(state(fresh), before) and fresh.fitted


def test_numbers_of_values_a_grid_cannot_have_are_refused() -> None:
    for kind, wrong in (("core_tails", 124), ("core_tails", 3), ("symlog_two_densities", 127)):
        with pytest.raises(ValueError, match=f"not {wrong}"):
            Bins(size=2, grid=kind, values=wrong)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", [5, 9, 33, 257])
def test_grids_come_in_all_sizes(kind: str, values: int) -> None:
    net = bins(kind, values)
    every = torch.arange(values)[:, None].expand(-1, DIMS)
    assert torch.equal(net.encode(net.decode(every)), every)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("kind", FITTED)
def test_grids_ascend_whatever_the_scale(kind: str, scale: float) -> None:
    for offset in (0.0, 1.0, -1e4):
        net = Bins(size=1, grid=kind, values=125)
        net.fit(scale * (torch.randn(300, 1) * 1e-3 + offset))
        every = torch.arange(125)[:, None]
        assert net.support.isfinite().all()
        assert torch.equal(net.encode(net.decode(every)), every)


def test_loss_is_the_error_in_the_units_of_the_environment() -> None:
    net, x = bins("core_tails"), warm_up(24).unflatten(0, (4, 6)).contiguous()
    x[0, 0, 0] = 5000
    counted = torch.rand(4, 6) < 0.6
    counted[0, 0] = True
    loss = net.loss(x, counted)
    error = (net.decode(net.encode(x)) - x)[counted]
    expected = {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "worst": error.square().amax(-1).mean(),
        "clipped": torch.tensor(1 / (DIMS * len(error))),
    }
    torch.testing.assert_close(loss.parts, expected)
    assert loss.total == loss.parts["l2"] and not loss.total.requires_grad
    other = torch.where(counted[..., None], x, torch.randn_like(x))
    torch.testing.assert_close(net.loss(other, counted).parts, loss.parts)


def test_only_counts_move_and_padding_is_not_counted() -> None:
    net, x = bins("core_tails"), warm_up(24).unflatten(0, (4, 6))
    before, counted = state(net), torch.rand(4, 6) < 0.6
    loss = net.loss(x, counted)
    assert same(state(net), before) and not list(net.parameters())
    metrics = net.learn(loss.learn)
    assert all(v.isfinite() and not v.ndim for v in metrics.values())
    moved = {k for k, v in state(net).items() if not torch.equal(v, before[k])}
    assert moved == {"usage.share", "usage.idle"}
    tokens = net.encode(x)[counted]
    pooled = tokens.flatten().bincount(minlength=125) / tokens.numel()
    assert metrics["code_usage"] == (pooled > 0).float().mean()
    assert 1 < metrics["slot_perplexity"] < metrics["perplexity"]


def test_a_saved_grid_is_the_same_grid(tmp_path: Path) -> None:
    net, other = bins("core_tails"), Bins(size=DIMS, grid="core_tails", values=125)
    save(tmp_path / "saved", {"model": net.state_dict()})
    other.load_state_dict(load(tmp_path / "saved")["model"])
    assert same(state(net), state(other)) and other.fitted
    torch.save(net.state_dict(), tmp_path / "plain")
    other.load_state_dict(torch.load(tmp_path / "plain", weights_only=True))
    with pytest.raises(ValueError, match="laid already"):
        other.fit(warm_up())


def test_nothing_waits_for_the_host_and_autocast_changes_no_token() -> None:
    net, x = bins("core_tails"), warm_up(24).unflatten(0, (4, 6))
    tokens = net.encode(x)
    with no_waiting():
        net.embed(net.encode(x))
        net.decode(tokens)
        net.learn(net.loss(x, torch.ones(4, 6).bool()).learn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net.encode(x), tokens)
