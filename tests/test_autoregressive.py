"""The autoregressive dynamics and its layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets import (
    assert_same,
    cut,
    gradients,
    no_waiting,
    parts,
    scribble,
    small_agent,
    windows,
)
from worldmodels.batch import Batch
from worldmodels.dynamics.autoregressive import Autoregressive, Memory
from worldmodels.nets.heads import TARGETS
from worldmodels.nets.transformer import Transformer

PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]
LEFT = [(0, 7, 0), (1, 6, 0), (2, 5, 0), (3, 4, 0)]


def dynamics(*words: str) -> Autoregressive:
    return parts(small_agent(*words))[1]


def tokens_of(batch: Batch, seed: int = 3) -> Tensor:
    """Random tokens, as they do not matter here; zeros at the first frame as tokenizers give."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 16, (*batch.act.shape, 4), generator=rng)
    return F.pad(tokens, (0, 0, 1, 0))


@contextmanager
def heard(net: Autoregressive) -> Iterator[dict[str, list[Tensor]]]:
    """What the heads say while inside."""
    said: dict[str, list[Tensor]] = {"token_head": [], "reward_head": [], "end_head": []}
    hooks = [
        getattr(net, name).register_forward_hook(lambda _m, _x, y, out=out: out.append(y))
        for name, out in said.items()
    ]
    yield said
    for hook in hooks:
        hook.remove()


def scored(net: Autoregressive, batch: Batch, tokens: Tensor) -> dict[str, Tensor]:
    """The logits that loss() trains: tokens (B,T,K,V), rewards and ends (B,T,size)."""
    with heard(net) as said:
        net.loss(batch, tokens)
    return {name: out[0] for name, out in said.items()}


def follow(
    net: Autoregressive, batch: Batch, tokens: Tensor, context: int
) -> dict[str, list[Tensor]]:
    """Imagine the rest of a window after `context` steps, from its true tokens and frames."""
    with heard(net) as said:
        past = cut(batch, slice(None), slice(0, context))
        memory = net.start(past, tokens[:, : context + 1])
        for t in range(context, batch.act.shape[1]):
            memory, prediction = net.step(memory, batch.act[:, t], tokens[:, t + 1])
            assert torch.equal(prediction.tokens, tokens[:, t + 1])
            memory = net.see(memory, batch.obs[:, t + 1], tokens[:, t + 1])
    return said


@pytest.mark.parametrize("context", [0, 3, 6])
def test_imagination_of_the_truth_retraces_what_loss_trains(context: int) -> None:
    net = dynamics()
    batch = windows([row for row in LEFT if row[0] <= context])
    tokens = tokens_of(batch)
    trained, said = scored(net, batch, tokens), follow(net, batch, tokens, context)
    shape = (len(batch.act), 7 - context, 4, 16)
    scores = torch.stack(said["token_head"], 1).view(shape)
    torch.testing.assert_close(scores, trained["token_head"][:, context:], atol=1e-5, rtol=1e-4)
    for name in ("reward_head", "end_head"):
        got = torch.stack(said[name], 1)
        torch.testing.assert_close(got, trained[name][:, context:], atol=1e-5, rtol=1e-4)


def test_predictions_are_read_from_those_logits() -> None:
    net, batch = dynamics(), windows(LEFT)
    tokens = tokens_of(batch)
    memory = net.start(cut(batch, slice(4), slice(0, 3)), tokens[:, :4])
    with heard(net) as said:
        _, prediction = net.step(memory, batch.act[:, 3], tokens[:, 4])
    assert torch.equal(prediction.logits, torch.stack(said["token_head"], 1))
    torch.testing.assert_close(prediction.rew, net.reward.predict(said["reward_head"][0]))
    torch.testing.assert_close(prediction.end_prob, said["end_head"][0].softmax(-1)[:, 1])
    assert prediction.end.dtype == torch.bool and prediction.end.shape == (4,)


def test_imagined_tokens_follow_the_logits_that_score_them() -> None:
    net, batch = dynamics(), windows([(0, 2, 0)])
    tokens, act = tokens_of(batch), batch.act[:, -1].expand(4000)

    def crowd() -> Memory:
        """One memory, 4000 times."""
        memory: Memory = net.start(batch, tokens)
        cache = memory.cache
        keys, values = (x.repeat(1, 4000, 1, 1, 1) for x in (cache.keys, cache.values))
        many = replace(cache, keys=keys, values=values, visible=cache.visible.repeat(4000, 1))
        return replace(memory, cache=many, pending=memory.pending.repeat(4000, 1, 1))

    with torch.no_grad():
        _, drawn = net.step(crowd(), act, None)
        _, again = net.step(crowd(), act, drawn.tokens)
    torch.testing.assert_close(drawn.logits, again.logits)
    logp = drawn.logits.log_softmax(-1)
    taken = logp.gather(-1, drawn.tokens[..., None])[..., 0]
    spread = (logp.exp() * logp).sum(-1)
    deviation = (taken.mean(0) - spread.mean(0)).abs() / (taken.std(0) / math.sqrt(4000))
    assert (deviation < 5).all(), "the mean log probability is minus the entropy"
    ends = drawn.end.float().mean() - drawn.end_prob.mean()
    assert abs(ends) < 5 * 0.5 / math.sqrt(4000)


