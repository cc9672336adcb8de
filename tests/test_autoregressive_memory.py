"""How the autoregressive dynamics imagines: parity with its loss, its memory, its samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.layouts import SHAPES
from tests.nets import (
    cut,
    dynamics_of,
    heard,
    no_waiting,
    scored,
    scribble,
    shown,
    small_agent,
    tokens_of,
    windows,
)
from worldmodels.batch import Batch
from worldmodels.dynamics.autoregressive import Autoregressive
from worldmodels.dynamics.sequence import Memory
from worldmodels.nets.transformer import Transformer

PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]
LEFT = [(0, 7, 0), (1, 6, 0), (2, 5, 0), (3, 4, 0)]


def dynamics(*words: str) -> Autoregressive:
    return dynamics_of(small_agent(*words))


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
@pytest.mark.parametrize("layout", SHAPES)
def test_imagination_of_the_truth_retraces_what_loss_trains(layout: str, context: int) -> None:
    net = dynamics(f"agent.dynamics.layout.kind={layout}")
    batch = windows([row for row in LEFT if row[0] <= context])
    tokens = tokens_of(batch)
    trained, said = scored(net, batch, tokens), follow(net, batch, tokens, context)
    shape = (len(batch.act), 7 - context, 4, 16)
    scores = torch.stack(said["token_head"], 1).view(shape)
    assert scores.std() > 0.1
    torch.testing.assert_close(scores, trained["token_head"][:, context:], atol=1e-5, rtol=1e-4)
    for name in ("reward_head", "end_head"):
        got = torch.stack(said[name], 1)
        torch.testing.assert_close(got, trained[name][:, context:], atol=1e-5, rtol=1e-4)


def test_dropout_is_in_the_loss_and_never_in_imagination() -> None:
    net, batch = dynamics("agent.dynamics.dropout=0.2"), windows(LEFT)
    tokens = tokens_of(batch)
    assert net.training
    losses = [net.loss(batch, tokens).total for _ in range(2)]
    assert losses[0] != losses[1]
    said = [follow(net, batch, tokens, 3)["token_head"] for _ in range(2)]
    torch.testing.assert_close(said[0], said[1], atol=0, rtol=0)
    net.eval()
    trained = scored(net, batch, tokens)["token_head"][:, 3:]
    scores = torch.stack(said[0], 1).view(trained.shape)
    torch.testing.assert_close(scores, trained, atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize(
    ("layout", "blocks", "start", "levels", "restart"),
    [
        # A frame, then [act, 4 tokens] a step, the last of which is pending.
        ("blind", 21, 26, [30, *range(35, 101, 5), 5], 2),
        ("delta", 21, 31, [35, *range(41, 126, 6), 5], 2),
        # 4 tokens at the start, then [act, 4 tokens] a step, the last token of which is pending.
        ("token", 21, 29, [33, *range(38, 104, 5), 8], 5),
    ],
)
def test_every_step_takes_as_many_passes_as_tokens_and_fills_the_published_levels(
    layout: str,
    blocks: int,
    start: int,
    levels: list[int],
    restart: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (f"agent.dynamics.layout.kind={layout}", f"agent.dynamics.blocks={blocks}")
    net, batch = dynamics(*words), windows([(0, 5, 0)] * 2)
    calls: list[int] = []
    extend = Transformer.extend

    def counted(self: Transformer, cache: object, x: Tensor, *rest: object) -> object:
        calls.append(x.shape[1])
        return extend(self, cache, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "extend", counted)
    memory: Memory = net.start(batch, tokens_of(batch))
    assert calls == [start] and memory.cache.filled == start
    found = []
    for step in range(len(levels)):
        calls.clear()
        memory, prediction = net.step(memory, batch.act[:, 0], None)
        memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
        found.append(memory.cache.filled)
        usual = 2 + net.layout.look_size
        first = {0: 1, len(levels) - 1: restart}.get(step, usual)
        assert calls == [first, 1, 1, 1]
    assert found == levels


@pytest.mark.parametrize("layout", SHAPES)
def test_a_full_memory_goes_on_from_the_present_frame_alone(layout: str) -> None:
    net = dynamics("agent.dynamics.blocks=21", f"agent.dynamics.layout.kind={layout}")
    batch = windows([(0, 3, 0)] * 3)
    memory: Memory = net.start(batch, tokens_of(batch))
    restarts = 0
    for step in range(45):
        obs, tokens = windows([(0, 1, 0)] * 3, seed=step).obs[:, 0], torch.full((3, 4), step % 16)
        act = batch.act[:, step % 3]
        here = memory
        level = memory.cache.filled
        # Whatever was in the memory is read before the cache is written again.
        fresh = net.start(alone(shown(here)), here.tokens[:, None])
        _, expected = net.step(fresh, act, tokens)
        memory, prediction = net.step(here, act, tokens)
        if memory.cache.filled < level:
            restarts += 1
            assert memory.cache.filled == net.layout.root_size + 4
            assert memory.cache.capacity - level <= net.layout.stride
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


@pytest.mark.parametrize("layout", SHAPES)
def test_nothing_waits_for_the_host(layout: str) -> None:
    few = ("agent.dynamics.blocks=9", "agent.phases.world_model.frames=9")
    net, batch = dynamics(*few, f"agent.dynamics.layout.kind={layout}"), windows(PADDED)
    tokens = tokens_of(batch)
    with no_waiting():
        net.loss(batch, tokens).total.backward()
        with torch.no_grad():
            memory = net.start(batch, tokens)
            for _ in range(3):
                memory, prediction = net.step(memory, batch.act[:, 0], None)
                memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
