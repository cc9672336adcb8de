"""What frames cost a dynamics, walked step by step, against the logits that its loss has."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch

from tests.diffusion import KINDS, PLAIN, diffusion, trained
from tests.nets import Net, scored, small_agent, tokens_of, windows
from worldmodels.diffusion.bounds import nll_at
from worldmodels.diffusion.processes import Noised
from worldmodels.dynamics import nats
from worldmodels.dynamics.nats import frame_nats, frame_nats_at

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

    def in_order(denoise: Any, tokens: Any, vocab: int, sizes: Any) -> Any:
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


@pytest.mark.parametrize("steps", [0, 5])
def test_more_groups_than_tokens_are_refused(steps: int) -> None:
    net = diffusion("delta", "block")
    with pytest.raises(ValueError, match="1 to 4 steps"):
        frame_nats_at(net, BATCH, TOKENS, [steps])
