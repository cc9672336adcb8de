"""The tokenizer of stored patches: what it stores, what it shows, what never changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.checkpoint import load, save
from tests.nets import no_waiting, scribble, windows
from tests.patches import squares_of, tiled, tokenizer
from tests.quantizers import same, state
from worldmodels.batch import Batch
from worldmodels.nets.conv import to_unit
from worldmodels.protocols import Prev
from worldmodels.tokenizers.patch_nn import PatchNN, distances

PADDED = [(0, 3, 1), (1, 3, 0), (0, 4, 0), (2, 1, 1), (4, 0, 0)]


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance in [0,1] units, in exact numbers until the last division."""
    return (a.long() - b.long()).square().sum(-1).double() / 255**2


def greedy(stored: list[Tensor], squares: Tensor, threshold: float, size: int) -> list[Tensor]:
    """The published rule, square by square."""
    stored = list(stored)
    for square in squares:
        new = all(apart(square, patch) > threshold for patch in stored)
        if new and len(stored) < size:
            stored.append(square)
    return stored


def update(net: PatchNN, batch: Batch) -> dict[str, Tensor]:
    return net.learn(net.loss(batch).learn)


def filled(seed: int = 0, **changed: Any) -> PatchNN:
    """A tokenizer that knows every tile."""
    net = tokenizer(candidates=4096, **changed)
    update(net, tiled([(0, 4, 0)] * 4, seed))
    return net


@pytest.mark.parametrize("side", [8, 16, 7, 32])
def test_a_token_is_a_square_and_what_is_left_over_is_black(side: int) -> None:
    net, batch = tokenizer(patch=side, size=2000, candidates=4096), windows([(0, 1, 0)] * 2)
    update(net, batch)
    count = 64 // side
    inner = slice(0, count * side)
    tokens = net.tokenize(batch)
    assert tokens.shape == (2, 2, count**2) and net.dim == 3 * side**2
    shown = net.decode(Prev(batch.obs, batch.act), tokens)
    assert torch.equal(shown[:, :, inner, inner], batch.obs[:, :, inner, inner]), "noise: all new"
    assert not shown[:, :, inner.stop :].any() and not shown[:, :, :, inner.stop :].any()
    cut = squares_of(batch, side)
    assert torch.equal(net.patches[tokens.flatten()], cut)
    torch.testing.assert_close(net.embed(tokens).flatten(0, 2), cut / 255 * 2 - 1)
    first = net.encode(Prev(batch.obs[:, :1], batch.act), batch.obs[:, 1:])
    assert torch.equal(first, tokens[:, 1:]), "what was before plays no part"


@pytest.mark.parametrize("dim", [3 * 7**2, 3 * 8**2, 3 * 32**2])
def test_distances_are_exact(dim: int) -> None:
    a, b = (torch.randint(0, 256, (n, dim), dtype=torch.uint8) for n in (40, 30))
    a[0], b[0], b[1] = 255, 0, 255
    expected = (a.long()[:, None] - b.long()).square().sum(-1)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            assert torch.equal(distances(a, b).long(), expected)
    assert distances(a, b)[0, :2].tolist() == [dim * 255**2, 0]


