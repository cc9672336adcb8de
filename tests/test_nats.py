"""What frames cost a dynamics, walked step by step, against the logits that its loss has."""

from __future__ import annotations

from itertools import permutations
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.diffusion import KINDS, PLAIN, diffusion, trained
from tests.nets import Net, scored, small_agent, tokens_of, windows
from worldmodels.diffusion.bounds import nll_at
from worldmodels.diffusion.processes import Noised
from worldmodels.dynamics import nats
from worldmodels.dynamics.nats import frame_nats, frame_nats_at, group_counts

BATCH = windows([(0, 4, 0)] * 3)
TOKENS = tokens_of(BATCH)
GOAL = TOKENS[:, 1:, :, None]


@pytest.mark.parametrize("layout", ["delta", "token"])
@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
def test_a_frame_costs_what_the_loss_says(kind: str, layout: str) -> None:
    at = "agent.dynamics."
    net = small_agent(f"{at}kind={kind}", f"{at}layout.kind={layout}").world_model.dynamics
    assert isinstance(net, Net)
    logits = scored(net, BATCH, TOKENS)["token_head"].float()
    expected = -logits.log_softmax(-1).gather(-1, GOAL).sum((-1, -2))
    torch.testing.assert_close(frame_nats(net, BATCH, TOKENS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["delta", "token"])
@pytest.mark.parametrize("backbone", KINDS)
def test_one_group_costs_what_the_loss_says_of_masks_alone(backbone: str, layout: str) -> None:
    net = diffusion(layout, backbone, *PLAIN)
    hidden = torch.ones_like(TOKENS[:, 1:], dtype=torch.bool)
    masks = Noised(torch.full_like(TOKENS[:, 1:], net.vocab), hidden, hidden.sum(-1))
    logits = trained(net, BATCH, TOKENS, masks)[1]["token_head"]
    expected = -logits.log_softmax(-1).gather(-1, GOAL).sum((-1, -2))
    torch.testing.assert_close(frame_nats(net, BATCH, TOKENS), expected, rtol=1e-4, atol=1e-4)
    at_once = frame_nats_at(net, BATCH, TOKENS, [1])[1]
    torch.testing.assert_close(at_once, expected, rtol=1e-4, atol=1e-4)


def test_groups_show_the_frame_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one given order of tokens, with the chain rule of the logits that the loss has."""
    net = diffusion("delta", "block", *PLAIN)
    order = list(permutations(range(4)))[9]
    ranked = torch.tensor(order).argsort().float()

    def in_order(denoise: Any, tokens: Any, vocab: int, sizes: Any, _: Any) -> Any:
        return nll_at(denoise, tokens, vocab, sizes, lambda shape: ranked.expand(shape) / 4)

    monkeypatch.setattr(nats, "nll_at", in_order)
    expected: dict[int, Any] = {2: 0.0, 4: 0.0}
    for n, total in expected.items():
        for first in range(0, 4, 4 // n):
            hidden = torch.zeros_like(TOKENS[:, 1:], dtype=torch.bool)
            hidden[..., list(order[first:])] = True
            z = TOKENS[:, 1:].masked_fill(hidden, net.vocab)
            logits = trained(net, BATCH, TOKENS, Noised(z, hidden, hidden.sum(-1)))[1]["token_head"]
            nll = -logits.log_softmax(-1).gather(-1, GOAL)[..., 0]
            total = total + nll[..., list(order[first : first + 4 // n])].sum(-1)
        expected[n] = total
    found = frame_nats_at(net, BATCH, TOKENS, [2, 4])
    for n, total in expected.items():
        torch.testing.assert_close(found[n], total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["autoregressive", "diffusion", "parallel"])
def test_steps_that_were_seen_cost_nothing_and_are_remembered(kind: str) -> None:
    at = "agent.dynamics."
    net = small_agent(f"{at}kind={kind}", f"{at}layout.kind=delta").world_model.dynamics
    whole = frame_nats(net, BATCH, TOKENS)
    torch.testing.assert_close(frame_nats(net, BATCH, TOKENS, 3), whole[:, 3:])
    late = BATCH.last(1)
    assert not torch.isclose(frame_nats(net, late, TOKENS[:, -2:]), whole[:, 3:]).any()


def test_all_numbers_of_groups_are_of_one_order() -> None:
    """So that the price of fewer groups is not lost in the luck of orders."""
    net = diffusion("token", "block", *PLAIN)
    orders: list[torch.Tensor] = []

    def noted(denoise: Any, tokens: Any, vocab: int, sizes: Any, rand: Any) -> Any:
        orders.append(rand(tokens.shape))
        return nll_at(denoise, tokens, vocab, sizes, rand)

    with patch.object(nats, "nll_at", noted):
        frame_nats_at(net, BATCH, TOKENS, [1, 2, 4], 2)
    assert len(orders) == 6
    assert all(torch.equal(orders[0], order) for order in orders[:3])
    assert not torch.equal(orders[0], orders[3])


def test_a_window_longer_than_memory_goes_on_as_a_dream_does() -> None:
    net = diffusion("token", "block", *PLAIN)
    long = frame_nats(net, BATCH, TOKENS)
    net.blocks = 3
    short = frame_nats(net, BATCH, TOKENS)
    torch.testing.assert_close(short[:, :2], long[:, :2])
    assert not torch.isclose(short[:, 2:], long[:, 2:]).any()
    at_once = frame_nats_at(net, BATCH, TOKENS, [1])[1]
    torch.testing.assert_close(at_once, short)


def test_groups_are_counted_in_a_few_numbers() -> None:
    assert group_counts(4) == [1, 2, 4] and group_counts(16) == [1, 2, 4, 8, 16]
    assert group_counts(1) == [1] and group_counts(9, 3, 12) == [1, 2, 3, 4, 8, 9]


@pytest.mark.parametrize("steps", [0, 5])
def test_more_groups_than_tokens_are_refused(steps: int) -> None:
    net = diffusion("delta", "block")
    with pytest.raises(ValueError, match="1 to 4 steps"):
        frame_nats_at(net, BATCH, TOKENS, [steps])
