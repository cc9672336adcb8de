"""What the autoregressive dynamics trains, and its layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets import (
    assert_same,
    cut,
    dynamics_of,
    gradients,
    scored,
    scribble,
    small_agent,
    tokens_of,
    windows,
)
from worldmodels.dynamics.autoregressive import Autoregressive
from worldmodels.nets.heads import REWARD_TARGETS

PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]


def dynamics(*words: str) -> Autoregressive:
    return dynamics_of(small_agent(*words))


def test_loss_is_the_published_sum_over_valid_steps() -> None:
    words = ("token_weight=0.3", "reward_weight=0.7", "end_weight=2.0")
    net = dynamics(*(f"agent.dynamics.{word}" for word in words))
    batch = windows(PADDED)
    end = torch.zeros_like(batch.end)
    end[0, 3] = end[2, 6] = True
    batch, tokens = replace(batch, end=end), tokens_of(batch)
    loss, logits = net.loss(batch, tokens), scored(net, batch, tokens)
    rows = []
    for b, t in batch.valid.nonzero().tolist():
        token = logits["token_head"][b, t].log_softmax(-1)
        nll = -torch.stack([token[k, tokens[b, t + 1, k]] for k in range(4)]).mean()
        label = net.reward.loss(logits["reward_head"][b, t], batch.rew[b, t])
        over = -logits["end_head"][b, t].log_softmax(-1)[int(batch.end[b, t])]
        hits = (token.argmax(-1) == tokens[b, t + 1]).float().mean()
        right = (
            REWARD_TARGETS["two_hot"].right(logits["reward_head"][b, t], batch.rew[b, t]).float()
        )
        rows.append(torch.stack((nll, label, over, hits, right)))
    nll, label, over, hits, right = torch.stack(rows).mean(0)
    expected = {"obs_ce": nll, "reward_loss": label, "end_loss": over, "obs_accuracy": hits}
    expected |= {"reward_accuracy": right, "nll": 4 * nll}
    assert_same(loss.parts, expected)
    torch.testing.assert_close(loss.total, 0.3 * nll + 0.7 * label + 2 * over)


@pytest.mark.parametrize("kind", ["two_hot", "sign"])
def test_reward_accuracy_counts_valid_steps_that_the_head_has_right(kind: str) -> None:
    net, batch = dynamics(f"agent.dynamics.reward={kind}"), windows(PADDED)
    tokens = tokens_of(batch)
    logits = net.reward_head(net._features(batch, tokens)[:, :, 0]).float()
    known = net.reward.predict(logits) if kind == "two_hot" else logits.argmax(-1) - 1.0
    wrong = torch.where(known == 0, 1.0, -known) + (kind == "two_hot") * 5.0
    chosen = torch.arange(batch.valid.numel()).view_as(batch.valid) % 3 == 0
    parts = net.loss(replace(batch, rew=torch.where(chosen, known, wrong)), tokens).parts
    share = (chosen & batch.valid).sum() / batch.valid.sum()
    torch.testing.assert_close(parts["reward_accuracy"], share)


def test_an_atari_reward_is_its_sign() -> None:
    net, batch = dynamics("agent.dynamics.reward=sign"), windows([(0, 4, 0)] * 2)
    tokens = tokens_of(batch)
    logits = scored(net, batch, tokens)["reward_head"]
    assert logits.shape == (2, 4, 3)
    classes = batch.rew.sign().long() + 1
    expected = F.cross_entropy(logits.flatten(0, 1), classes.flatten())
    torch.testing.assert_close(net.loss(batch, tokens).parts["reward_loss"], expected)
    _, prediction = net.step(net.start(batch, tokens), batch.act[:, 0], None)
    assert set(prediction.rew.tolist()) <= {-1.0, 0.0, 1.0}


def test_a_truncated_step_is_no_end() -> None:
    net, batch = dynamics(), windows([(0, 4, 0)] * 2)
    last = torch.zeros_like(batch.end)
    last[:, -1] = True
    tokens = tokens_of(batch)
    losses = {
        name: net.loss(replace(batch, **{name: last}), tokens).parts["end_loss"]
        for name in ("end", "trunc")
    }
    torch.testing.assert_close(losses["trunc"], net.loss(batch, tokens).parts["end_loss"])
    assert not torch.isclose(losses["end"], losses["trunc"])


def test_padding_changes_no_loss_and_no_gradient() -> None:
    net, batch = dynamics(), windows(PADDED)
    tokens = tokens_of(batch)
    real = batch.valid[..., None]
    other = torch.cat((tokens[:, :1], torch.where(real, tokens[:, 1:], 15 - tokens[:, 1:])), 1)
    results = []
    for variant, labels in ((batch, tokens), (scribble(batch), other)):
        loss = net.loss(variant, labels)
        results.append((loss.parts, gradients(net, loss.total)))
    for one, changed in zip(*results, strict=True):
        assert_same(one, changed)


def test_rows_of_padding_cost_what_the_same_rows_cost_alone() -> None:
    net, batch = dynamics(), windows(PADDED)
    # Where a row starts in a window moves its positions; without them it changes nothing.
    nn.init.zeros_(net.net.position.weight)
    tokens = tokens_of(batch)
    expected: dict[str, Tensor] = {}
    total = batch.valid.sum()
    for i, (left, steps, _) in enumerate(PADDED):
        if steps:
            row = cut(batch, slice(i, i + 1), slice(left, left + steps))
            labels = tokens[i : i + 1, left : left + steps + 1]
            for name, part in net.loss(row, labels).parts.items():
                expected[name] = expected.get(name, torch.zeros(())) + part * steps / total
    assert_same(net.loss(batch, tokens).parts, expected, atol=1e-5)


def test_nothing_sees_what_it_must_predict() -> None:
    net, batch = dynamics(), windows([(0, 6, 0)])
    tokens = tokens_of(batch)
    base = scored(net, batch, tokens)
    obs = batch.obs.clone()
    obs[:, 4] = 255 - obs[:, 4]
    moved = scored(net, replace(batch, obs=obs), tokens)
    for name, logits in base.items():
        assert torch.equal(moved[name][:, :4], logits[:, :4]), name
        assert not torch.isclose(moved[name][:, 4:], logits[:, 4:]).all(), name
    changed = tokens.clone()
    changed[:, 3, 1] = (changed[:, 3, 1] + 1) % 16
    moved = scored(net, batch, changed)
    assert torch.equal(moved["token_head"][:, 2, :2], base["token_head"][:, 2, :2])
    assert not torch.isclose(moved["token_head"][:, 2, 2:], base["token_head"][:, 2, 2:]).all()
    for name in ("reward_head", "end_head"):
        assert torch.equal(moved[name][:, :3], base[name][:, :3])
    act = batch.act.clone()
    act[:, 2] = (act[:, 2] + 1) % 5
    moved = scored(net, replace(batch, act=act), tokens)
    for name, logits in base.items():
        assert torch.equal(moved[name][:, :2], logits[:, :2])
        assert not torch.isclose(moved[name][:, 2], logits[:, 2]).all()


def test_every_parameter_learns() -> None:
    net, batch = dynamics(), windows([(0, 6, 0)] * 8)
    grads = gradients(net, net.loss(batch, tokens_of(batch)).total)
    assert grads.keys() == dict(net.named_parameters()).keys()
    assert all(g.abs().max() > 0 for g in grads.values())


def test_a_frame_is_embedded_row_by_row_with_the_channel_fastest() -> None:
    net, batch = dynamics(), windows([(0, 2, 0)])
    layout = net.layout
    frame = layout.frame  # type: ignore[attr-defined]
    x = frame(batch.obs[0].permute(0, 3, 1, 2) / 255)
    norm = layout.frame_norm  # type: ignore[attr-defined]
    expected = norm(x.permute(0, 2, 3, 1).reshape(3, 32))
    torch.testing.assert_close(layout.look(batch.obs)[0, :, 0], expected, atol=1e-5, rtol=1e-4)
    assert layout.look(batch.obs[:, 0]).shape == (1, 1, 32)
    assert layout.root(batch.obs[:, 0], tokens_of(batch)[:, 0]).shape == (1, 1, 32)