def test_the_nearest_stored_patch_is_chosen_and_the_lowest_of_equals() -> None:
    net, noise = filled(), windows([(0, 2, 0)] * 2, seed=3)
    net.patches[5] = net.patches[3]
    count = int(net.count)
    # Room that is not used is black, and nearer to what is dark.
    dark = replace(noise, obs=noise.obs // 8)
    for batch in (noise, dark, tiled([(0, 2, 0)] * 2, seed=5)):
        expected = [int(apart(s, net.patches[:count]).argmin()) for s in squares_of(batch)]
        assert net.tokenize(batch).flatten().tolist() == expected
        assert 5 not in expected and max(expected) < count


def test_every_stored_patch_is_drawn_and_read_as_itself() -> None:
    net = filled()
    count = int(net.count)
    tokens = (torch.arange(64) % count)[None, None]
    shown = net.decode(Prev(torch.empty(0), torch.empty(0)), tokens)
    assert torch.equal(net.encode(Prev(torch.empty(0), torch.empty(0)), shown), tokens)
    for place in range(64):
        other = tokens.clone()
        other[..., place] = (other[..., place] + 1) % count
        row, column = 8 * (place // 8), 8 * (place % 8)
        moved = (net.decode(Prev(shown, tokens), other) != shown).any(-1)[0, 0]
        assert moved[row : row + 8, column : column + 8].any()
        moved[row : row + 8, column : column + 8] = False
        assert not moved.any()


def test_it_grows_as_the_published_rule_does() -> None:
    net, stored = tokenizer(candidates=4096), list[Tensor]()
    for seed, rows in enumerate(([(0, 1, 0)], PADDED, [(0, 4, 0)] * 2, PADDED)):
        batch = tiled(rows, seed, kinds=10 + 5 * seed)
        before = len(stored)
        stored = greedy(stored, squares_of(batch), 0.75, 64)
        metrics = update(net, batch)
        assert int(net.count) == metrics["patches"] == len(stored)
        assert metrics["patches_added"] == len(stored) - before
        # Also: what was stored before is a prefix of what is stored now.
        assert torch.equal(net.patches[: len(stored)], torch.stack(stored))
        assert not net.patches[len(stored) :].any()
    assert 8 < len(stored) < 25, "new tiles in each, and some that are near others"
    near = [apart(s, net.patches[: len(stored)]).min() for s in squares_of(batch)]
    assert max(near) <= 0.75


def test_a_square_is_new_from_just_above_the_threshold() -> None:
    """Whether what is near it was stored in the same update or before."""
    grey = windows([(0, 0, 0)])
    grey = replace(grey, obs=torch.full_like(grey.obs, 100))
    odd = replace(grey, obs=grey.obs.clone())
    # One number is a fifth off: 0.04.
    odd.obs[0, 0, 8, 8, 0] = 151
    for threshold, count in ((0.0399, 2), (0.04, 1), (0.0401, 1)):
        for batches in ((odd,), (grey, odd)):
            net = tokenizer(threshold=threshold)
            for batch in batches:
                metrics = update(net, batch)
            assert int(net.count) == count, threshold
        assert (metrics["unknown"] > 0) == (count > 1)


def test_an_update_looks_at_the_first_new_squares_only() -> None:
    batch, net = tiled([(0, 4, 0)] * 2), tokenizer(candidates=6)
    squares, stored = squares_of(batch), list[Tensor]()
    for _ in range(60):
        new = [s for s in squares if all(apart(s, patch) > 0.75 for patch in stored)]
        if not new:
            break
        stored = greedy(stored, torch.stack(new[:6]), 0.75, 64)
        metrics = update(net, batch)
        assert torch.equal(net.patches[: int(net.count)], torch.stack(stored))
        assert metrics["unknown"] == pytest.approx(len(new) / len(squares))
    assert update(net, batch)["patches_added"] == 0 and len(stored) > 8
    assert torch.equal(torch.stack(stored), torch.stack(greedy([], squares, 0.75, 64)))


def test_a_full_memory_stays_as_it_is() -> None:
    net, stored = tokenizer(size=7, candidates=4096), list[Tensor]()
    for seed in range(3):
        batch = tiled([(0, 4, 0)] * 2, seed)
        stored = greedy(stored, squares_of(batch), 0.75, 7)
        metrics = update(net, batch)
        assert int(net.count) == 7 and torch.equal(net.patches, torch.stack(stored))
    assert metrics["patches_added"] == 0 and 0 < metrics["unknown"] < 1
    assert net.known().all() and int(net.tokenize(batch).max()) == 6


def test_nothing_but_an_update_changes_it() -> None:
    net, batch = filled(), windows(PADDED)
    before = state(net)
    for mode in (True, False):
        net.train(mode)
        tokens = net.tokenize(batch)
        net.loss(batch)
        net.decode(Prev(batch.obs, batch.act), tokens)
        net.embed(tokens)
        net.encode(Prev(batch.obs[:, :-1], batch.act), batch.obs[:, 1:])
    assert same(state(net), before)
    update(net, batch)
    assert not same(state(net), before)


def test_padding_is_neither_stored_nor_counted() -> None:
    batch, results = tiled(PADDED), []
    for variant in (batch, scribble(batch)):
        net = tokenizer(candidates=4096)
        metrics = [update(net, variant) for _ in range(2)]
        results.append((metrics, net.loss(variant).parts, state(net)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert torch.equal(net.weight(batch), batch.seen.sum(1))
    squares, tokens, distance, seen = tokenizer().loss(batch).learn
    nothing = tokenizer()
    nothing.learn((squares, tokens, distance, torch.zeros_like(seen)))
    assert not nothing.count and not nothing.patches.any()


def test_an_empty_memory_shows_black_and_its_first_token() -> None:
    net, batch = tokenizer(), windows(PADDED)
    tokens = net.tokenize(batch)
    assert not tokens.any() and net.known()[:, 0].all() and not net.known()[:, 1:].any()
    assert not net.decode(Prev(batch.obs, batch.act), tokens).any()
    metrics = update(net, batch)
    assert metrics["unknown"] == 1 and all(v.isfinite() for v in metrics.values())


def test_loss_is_the_error_of_what_is_shown() -> None:
    net, batch = filled(), windows(PADDED)
    loss = net.loss(batch)
    shown = net.decode(Prev(batch.obs, batch.act), net.tokenize(batch))
    error = (to_unit(batch.obs) - to_unit(shown))[batch.seen.flatten()]
    expected = {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "worst": error.square().amax((1, 2, 3)).mean(),
    }
    torch.testing.assert_close(loss.parts, expected)
    assert loss.total == loss.parts["l2"] and not loss.total.requires_grad


def test_batches_may_be_cut_and_computed_in_half_precision() -> None:
    net, batch = filled(), windows(PADDED)
    halves = [net.tokenize(replace(batch, obs=part)) for part in batch.obs.split(2)]
    assert torch.equal(net.tokenize(batch), torch.cat(halves))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net.tokenize(batch), torch.cat(halves))


def test_a_saved_one_goes_on_bit_for_bit(tmp_path: Path) -> None:
    one, other = tokenizer(candidates=5), tokenizer(candidates=5)
    for step in range(8):
        if step == 4:
            save(tmp_path / "saved", {"model": one.state_dict()})
            other.load_state_dict(load(tmp_path / "saved")["model"])
        metrics = update(one, tiled(PADDED, step))
        if step >= 4:
            again = update(other, tiled(PADDED, step))
            torch.testing.assert_close(again, metrics, rtol=0, atol=0)
    assert same(state(one), state(other)) and int(one.count) > 8


def test_nothing_waits_for_the_host() -> None:
    net, batch = tokenizer(candidates=20), tiled(PADDED)
    with no_waiting():
        for _ in range(2):
            update(net, batch)
        net.decode(Prev(batch.obs[:, :-1], batch.act), net.tokenize(batch)[:, 1:])
        net.known()
