"""What every tokenizer of one entry of an observation must do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance import in_range
from tests.nets import gradients, no_waiting
from tests.quantizers import same, small_quantizer, state
from worldmodels.protocols import EntryTokenizer
from worldmodels.tokenizers.bins import Bins
from worldmodels.tokenizers.categories import Categories
from worldmodels.tokenizers.grids import GRIDS
from worldmodels.tokenizers.vector_mlp import VectorMlp

DIMS = 3


def vector_mlp() -> EntryTokenizer:
    quantizer = small_quantizer("fsq", tokens=4)
    return VectorMlp(size=DIMS, quantizer=quantizer, tokens=4, hidden=16, layers=1, decay=0.99)


def bins(grid: str) -> Callable[[], EntryTokenizer]:
    return lambda: Bins(size=DIMS, grid=grid, values=33)


ENTRIES: dict[str, Callable[[], EntryTokenizer]] = {
    "categories": lambda: Categories(sizes=(4, 2, 3)),
    "vector_mlp": vector_mlp,
    **{grid: bins(grid) for grid in GRIDS},
}


def numbers(kind: str, *shape: int) -> Tensor:
    if kind == "categories":
        return (torch.rand(*shape, DIMS) * torch.tensor([4, 2, 3])).to(torch.int64)
    return torch.randn(*shape, DIMS) * 5


def built(kind: str) -> Any:
    net = ENTRIES[kind]()
    net.fit(numbers(kind, 200))
    return net


@pytest.mark.parametrize("kind", ENTRIES)
def test_it_keeps_its_promises(kind: str) -> None:
    net: EntryTokenizer = built(kind)
    assert isinstance(net, nn.Module)
    before, x = state(net), numbers(kind, 5, 6)
    tokens = net.encode(x)
    assert torch.equal(net.eval().encode(x), tokens)
    assert tokens.shape == (5, 6, net.tokens) and tokens.dtype == torch.int64
    assert in_range(tokens, net.vocab)
    assert torch.equal(net.encode(x[:2]), tokens[:2])
    assert torch.equal(net.encode(x[0, 0]), tokens[0, 0])
    shown, embedded = net.decode(tokens), net.embed(tokens)
    assert shown.shape == x.shape and shown.dtype == x.dtype
    assert embedded.shape == (*tokens.shape, net.dim) and embedded.dtype == torch.float32
    known = net.known()
    assert known is None or (known.shape == (net.tokens, net.vocab) and known.any(1).all())
    assert known is None or known.expand(5, 6, -1, -1).gather(-1, tokens[..., None]).all()
    counted = torch.rand(5, 6) < 0.6
    loss = net.loss(x, counted)
    other = torch.where(counted[..., None], x, numbers(kind, 5, 6))
    torch.testing.assert_close(net.loss(other, counted).total, loss.total)
    learned = any(True for _ in net.parameters())
    assert loss.total.requires_grad == learned and (not learned or gradients(net, loss.total))
    assert same(state(net), before), "only learning moves what it keeps"
    with no_waiting():
        metrics = net.learn(loss.learn)
        net.decode(net.encode(x))
    assert all(v.isfinite() and not v.ndim for v in metrics.values())
    assert {"perplexity", "slot_perplexity", "codes_in_use", "dead_codes"} <= metrics.keys()
    assert all(len(column) == 5 for column in loss.learn), "a row per batch row"
