"""How the world model is told of actions: grids, tables, slots."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from tests.nets import no_waiting
from worldmodels.actions import (
    BinnedAction,
    DiscreteAction,
    FloatAction,
    MultiDiscreteAction,
    from_bins,
    to_bins,
)
from worldmodels.nets.init import init_normal
from worldmodels.nets.tables import SlotTables

WIDTH = 6


@pytest.mark.parametrize("bins", [2, 3, 11, 51, 52, 256])
def test_bins_are_even_reach_both_ends_and_are_read_as_themselves(bins: int) -> None:
    ids = torch.arange(bins)
    values = from_bins(ids, bins)
    assert values[0] == -1 and values[-1] == 1 and values.dtype == torch.float32
    torch.testing.assert_close(values, torch.linspace(-1, 1, bins))
    assert bins % 2 == 0 or values[bins // 2] == 0
    assert torch.equal(to_bins(values, bins), ids)
    line = torch.linspace(-1, 1, 4001)
    nearest = (line[:, None].double() - values.double()).abs().min(1)
    found = to_bins(line, bins)
    off = (from_bins(found, bins) - line).abs()
    torch.testing.assert_close(off, nearest.values.float(), atol=1e-6, rtol=0)
    assert (found.diff() >= 0).all()


def test_what_is_out_of_bounds_counts_as_the_end_and_ties_go_down() -> None:
    act = torch.tensor([-torch.inf, -3, 1.0001, torch.inf, -0.5, 0.5, -0.0])
    assert to_bins(act, 3).tolist() == [0, 0, 2, 2, 0, 1, 1]
    assert to_bins(act.double(), 3).tolist() == [0, 0, 2, 2, 0, 1, 1]


def test_an_action_that_is_not_a_number_is_no_action() -> None:
    net = BinnedAction(size=2, bins=5, width=WIDTH, join="slots")
    with pytest.raises(IndexError):
        net(torch.tensor([0.0, torch.nan]))


def test_slots_share_no_vector() -> None:
    sizes = (3, 5, 2)
    net = SlotTables(sizes=sizes, width=WIDTH)
    assert net.first.tolist() == [0, 3, 8] and net.table.num_embeddings == 10
    assert set(net.state_dict()) == {"table.weight"}
    rows = [{int(net.first[k]) + i for i in range(size)} for k, size in enumerate(sizes)]
    assert sorted(row for own in rows for row in own) == list(range(10)), "disjoint, none left"
    ids = torch.tensor([2, 4, 1])
    assert torch.equal(net(ids), net.table.weight[[2, 7, 9]])


def test_a_discrete_action_is_an_embedding() -> None:
    """Name and start of its weights are those that layouts have had: old files fit."""
    torch.manual_seed(1)
    net = DiscreteAction(actions=5, width=WIDTH)
    torch.manual_seed(1)
    plain = nn.Embedding(5, WIDTH)
    act = torch.randint(0, 5, (3, 4))
    assert set(net.state_dict()) == {"weight"} and net.slots == 1
    assert torch.equal(net(act), plain(act)[..., None, :])


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_every_codec_gives_a_vector_for_each_slot(shape: tuple[int, ...]) -> None:
    ids = torch.randint(0, 2, (*shape, 3))
    floats = torch.rand(*shape, 3) * 2 - 1
    codecs: list[tuple[nn.Module, Tensor, int]] = [
        (DiscreteAction(actions=2, width=WIDTH), ids[..., 0], 1),
        (MultiDiscreteAction(sizes=(2, 4, 3), width=WIDTH, join="slots"), ids, 3),
        (MultiDiscreteAction(sizes=(2, 4, 3), width=WIDTH, join="sum"), ids, 1),
        (BinnedAction(size=3, bins=11, width=WIDTH, join="slots"), floats, 3),
        (BinnedAction(size=3, bins=11, width=WIDTH, join="sum"), floats, 1),
        (FloatAction(size=3, hidden=16, width=WIDTH), floats, 1),
    ]
    with no_waiting():
        for net, act, slots in codecs:
            out = net(act)
            assert net.slots == slots and out.shape == (*shape, slots, WIDTH), net


def test_each_combination_of_choices_is_told_apart() -> None:
    sizes = (2, 3, 4)
    every = torch.tensor(list(product(*map(range, sizes))))
    apart = MultiDiscreteAction(sizes=sizes, width=WIDTH, join="slots")
    summed = MultiDiscreteAction(sizes=sizes, width=WIDTH, join="sum")
    summed.load_state_dict(apart.state_dict())
    torch.testing.assert_close(summed(every), apart(every).sum(1, keepdim=True))
    assert len(summed(every).unique(dim=0)) == len(every)
    for k in range(3):
        other = every.clone()
        other[:, k] = (other[:, k] + 1) % sizes[k]
        moved = (apart(other) != apart(every)).any(-1)
        assert moved[:, k].all() and moved.sum() == len(every)


def test_bins_are_choices_among_values() -> None:
    net = BinnedAction(size=2, bins=5, width=WIDTH, join="slots")
    act = torch.tensor([[-1.0, 1.0], [0.1, -0.3]])
    assert torch.equal(net(act), net.tables(torch.tensor([[0, 4], [2, 1]])))


def test_numbers_as_they_are_reach_the_model_at_a_useful_size() -> None:
    net, act = FloatAction(size=2, hidden=64, width=32), torch.rand(500, 2) * 2 - 1
    before = net(act)
    net.apply(init_normal)
    assert torch.equal(net(act), before) and before.std(0).mean() > 0.05
    x = act.requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None and (x.grad != 0).all(), "an action has a gradient"
