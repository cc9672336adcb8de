"""Categories as tokens."""

from __future__ import annotations

import pytest
import torch

from tests.nets import no_waiting
from tests.quantizers import state
from worldmodels.tokenizers.categories import Categories


def test_tokens_are_the_numbers_themselves() -> None:
    net, sizes = Categories(sizes=(3, 7, 2)), torch.tensor((3, 7, 2))
    x = (torch.rand(4, 5, 3) * sizes).to(torch.uint8)
    tokens = net.encode(x)
    assert tokens.dtype == torch.int64 and torch.equal(tokens, x.long())
    assert torch.equal(net.decode(tokens), tokens)
    assert (net.tokens, net.vocab, net.dim) == (3, 7, 3)
    embedded = net.embed(tokens)
    assert embedded.shape == (4, 5, 3, 3) and embedded.dtype == torch.float32
    assert torch.equal(embedded.abs(), torch.ones_like(embedded))
    assert torch.equal((embedded > 0).long() @ torch.tensor([1, 2, 4]), tokens)


def test_each_place_has_its_own_categories() -> None:
    known = Categories(sizes=(3, 1, 2)).known()
    assert known is not None
    assert known.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert Categories(sizes=(4, 4)).known() is None


@pytest.mark.parametrize("wrong", [-1, 2])
def test_what_is_no_category_is_refused(wrong: int) -> None:
    net, x = Categories(sizes=(3, 2)), torch.ones(5, 2, dtype=torch.int64)
    net.fit(x)
    x[3, 1] = wrong
    with pytest.raises(ValueError, match=r"places \[1\]"):
        net.fit(x)
    with pytest.raises(RuntimeError, match="none of its categories"):
        net.encode(x)


def test_nothing_is_learned_but_what_is_counted() -> None:
    net, x = Categories(sizes=(3, 2)), torch.randint(0, 2, (4, 5, 2))
    before, counted = state(net), torch.rand(4, 5) < 0.5
    with no_waiting():
        loss = net.loss(x, counted)
        metrics = net.learn(loss.learn)
    assert loss.total == 0 and not loss.total.requires_grad and not list(net.parameters())
    assert {"perplexity", "slot_perplexity", "codes_in_use", "dead_codes"} <= metrics.keys()
    used = x[counted].flatten().bincount(minlength=3)
    torch.testing.assert_close(net.usage.share, before["usage.share"].lerp(used / used.sum(), 0.02))
