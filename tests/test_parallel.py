"""What the parallel dynamics trains: its mask, its losses, its settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.layouts import SHAPES, described, parallel, truth
from tests.nets import assert_same, cut, gradients, scored, scribble, windows
from worldmodels.dynamics.parallel import Parallel, arrangement
from worldmodels.dynamics.sequence import embed

PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]

each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
def test_the_mask_is_rems(shape: str) -> None:
    layout, steps = parallel(shape).layout, 3
    root, tokens, stride = layout.root_size, layout.tokens, layout.stride
    # Each woven position as (step, whether a query, place).
    woven = [(-1, False, i) for i in range(root)]
    for t in range(steps):
        first = root + t * stride
        woven.append((t, False, first))
        woven += [(t, True, first + 1 + k) for k in range(tokens)]
        woven += [(t, False, first + 1 + k) for k in range(stride - 1)]
    place, sight = arrangement(layout, steps, torch.device("cpu"))
    assert place.tolist() == [at for _, _, at in woven]
    for i, (step, query, at) in enumerate(woven):
        action = root + step * stride
        for j, (other, asked, there) in enumerate(woven):
            if asked:
                expected = query and step == other and there <= at
            else:
                expected = there <= (action if query else at)
            assert bool(sight[i, j]) == expected, (woven[i], woven[j])


@each_shape
def test_queries_of_a_step_score_as_they_would_alone_after_its_past(shape: str) -> None:
    """One pass over all steps is a plain causal pass for each."""
    net, batch = parallel(shape), windows(PADDED)
    tokens = truth(batch)
    layout, logits = net.layout, scored(net, batch, tokens)
    x, visible = embed(layout, batch, tokens)
    for t in range(7):
        acted = layout.root_size + t * layout.stride + 1
        alone = torch.cat((x[:, :acted], net.query.weight.expand(len(x), -1, -1)), 1)
        seen = torch.cat((visible[:, :acted], visible[:, acted - 1 : acted].expand(-1, 4)), 1)
        feats = net.net(alone, seen)[:, acted - 1 :]
        real = batch.valid[:, t]
        expected = {
            "token_head": net.token_head(feats[:, 1:]),
            "reward_head": net.reward_head(feats[:, 0]),
            "end_head": net.end_head(feats[:, 0]),
        }
        for name, want in expected.items():
            got = logits[name][:, t]
            torch.testing.assert_close(got[real], want[real], atol=1e-5, rtol=1e-4)


@each_shape
def test_loss_is_the_weighted_sum_over_valid_steps(shape: str) -> None:
    words = ("token_weight=0.3", "reward_weight=0.7", "end_weight=2.0")
    net = parallel(shape, *(f"agent.dynamics.{word}" for word in words))
    batch = windows(PADDED)
    end = torch.zeros_like(batch.end)
    end[0, 3] = end[2, 6] = True
    batch, tokens = replace(batch, end=end), truth(batch)
    loss, logits, real = net.loss(batch, tokens), scored(net, batch, tokens), batch.valid
    assert logits["token_head"].shape == (6, 7, 4, 16)
    guess, labels = logits["token_head"][real], tokens[:, 1:][real]
    expected = {
        "obs_ce": F.cross_entropy(guess.flatten(0, 1), labels.flatten()),
        "nll": 4 * F.cross_entropy(guess.flatten(0, 1), labels.flatten()),
        "reward_loss": net.reward.loss(logits["reward_head"][real], batch.rew[real]).mean(),
        "end_loss": F.cross_entropy(logits["end_head"][real], end[real].long()),
        "obs_accuracy": (guess.argmax(-1) == labels).float().mean(),
        "reward_accuracy": net.reward.right(logits["reward_head"][real], batch.rew[real])
        .float()
        .mean(),
    }
    assert_same(loss.parts, expected, atol=1e-5)
    total = 0.3 * expected["obs_ce"] + 0.7 * expected["reward_loss"] + 2 * expected["end_loss"]
    torch.testing.assert_close(loss.total, total)


@each_shape
def test_padding_changes_no_loss_and_no_gradient(shape: str) -> None:
    net, batch = parallel(shape), windows(PADDED)
    tokens = truth(batch)
    other = torch.where(described(shape, batch)[..., None], tokens, 15 - tokens)
    results = []
    for variant, labels in ((batch, tokens), (scribble(batch), other)):
        loss = net.loss(variant, labels)
        results.append((loss.parts, gradients(net, loss.total)))
    for one, changed in zip(*results, strict=True):
        assert_same(one, changed)


@each_shape
def test_rows_of_padding_cost_what_the_same_rows_cost_alone(shape: str) -> None:
    net, batch = parallel(shape), windows(PADDED)
    # Where a row starts in a window moves its positions; without them it changes nothing.
    nn.init.zeros_(net.net.position.weight)
    tokens = truth(batch)
    expected: dict[str, Tensor] = {}
    total = batch.valid.sum()
    for i, (left, steps, _) in enumerate(PADDED):
        if steps:
            row = cut(batch, slice(i, i + 1), slice(left, left + steps))
            labels = tokens[i : i + 1, left : left + steps + 1]
            for name, part in net.loss(row, labels).parts.items():
                expected[name] = expected.get(name, torch.zeros(())) + part * steps / total
    assert_same(net.loss(batch, tokens).parts, expected, atol=1e-5)


def changed_from(net: Parallel, one: dict[str, Tensor], other: dict[str, Tensor], t: int) -> None:
    """All logits before step t are equal to the last bit, and none from it on."""
    for name, logits in one.items():
        assert torch.equal(other[name][:, :t], logits[:, :t]), name
        flat = (other[name][:, t:] - logits[:, t:]).abs().flatten(3 if logits.ndim > 3 else 2)
        assert (flat.amax(-1) > 1e-5).all(), name


@each_shape
def test_nothing_sees_what_it_must_predict(shape: str) -> None:
    net, batch = parallel(shape), windows([(0, 6, 0)] * 2)
    tokens = truth(batch)
    base = scored(net, batch, tokens)
    act, other = batch.act.clone(), tokens.clone()
    act[:, 2] = (act[:, 2] + 1) % 5
    changed_from(net, base, scored(net, replace(batch, act=act), tokens), 2)
    # tokens[:, 3] are what step 2 predicts.
    other[:, 3] = (other[:, 3] + 1) % 16
    changed_from(net, base, scored(net, batch, other), 3)
    if shape == "delta":
        obs = batch.obs.clone()
        obs[:, 4] = 255 - obs[:, 4]
        changed_from(net, base, scored(net, replace(batch, obs=obs), tokens), 4)


@each_shape
def test_a_query_moves_only_later_scores_of_its_own_kind(shape: str) -> None:
    net, batch = parallel(shape), windows([(0, 6, 0)])
    tokens = truth(batch)
    base = scored(net, batch, tokens)
    with torch.no_grad():
        net.query.weight[2] += torch.randn(32)
    moved = scored(net, batch, tokens)
    assert torch.equal(moved["token_head"][:, :, :2], base["token_head"][:, :, :2])
    apart = (moved["token_head"] - base["token_head"])[:, :, 2:].abs().amax(-1)
    assert (apart > 1e-5).all()
    for name in ("reward_head", "end_head"):
        assert torch.equal(moved[name], base[name])


@each_shape
def test_every_parameter_learns(shape: str) -> None:
    net, batch = parallel(shape), windows([(0, 6, 0)] * 8)
    grads = gradients(net, net.loss(batch, truth(batch)).total)
    assert grads.keys() == dict(net.named_parameters()).keys()
    assert all(g.abs().max() > 0 for g in grads.values())


def test_an_update_is_cut_by_the_largest_activation_of_the_woven_sequence() -> None:
    assert parallel("token", "agent.dynamics.blocks=30").frame_values == 9 * 2 * 270, "2 heads"
    # 8x8 patches in 128 channels of the frame's encoder are more than 10 positions a step.
    delta = parallel("delta", "agent.dynamics.layout.base=128")
    assert delta.frame_values == 128 * 8 * 8
