"""Rounded numbers: all codes, all levels, both forms."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from tests.quantizers import codebook, small_quantizer
from worldmodels.quantizers.fsq import FSQ

LEVELS = [(8, 5, 5, 5), (8, 6, 5), (3, 4, 7), (5,)]


def fsq(*levels: int, form: str = "published") -> FSQ:
    return FSQ(tokens=1, levels=levels, form=form)


def published_inverse(value: Tensor, levels: tuple[int, ...]) -> Tensor:
    """The vector that the published bound brings to a grid point: atanh of its level."""
    count = torch.tensor(levels, dtype=torch.float64)
    half = (count - 1) * 1.001 / 2
    offset = torch.where(count % 2 == 0, 0.5, 0.0)
    level = value.double() * (count // 2)
    return (((level + offset) / half).atanh() - (offset / half).atanh()).float()


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_vectors_are_one_to_one(levels: tuple[int, ...]) -> None:
    q = fsq(*levels)
    book = codebook(q)
    assert q.size == len(book) == len(book.unique(dim=0)) and q.dim == len(levels)
    grid = [[(k - n // 2) / (n // 2) for k in range(n)] for n in reversed(levels)]
    expected = torch.tensor([point[::-1] for point in product(*grid)])
    torch.testing.assert_close(book, expected)
    out = q(published_inverse(book, levels))
    assert torch.equal(out.codes, torch.arange(q.size)), "all codes can be reached"
    torch.testing.assert_close(out.z, book, atol=2e-6, rtol=0)


@pytest.mark.parametrize("levels", [*LEVELS, (2, 2, 2), (2, 9)])
def test_the_symmetric_form_spreads_levels_evenly(levels: tuple[int, ...]) -> None:
    q = fsq(*levels, form="symmetric")
    book = codebook(q)
    torch.testing.assert_close(book, -book.flip(0))
    for i, count in enumerate(levels):
        torch.testing.assert_close(book[:, i].unique(), torch.linspace(-1, 1, count))
    # The outermost values are reached in the limit.
    out = q((book * (1 - 1e-4)).atanh())
    assert torch.equal(out.codes, torch.arange(q.size))
    torch.testing.assert_close(out.z, book, atol=2e-6, rtol=0)


def test_the_symmetric_gradient_is_that_of_tanh() -> None:
    q, z = fsq(4, 5, form="symmetric"), torch.randn(30, 2, requires_grad=True)
    (found,) = torch.autograd.grad(q(z).z.sum(), z)
    torch.testing.assert_close(found, 1 - z.tanh().square())


@pytest.mark.parametrize("form", ["published", "symmetric"])
def test_each_number_decides_its_own_level_and_more_is_more(form: str) -> None:
    q = fsq(8, 5, 3, form=form)
    line = torch.linspace(-6, 6, 4001)
    for i, count in enumerate(q.levels.tolist()):
        z = torch.randn(3)[None].repeat(len(line), 1)
        z[:, i] = line
        value = q.embed(q(z).codes)
        assert (value[:, i].diff() >= 0).all() and len(value[:, i].unique()) == count
        others = [j for j in range(3) if j != i]
        assert (value[:, others] == value[0, others]).all()


def test_levels_are_used_about_evenly_by_vectors_of_spread_one() -> None:
    q, z = fsq(8, 5), torch.randn(200_000, 2)
    code = q(z).codes
    for digit, count, low, high in ((code % 8, 8, 0.08, 0.18), (code // 8, 5, 0.17, 0.23)):
        share = digit.bincount(minlength=count) / len(z)
        assert low - 0.01 < share.min() and share.max() < high + 0.01


def test_far_out_the_gradient_vanishes() -> None:
    z = torch.full((1, 1), 5.0, requires_grad=True)
    fsq(5)(z).z.sum().backward()
    assert z.grad is not None and 0 < z.grad.item() < 3e-4


def test_two_published_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3, not 2"):
        fsq(8, 2)
    with pytest.raises(ValueError, match="at least 2, not 1"):
        fsq(8, 1, form="symmetric")


def test_nothing_but_counts_is_kept() -> None:
    q = small_quantizer("fsq")
    assert set(q.state_dict()) == {"usage.share", "usage.idle"} and not list(q.parameters())
