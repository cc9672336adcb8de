"""How the parallel dynamics imagines: parity with its loss, its memory, its samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.layouts import SHAPES, described, parallel, truth
from tests.nets import cut, heard, no_waiting, scored, scribble, shown, windows
from worldmodels.batch import Batch
from worldmodels.dynamics.parallel import Parallel
from worldmodels.dynamics.sequence import Memory
from worldmodels.nets.transformer import Transformer

ROWS = [(0, 7, 0), (0, 4, 3), (1, 6, 0), (1, 3, 3), (2, 5, 0), (3, 4, 0)]

each_shape = pytest.mark.parametrize("shape", SHAPES)


def follow(net: Parallel, batch: Batch, tokens: Tensor, context: int) -> dict[str, Tensor]:
    """Imagine the rest of a window after `context` steps, from its true tokens and frames."""
    with heard(net) as said, torch.no_grad():
        past = cut(batch, slice(None), slice(0, context))
        memory = net.start(past, tokens[:, : context + 1])
        for t in range(context, batch.act.shape[1]):
            memory, prediction = net.step(memory, batch.act[:, t], tokens[:, t + 1])
            assert torch.equal(prediction.tokens, tokens[:, t + 1])
            memory = net.see(memory, batch.obs[:, t + 1], tokens[:, t + 1])
    return {name: torch.stack(out, 1) for name, out in said.items()}


def alone(obs: Tensor) -> Batch:
    none = torch.zeros(len(obs), 0)
    return Batch(obs[:, None], none.long(), none, none.bool(), none.bool(), none.bool())


@each_shape
@pytest.mark.parametrize("context", [0, 3, 6])
def test_imagination_of_the_truth_retraces_what_loss_trains(shape: str, context: int) -> None:
    net, batch = parallel(shape), windows([row for row in ROWS if row[0] <= context])
    tokens = truth(batch)
    trained, said = scored(net, batch, tokens), follow(net, batch, tokens, context)
    real = batch.valid[:, context:]
    assert real.any()
    for name, logits in said.items():
        want = trained[name][:, context:]
        torch.testing.assert_close(logits[real], want[real], atol=1e-5, rtol=1e-4)


def test_dropout_is_in_the_loss_and_never_in_imagination() -> None:
    net, batch = parallel("token", "agent.dynamics.dropout=0.2"), windows(ROWS[:2])
    tokens = truth(batch)
    assert net.training
    losses = [net.loss(batch, tokens).total for _ in range(2)]
    assert losses[0] != losses[1]
    said = [follow(net, batch, tokens, 3)["token_head"] for _ in range(2)]
    assert torch.equal(*said)
    trained = scored(net.eval(), batch, tokens)["token_head"][:, 3:]
    real = batch.valid[:, 3:]
    torch.testing.assert_close(said[0][real], trained[real], atol=1e-5, rtol=1e-4)


@each_shape
def test_predictions_are_read_from_those_logits(shape: str) -> None:
    net, batch = parallel(shape), windows([(0, 3, 0), (2, 1, 0)])
    tokens = truth(batch)
    with heard(net) as said:
        _, prediction = net.step(net.start(batch, tokens), batch.act[:, 0], None)
    assert torch.equal(prediction.logits, said["token_head"][0])
    torch.testing.assert_close(prediction.rew, net.reward.predict(said["reward_head"][0]))
    torch.testing.assert_close(prediction.end_prob, said["end_head"][0].softmax(-1)[:, 1])
    assert prediction.end.dtype == torch.bool and prediction.end.shape == (2,)


@each_shape
def test_imagined_tokens_follow_their_logits_and_not_each_other(shape: str) -> None:
    net, batch, count = parallel(shape), windows([(0, 2, 0)]), 8000
    tokens = truth(batch)
    with torch.no_grad():
        memory: Memory = net.start(batch, tokens)
        cache = memory.cache
        keys, values = (x.repeat(1, count, 1, 1, 1) for x in (cache.keys, cache.values))
        many = replace(cache, keys=keys, values=values, visible=cache.visible.repeat(count, 1))
        crowd = replace(memory, cache=many, pending=memory.pending.repeat(count, 1, 1))
        after, drawn = net.step(crowd, batch.act[:, -1].expand(count), None)
    assert torch.equal(after.tokens, drawn.tokens) and torch.equal(
        after.pending, net.layout.answer(drawn.tokens)
    )
    odds = drawn.logits[0].softmax(-1)
    hits = nn.functional.one_hot(drawn.tokens, 16).float()
    noise = (odds * (1 - odds) / count).sqrt()
    assert ((hits.mean(0) - odds).abs() < 5 * noise + 1e-4).all()
    both = torch.einsum("bki,blj->kilj", hits, hits) / count
    pairs = torch.einsum("ki,lj->kilj", odds, odds)
    apart = ~torch.eye(4, dtype=torch.bool)[:, None, :, None].expand_as(pairs)
    noise = (pairs * (1 - pairs) / count).sqrt()
    assert ((both - pairs).abs() < 5.5 * noise + 5e-4)[apart].all()
    ends = drawn.end.float().mean() - drawn.end_prob.mean()
    assert abs(ends) < 5 * 0.5 / math.sqrt(count)


@pytest.mark.parametrize(
    ("shape", "first", "passes", "fit"),
    # Fed: action and queries; those after 4 tokens and a look; those after a root.
    [
        ("blind", 26, [5, 9, 6], 15),
        ("delta", 31, [5, 10, 6], 16),
        ("token", 29, [5, 9, 9], 15),
    ],
)
def test_every_step_is_one_pass_whose_queries_are_not_kept(
    shape: str, first: int, passes: list[int], fit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, batch = parallel(shape), windows([(0, 5, 0)] * 2)
    calls: list[int] = []
    extend = Transformer.extend

    def counted(self: Transformer, cache: object, x: Tensor, *rest: object) -> object:
        calls.append(x.shape[1])
        return extend(self, cache, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "extend", counted)
    memory: Memory = net.start(batch, truth(batch))
    assert calls == [first] and memory.cache.filled == first
    for step in range(fit + 1):
        calls.clear()
        memory, prediction = net.step(memory, batch.act[:, 0], None)
        memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
        assert calls == [passes[0] if not step else passes[1] if step < fit else passes[2]]
        kept = first + 1 + step * net.layout.stride
        assert memory.cache.filled == (kept if step < fit else net.layout.root_size + 1)


@each_shape
def test_a_full_memory_goes_on_from_the_present_frame_alone(shape: str) -> None:
    net, batch = parallel(shape), windows([(0, 3, 0)] * 3)
    memory: Memory = net.start(batch, truth(batch))
    restarts = 0
    for step in range(45):
        obs, tokens = windows([(0, 1, 0)] * 3, seed=step).obs[:, 0], torch.full((3, 4), step % 16)
        act, here = batch.act[:, step % 3], memory
        # Whatever was in the memory is read before the cache is written again.
        fresh = net.start(alone(shown(here)), here.tokens[:, None])
        _, expected = net.step(fresh, act, tokens)
        memory, prediction = net.step(here, act, tokens)
        if memory.cache.filled < here.cache.filled:
            restarts += 1
            for name in ("logits", "rew", "end_prob"):
                got, want = getattr(prediction, name), getattr(expected, name)
                torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
        elif step:
            assert not torch.allclose(prediction.logits, expected.logits, atol=1e-4)
        memory = net.see(memory, obs, tokens)
    assert restarts == 2


@pytest.mark.parametrize(
    ("shape", "steps", "known"),
    [("delta", 20, True), ("token", 19, True), ("token", 20, False)],
)
def test_a_past_is_known_while_a_step_fits_after_it(shape: str, steps: int, known: bool) -> None:
    net, batch = parallel(shape), windows([(0, steps, 0)])
    memory: Memory = net.start(batch, truth(batch))
    after, _ = net.step(memory, batch.act[:, 0], None)
    past = memory.cache.filled if known else net.layout.root_size
    assert after.cache.filled == past + 1


@each_shape
def test_padding_before_a_start_changes_no_imagination(shape: str) -> None:
    net, batch = parallel(shape), windows([(3, 2, 0), (5, 0, 0), (0, 5, 0)])
    tokens = truth(batch)
    other = torch.where(described(shape, batch)[..., None], tokens, 15 - tokens)
    logits = []
    for variant, past in ((batch, tokens), (scribble(batch), other)):
        memory = net.start(variant, past)
        for _ in range(3):
            memory, prediction = net.step(memory, batch.act[:, 0], tokens[:, 1])
            memory = net.see(memory, batch.obs[:, 2], tokens[:, 1])
        logits.append(prediction.logits)
    assert torch.equal(*logits)


@each_shape
def test_a_start_after_padding_alone_knows_its_frame(shape: str) -> None:
    net, batch = parallel(shape), windows([(5, 0, 0)] * 2)
    # Padding moves positions; without them it changes nothing.
    nn.init.zeros_(net.net.position.weight)
    tokens = truth(batch)
    only = (alone(batch.obs[:, -1]), tokens[:, -1:])
    act = torch.tensor([1, 2])
    told = [net.step(net.start(*past), act, tokens[:, 0])[1] for past in ((batch, tokens), only)]
    torch.testing.assert_close(told[0].logits, told[1].logits, atol=1e-5, rtol=1e-4)


@each_shape
def test_rows_do_not_know_each_other(shape: str) -> None:
    net, batch = parallel(shape), windows(ROWS)
    tokens = truth(batch)
    together = follow(net, batch, tokens, 3)
    for i in range(len(ROWS)):
        row = slice(i, i + 1)
        single = follow(net, cut(batch, row, slice(None)), tokens[row], 3)
        for name, logits in single.items():
            torch.testing.assert_close(logits, together[name][row], atol=1e-5, rtol=1e-4)


@each_shape
def test_nothing_waits_for_the_host(shape: str) -> None:
    few = ("agent.dynamics.blocks=9", "agent.phases.world_model.frames=9")
    net, batch = parallel(shape, *few), windows([(0, 4, 3), (3, 4, 0), (7, 0, 0)])
    tokens = truth(batch)
    with no_waiting():
        net.loss(batch, tokens).total.backward()
        with torch.no_grad():
            memory = net.start(batch, tokens)
            for _ in range(4):
                memory, prediction = net.step(memory, batch.act[:, 0], None)
                memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
