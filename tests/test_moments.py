"""What a dynamics knows of a moment: alike in a window and in imagination."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.layouts import PAIRS, described, truth
from tests.nets import cut, heard, no_waiting, scribble, small_agent, windows
from worldmodels.batch import Batch
from worldmodels.dynamics import DYNAMICS
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.dynamics.one_transformer import OneTransformer

LEFT = [(0, 7, 0), (1, 6, 0), (2, 5, 0), (3, 4, 0)]
PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]

everywhere = pytest.mark.parametrize(("kind", "layout"), PAIRS)

Net = Any
"""Whatever keeps the protocol; memories are of two kinds."""


def dynamics(kind: str, layout: str, *words: str) -> Net:
    kinds = (f"agent.dynamics.kind={kind}", f"agent.dynamics.layout.kind={layout}")
    net = small_agent(*kinds, *words).world_model.dynamics
    assert isinstance(net, OneTransformer | Diffusion)
    return net


def imagined(
    net: Net, batch: Batch, tokens: Tensor, context: int, *, ask: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Features (B,H,D) of the window's moments after `context`, imagined; and the logits."""
    found = []
    with heard(net) as said, torch.no_grad():
        past = cut(batch, slice(None), slice(0, context))
        memory = net.start(past, tokens[:, : context + 1])
        for t in range(context, batch.act.shape[1]):
            memory, _ = net.step(memory, batch.act[:, t], tokens[:, t + 1])
            memory = net.see(memory, batch.obs[:, t + 1], tokens[:, t + 1])
            if ask:
                found.append(net.moment(memory))
    return torch.stack(found, 1) if ask else None, torch.stack(said["token_head"])


@everywhere
@pytest.mark.parametrize("context", [0, 3, 6])
def test_imagining_the_truth_retraces_the_features_of_its_window(
    kind: str, layout: str, context: int
) -> None:
    net = dynamics(kind, layout)
    batch = windows([row for row in LEFT if row[0] <= context])
    tokens = truth(batch)
    with torch.no_grad():
        window = net.moments(batch, tokens)
    known, _ = imagined(net, batch, tokens, context)
    assert window.shape == (len(batch.act), 8, 32) and window.std() > 0.1
    torch.testing.assert_close(known, window[:, context + 1 :], atol=1e-5, rtol=1e-4)


@everywhere
def test_asking_for_features_changes_no_prediction(kind: str, layout: str) -> None:
    net, batch = dynamics(kind, layout), windows(LEFT)
    tokens = truth(batch)
    asked, unasked = (imagined(net, batch, tokens, 3, ask=ask)[1] for ask in (True, False))
    torch.testing.assert_close(asked, unasked, atol=1e-6, rtol=1e-5)


@everywhere
def test_a_moment_depends_on_its_tokens_and_its_past_alone(kind: str, layout: str) -> None:
    net, batch = dynamics(kind, layout), windows([(0, 6, 0)] * 2)
    tokens = truth(batch)
    with torch.no_grad():
        base = net.moments(batch, tokens)
        for t in range(1, 7):
            other = tokens.clone()
            other[:, t, -1] = (other[:, t, -1] + 1) % 16
            moved = net.moments(batch, other)
            assert torch.equal(moved[:, :t], base[:, :t])
            assert ((moved - base)[:, t:].abs().amax(-1) > 1e-5).all()


@everywhere
def test_padding_changes_no_feature(kind: str, layout: str) -> None:
    net, batch = dynamics(kind, layout), windows(PADDED)
    tokens = truth(batch)
    other = torch.where(described(layout, batch)[..., None], tokens, 15 - tokens)
    with torch.no_grad():
        found = [net.moments(*pair) for pair in ((batch, tokens), (scribble(batch), other))]
    assert torch.equal(found[0][batch.seen], found[1][batch.seen])


@everywhere
def test_how_much_padding_there_is_moves_positions_and_nothing_else(kind: str, layout: str) -> None:
    net, batch = dynamics(kind, layout), windows(PADDED)
    if isinstance(net, OneTransformer):
        nn.init.zeros_(net.net.position.weight)
    tokens = truth(batch)
    with torch.no_grad():
        together = net.moments(batch, tokens)
        for i, (left, steps, _) in enumerate(PADDED):
            row = cut(batch, slice(i, i + 1), slice(left, left + steps))
            alone = net.moments(row, tokens[i : i + 1, left : left + steps + 1])
            torch.testing.assert_close(
                alone[0], together[i, left : left + steps + 1], atol=1e-5, rtol=1e-4
            )


@everywhere
def test_rows_do_not_know_each_other(kind: str, layout: str) -> None:
    net, batch = dynamics(kind, layout), windows(PADDED)
    tokens = truth(batch)
    with torch.no_grad():
        together = net.moments(batch, tokens)
        for i in range(len(PADDED)):
            row = slice(i, i + 1)
            alone = net.moments(cut(batch, row, slice(None)), tokens[row])
            torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-4)


@everywhere
def test_features_know_no_dropout_and_never_wait_for_the_host(kind: str, layout: str) -> None:
    net, batch = dynamics(kind, layout, "agent.dynamics.dropout=0.3"), windows(PADDED)
    tokens = truth(batch)
    assert net.training
    with torch.no_grad(), no_waiting():
        first, second = (net.moments(batch, tokens) for _ in range(2))
        memory, prediction = net.step(net.start(batch, tokens), batch.act[:, 0], None)
        net.moment(net.see(memory, batch.obs[:, 0], prediction.tokens))
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", DYNAMICS)
def test_without_frames_a_blind_memory_ends_where_it_is_full(kind: str) -> None:
    net, batch = dynamics(kind, "blind", "agent.dynamics.blocks=17"), windows([(0, 3, 0)])
    with torch.no_grad():
        memory = net.start(batch, truth(batch))
        for _ in range(13):
            memory, prediction = net.step(memory, batch.act[:, 0], None)
            memory = net.see(memory, None, prediction.tokens)
            assert net.moment(memory).isfinite().all()
        with pytest.raises(AssertionError, match="a frame that nobody drew"):
            for _ in range(3):
                memory, prediction = net.step(memory, batch.act[:, 0], None)
                memory = net.see(memory, None, prediction.tokens)
