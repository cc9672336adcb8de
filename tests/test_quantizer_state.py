"""What quantizers keep: nothing moves it but `update`, and it goes on where it was saved."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.checkpoint import load, save
from tests.quantizers import (
    AVERAGED,
    BINARY,
    codebook,
    ones,
    reviving,
    same,
    small_quantizer,
    state,
    train,
    vectors,
)
from worldmodels.quantizers import QUANTIZERS

KINDS = list(QUANTIZERS)


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_and_decoding_change_no_state(kind: str) -> None:
    q = small_quantizer(kind)
    before = state(q)
    for training in (True, False):
        q.train(training)
        out = q(vectors(q).requires_grad_())
        (out.z.sum() + out.loss.sum()).backward()
        q.embed(out.codes)
        with torch.no_grad():
            q(vectors(q))
    assert same(state(q), before)


def trainable(kind: str) -> tuple[Any, Any]:
    """A quantizer with revival all along, and its optimiser if it has parameters."""
    q = reviving(kind, 1000)
    weights = list(q.parameters())
    return q, torch.optim.AdamW(weights, lr=0.01) if weights else None


def go_on(folder: Path) -> None:
    """What the fresh process does: load, 50 more updates, save."""
    torch.set_num_threads(1)
    everything = load(folder / "half")
    end = {}
    for kind in KINDS:
        q, optimizer = trainable(kind)
        q.load_state_dict(everything[kind]["model"])
        if optimizer:
            optimizer.load_state_dict(everything[kind]["optimizer"])
        torch.set_rng_state(everything[kind]["rng"])
        train(q, optimizer, range(30, 80))
        end[kind] = state(q)
    save(folder / "end", end)


def test_a_fresh_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    half: dict[str, dict[str, Any]] = {}
    whole = {}
    for kind in KINDS:
        torch.manual_seed(7)
        q, optimizer = trainable(kind)
        train(q, optimizer, range(30))
        half[kind] = {"model": state(q), "rng": torch.get_rng_state()}
        if optimizer:
            half[kind]["optimizer"] = copy.deepcopy(optimizer.state_dict())
        revived = train(q, optimizer, range(30, 80))
        assert revived or kind not in AVERAGED
        whole[kind] = state(q)
        assert not same(whole[kind], half[kind]["model"])
    save(tmp_path / "half", half)
    child = multiprocessing.get_context("spawn").Process(target=go_on, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    end = load(tmp_path / "end")
    for kind in KINDS:
        assert same(end[kind], whole[kind]), kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_two_halves(kind: str) -> None:
    q = small_quantizer(kind)
    train(q, None, range(5))
    z = vectors(q, seed=9)
    whole, parts = q(z), [q(z[:20]), q(z[20:])]
    assert torch.equal(whole.codes, torch.cat([p.codes for p in parts]))
    for name in ("z", "loss"):
        torch.testing.assert_close(
            getattr(whole, name), torch.cat([getattr(p, name) for p in parts]), atol=1e-6, rtol=0
        )
    counts = [small_quantizer(kind).usage.count(o.codes, ones(o.codes)) for o in (whole, *parts)]
    assert torch.equal(counts[0], counts[1] + counts[2])


@pytest.mark.parametrize("kind", ["vq_euclid", *BINARY])
def test_what_an_update_adds_up_is_the_sum_over_its_halves(kind: str) -> None:
    q = reviving(kind, 0) if kind == "vq_euclid" else small_quantizer(kind, mean_decay=0.0)
    train(q, None, range(5))
    before, z = state(q), vectors(q, seed=9)

    def added(part: Tensor) -> Tensor:
        """The sums of vectors by code, or of soft codes by position."""
        q.load_state_dict(before)
        q.update(part, q(part).codes, torch.ones(part.shape[:-1]))
        if kind in BINARY:
            return q.mean * len(part)
        old, new = (s["hits"][:, None] * s["codebook"] for s in (before, state(q)))
        return (new - q.decay * old) / (1 - q.decay)

    whole = added(z)
    torch.testing.assert_close(whole, added(z[:20]) + added(z[20:]), atol=1e-3, rtol=1e-4)
    if kind == "vq_euclid":
        q.load_state_dict(before)
        sums = torch.zeros_like(whole).index_add(0, q(z).codes.flatten(), z.flatten(0, 1))
        torch.testing.assert_close(whole, sums, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_batch_does_not_matter(kind: str) -> None:
    ours = reviving(kind, 0)
    theirs = reviving(kind, 0)
    theirs.load_state_dict(ours.state_dict())
    z, order = vectors(ours), torch.randperm(50)
    one, other = ours(z), theirs(z[order])
    assert torch.equal(one.codes[order], other.codes)
    first = ours.update(z, one.codes, ones(one.codes))
    second = theirs.update(z[order], other.codes, ones(one.codes))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_teaches_nothing(kind: str) -> None:
    ours = reviving(kind, 0)
    theirs = reviving(kind, 0)
    theirs.load_state_dict(ours.state_dict())
    z = vectors(ours)
    weight = torch.ones(50, 4)
    weight[30:] = 0
    z[30:] *= 100
    padded, plain = ours(z), theirs(z[:30])
    torch.testing.assert_close(padded.loss[:30], plain.loss, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(padded.z[:30], plain.z, atol=1e-7, rtol=1e-6)
    first = ours.update(z, padded.codes, weight)
    second = theirs.update(z[:30], plain.codes, weight[:30])
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-7, rtol=1e-6)
    before = state(ours)
    ours.update(z, padded.codes, torch.zeros(50, 4))
    after = {k: v for k, v in state(ours).items() if k != "updates"}
    torch.testing.assert_close(after, {k: before[k] for k in after})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("alike", [False, True])
def test_nothing_that_is_kept_ceases_to_be_finite(kind: str, scale: float, alike: bool) -> None:
    q = small_quantizer(kind)
    for step in range(30):
        z = scale * vectors(q, seed=step if step < 15 else 15)
        # One vector over and over, or all sizes side by side.
        z = z[:1, :1].expand_as(z) if alike else torch.cat((z, vectors(q, 3)))
        codes = q(z).codes
        q.update(z, codes, ones(codes))
        assert ((codes >= 0) & (codes < q.size)).all()
    assert all(v.isfinite().all() for v in q.state_dict().values())
    assert codebook(q).isfinite().all() and q(vectors(q)).z.isfinite().all()