def test_every_step_takes_as_many_passes_as_tokens_and_fills_the_published_levels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, batch = dynamics(), windows([(0, 5, 0)] * 2)
    calls: list[int] = []
    extend = Transformer.extend

    def counted(self: Transformer, cache: object, x: Tensor, *rest: object) -> object:
        calls.append(x.shape[1])
        return extend(self, cache, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "extend", counted)
    memory: Memory = net.start(batch, tokens_of(batch))
    assert calls == [31] and memory.cache.filled == 31
    levels = []
    for step in range(17):
        calls.clear()
        memory, prediction = net.step(memory, batch.act[:, 0], None)
        memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
        levels.append(memory.cache.filled)
        first = {0: 1, 16: 2}.get(step, 3)
        assert calls == [first, 1, 1, 1]
    assert levels == [35, *range(41, 126, 6), 5]


def test_a_full_memory_goes_on_from_the_present_frame_alone() -> None:
    net, batch = dynamics("agent.dynamics.blocks=21"), windows([(0, 3, 0)] * 3)
    memory: Memory = net.start(batch, tokens_of(batch))
    restarts = 0
    for step in range(45):
        obs, tokens = windows([(0, 1, 0)] * 3, seed=step).obs[:, 0], torch.full((3, 4), step % 16)
        act = batch.act[:, step % 3]
        here = memory
        level = memory.cache.filled
        # Whatever was in the memory is read before the cache is written again.
        fresh = net.start(alone(here.obs), here.tokens[:, None])
        _, expected = net.step(fresh, act, tokens)
        memory, prediction = net.step(here, act, tokens)
        if memory.cache.filled < level:
            restarts += 1
            assert memory.cache.filled == 5 and level == 126 - 6 + 6 - (126 - level)
            torch.testing.assert_close(prediction.logits, expected.logits, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(prediction.rew, expected.rew, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(prediction.end_prob, expected.end_prob)
        elif step:
            assert not torch.allclose(prediction.logits, expected.logits, atol=1e-4)
        memory = net.see(memory, obs, tokens)
    assert restarts == 2


def alone(obs: Tensor) -> Batch:
    none = torch.zeros(len(obs), 0)
    return Batch(obs[:, None], none.long(), none, none.bool(), none.bool(), none.bool())


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
        label = TARGETS["two_hot"].loss(logits["reward_head"][b, t], batch.rew[b, t])
        over = -logits["end_head"][b, t].log_softmax(-1)[int(batch.end[b, t])]
        hits = (token.argmax(-1) == tokens[b, t + 1]).float().mean()
        rows.append(torch.stack((nll, label, over, hits)))
    nll, label, over, hits = torch.stack(rows).mean(0)
    expected = {"obs_ce": nll, "reward_loss": label, "end_loss": over, "obs_accuracy": hits}
    assert_same(loss.parts, expected)
    torch.testing.assert_close(loss.total, 0.3 * nll + 0.7 * label + 2 * over)


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


def test_padding_before_a_start_changes_no_imagination() -> None:
    net, batch = dynamics(), windows([(3, 2, 0), (5, 0, 0), (0, 5, 0)])
    tokens = tokens_of(batch)
    logits = []
    for variant in (batch, scribble(batch)):
        memory = net.start(variant, tokens)
        for _ in range(3):
            memory, prediction = net.step(memory, batch.act[:, 0], tokens[:, 1])
            memory = net.see(memory, batch.obs[:, 2], tokens[:, 1])
        logits.append(prediction.logits)
    assert torch.equal(*logits)


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


def test_nothing_waits_for_the_host() -> None:
    few = ("agent.dynamics.blocks=9", "agent.phases.world_model.frames=9")
    net, batch = dynamics(*few), windows(PADDED)
    tokens = tokens_of(batch)
    with no_waiting():
        net.loss(batch, tokens).total.backward()
        with torch.no_grad():
            memory = net.start(batch, tokens)
            for _ in range(3):
                memory, prediction = net.step(memory, batch.act[:, 0], None)
                memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
