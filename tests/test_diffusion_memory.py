"""How the diffusion dynamics imagines: parity with its loss, its memory, its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.diffusion import KINDS, PLAIN, diffusion, retraced, trained
from tests.layouts import SHAPES, described, truth
from tests.nets import cut, heard, no_waiting, scribble, shown, windows
from worldmodels.batch import single
from worldmodels.diffusion.draws import uniforms
from worldmodels.dynamics.blocks import BlockMemory
from worldmodels.nets.branches import Past

ROWS = [(0, 7, 0), (0, 4, 3), (1, 6, 0), (1, 3, 3), (2, 5, 0), (3, 4, 0)]

everywhere = pytest.mark.parametrize(("shape", "kind"), [*product(SHAPES, KINDS)])
each_kind = pytest.mark.parametrize("kind", KINDS)


@everywhere
@pytest.mark.parametrize("context", [0, 3, 6])
def test_imagination_of_the_truth_retraces_both_streams(
    shape: str, kind: str, context: int
) -> None:
    net = diffusion(shape, kind, *PLAIN)
    batch = windows([row for row in ROWS if row[0] <= context])
    tokens = truth(batch)
    noised, said = trained(net, batch, tokens)
    found, real = retraced(net, batch, tokens, noised.z, context), batch.valid[:, context:]
    assert real.any() and found["token_head"].std() > 0.1
    for name, logits in found.items():
        want = said[name][:, context:]
        torch.testing.assert_close(logits[real], want[real], atol=1e-5, rtol=1e-4)


@everywhere
def test_denoising_writes_nothing(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind, *PLAIN), windows(ROWS)
    tokens = truth(batch)
    memory = net.start(batch, tokens)
    before = frozen(memory.past)
    z = tokens[:, 0].masked_fill(torch.tensor([True, False, False, True]), 16)
    one = net.denoise(memory, batch.act[:, 0], z)
    assert all(torch.equal(a, b) for a, b in zip(frozen(memory.past), before, strict=True))
    assert torch.equal(net.denoise(memory, batch.act[:, 0], z), one)


def frozen(past: Past) -> list[Tensor]:
    """Copies of all that a past holds."""
    return [x.clone() for x in (*past.keys, *past.values, past.seen)]


@everywhere
def test_the_past_holds_what_reading_finished_frames_writes(shape: str, kind: str) -> None:
    """After dreams of several calls a frame, the past is that of the same frames read at once."""
    net, batch = diffusion(shape, kind), windows([(0, 7, 0)] * 3)
    tokens = truth(batch)
    memory = net.start(cut(batch, slice(None), slice(0, 3)), tokens[:, :4])
    for t in range(3, 7):
        memory, prediction = net.step(memory, batch.act[:, t], None)
        tokens[:, t + 1] = prediction.tokens
        memory = net.see(memory, batch.obs[:, t + 1], prediction.tokens)
    whole: BlockMemory = net.start(batch, tokens)
    assert memory.past.filled == whole.past.filled == 8
    assert torch.equal(memory.past.seen, whole.past.seen)
    for layer in range(len(whole.past.keys)):
        for mine, theirs in zip(memory.past.held(layer), whole.past.held(layer), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(memory.block, whole.block, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(memory.look, whole.look, atol=1e-5, rtol=1e-4)


@everywhere
def test_a_step_calls_the_denoiser_as_often_as_the_sampler_says_and_reads_once(
    shape: str, kind: str
) -> None:
    net, batch = diffusion(shape, kind, "agent.dynamics.sampler.steps=3"), windows(ROWS)
    memory = net.start(batch, truth(batch))
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        inner = getattr(net.net, name)

        def call(*arguments: Any, **rest: Any) -> Any:
            calls.append(name)
            return inner(*arguments, **rest)

        return call

    for name in ("read", "branch"):
        setattr(net.net, name, counted(name))
    net.step(memory, batch.act[:, 0], None)
    assert calls == ["branch", "branch", "branch", "read"]
    calls.clear()
    net.step(memory, batch.act[:, 0], truth(batch)[:, 0])
    assert calls == ["branch", "read"]


@everywhere
def test_a_full_memory_goes_on_from_the_present_frame_alone(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind, "agent.dynamics.blocks=9", *SHORT), windows([(0, 3, 0)] * 3)
    memory: BlockMemory = net.start(batch, truth(batch))
    restarts = 0
    for step in range(20):
        obs, tokens = windows([(0, 1, 0)] * 3, seed=step).obs[:, 0], torch.full((3, 4), step % 16)
        act, here = batch.act[:, step % 3], memory
        full = here.past.filled == 9
        # Whatever was in the memory is read before the past is written again.
        fresh = net.start(single(shown(here)), here.tokens[:, None])
        _, expected = net.step(fresh, act, tokens)
        memory, prediction = net.step(here, act, tokens)
        if full:
            restarts += 1
            assert memory.past.filled == 2 and memory.past.capacity == 9
            for name in ("logits", "rew", "end_prob"):
                got, want = getattr(prediction, name), getattr(expected, name)
                torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
        elif step:
            assert not torch.allclose(prediction.logits, expected.logits, atol=1e-4)
        memory = net.see(memory, obs, tokens)
    assert restarts == 2


SHORT = ("agent.phases.world_model.frames=9",)


@everywhere
def test_padding_before_a_start_changes_no_imagination(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind), windows([(3, 2, 0), (5, 0, 0), (0, 5, 0)])
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


@everywhere
def test_where_an_episode_begins_in_its_window_is_not_seen(shape: str, kind: str) -> None:
    """No position is learned, so padding shifts nothing."""
    net, batch = diffusion(shape, kind), windows([(5, 0, 0), (2, 3, 0)])
    tokens, act = truth(batch), torch.tensor([1, 2])
    told = net.step(net.start(batch, tokens), act, tokens[:, 0])[1]
    for i, left in enumerate((5, 2)):
        row = slice(i, i + 1)
        only = cut(batch, row, slice(left, 5))
        start = net.start(only, tokens[row, left:])
        alone = net.step(start, act[row], tokens[row, 0])[1]
        torch.testing.assert_close(alone.logits, told.logits[row], atol=1e-5, rtol=1e-4)


@everywhere
def test_rows_do_not_know_each_other(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind, *PLAIN), windows(ROWS)
    tokens = truth(batch)
    z = tokens[:, 1:].masked_fill(torch.rand(tokens[:, 1:].shape) < 0.5, 16)
    together = retraced(net, batch, tokens, z, 3)
    for i in range(len(ROWS)):
        row = slice(i, i + 1)
        single_ = retraced(net, cut(batch, row, slice(None)), tokens[row], z[row], 3)
        for name, logits in single_.items():
            torch.testing.assert_close(logits, together[name][row], atol=1e-5, rtol=1e-4)


@each_kind
def test_the_logits_of_a_token_are_those_it_was_drawn_from(kind: str) -> None:
    net = diffusion("token", kind, "agent.dynamics.sampler.steps=4")
    batch = windows([(0, 2, 0)] * 6)
    memory = net.start(batch, truth(batch))
    asked: list[tuple[Tensor, Tensor]] = []
    inner = net.denoise

    def noted(memory: BlockMemory, act: Tensor, z: Tensor) -> Tensor:
        asked.append((z, inner(memory, act, z)))
        return asked[-1][1]

    net.denoise = noted  # type: ignore[method-assign]
    _, prediction = net.step(memory, batch.act[:, 0], None)
    assert len(asked) == 4 and (asked[0][0] == 16).all()
    after = [z for z, _ in asked[1:]] + [prediction.tokens]
    revealed = 0
    for (z, logits), then in zip(asked, after, strict=True):
        fresh = (z == 16) & (then != 16)
        assert (fresh.sum(1) == 1).all() and torch.equal(then[z != 16], z[z != 16])
        assert torch.equal(prediction.logits[fresh], logits[fresh])
        revealed += int(fresh.sum())
    assert revealed == 24 and torch.equal(after[-1], prediction.tokens)


@each_kind
def test_given_tokens_are_scored_with_all_of_them_hidden(kind: str) -> None:
    net, batch = diffusion("token", kind), windows(ROWS)
    tokens, act = truth(batch), batch.act[:, 0]
    memory = net.start(batch, tokens)
    hidden = net.denoise(memory, act, torch.full((len(ROWS), 4), 16))
    with heard(net) as said:
        _, prediction = net.step(memory, act, tokens[:, 1])
    torch.testing.assert_close(prediction.logits, hidden)
    torch.testing.assert_close(prediction.rew, net.reward.predict(said["reward_head"][0]))
    torch.testing.assert_close(prediction.end_prob, said["end_head"][0].softmax(-1)[:, 1])


@each_kind
def test_sampling_draws_tokens_by_the_chain_of_their_logits(kind: str) -> None:
    """One token a call: the mean log probability of what is drawn is minus the mean entropy."""
    net, count = diffusion("token", kind, "agent.dynamics.sampler.steps=4"), 4000
    batch = windows([(0, 2, 0)])
    with torch.no_grad():
        memory = repeated(net.start(batch, truth(batch)), count)
        _, drawn = net.step(memory, batch.act[:, -1].expand(count), None)
    logp = drawn.logits.log_softmax(-1)
    taken = logp.gather(-1, drawn.tokens[..., None])[..., 0]
    spread = (logp.exp() * logp).sum(-1)
    apart = taken - spread
    assert (apart.mean(0).abs() < 5 * apart.std(0) / count**0.5).all()
    ends = drawn.end.float().mean() - drawn.end_prob.mean()
    assert abs(ends) < 5 * 0.5 / count**0.5


def repeated(memory: BlockMemory, count: int) -> BlockMemory:
    """One row's memory, many times."""
    past = memory.past
    keys, values = (tuple(x.repeat(count, 1, 1, 1, 1) for x in y) for y in (past.keys, past.values))
    past = replace(past, keys=keys, values=values, seen=past.seen.repeat(count, 1))
    rest = {f.name: getattr(memory, f.name) for f in fields(memory) if f.name != "past"}
    many = {name: x.repeat(count, *[1] * (x.ndim - 1)) for name, x in rest.items()}
    return BlockMemory(past=past, **many)


@everywhere
def test_nothing_waits_for_the_host(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind, "agent.dynamics.blocks=9", *SHORT), windows(ROWS)
    tokens = truth(batch)
    with no_waiting(), torch.no_grad():
        memory = net.start(batch, tokens)
        for _ in range(4):
            memory, prediction = net.step(memory, batch.act[:, 0], None)
            memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
            net.moment(memory)


@each_kind
def test_autocast_keeps_types_and_stays_near(kind: str) -> None:
    net, batch = diffusion("token", kind), windows(ROWS)
    tokens, act = truth(batch), batch.act[:, 0]
    with torch.no_grad():
        exact = net.step(net.start(batch, tokens), act, tokens[:, 0])[1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            memory = net.start(batch, tokens)
            memory, rough = net.step(memory, act, tokens[:, 0])
            assert net.moment(memory).dtype == torch.float32
            assert memory.past.keys[0].dtype == torch.bfloat16
            net.step(memory, act, None)
    assert rough.logits.dtype == rough.rew.dtype == torch.float32
    assert (rough.logits - exact.logits).abs().mean() / exact.logits.std() < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net.loss(batch, tokens).total.backward()


def test_noise_starts_where_the_process_says() -> None:
    net = diffusion("token", "block")
    noise = net.process.prior((2, 4), uniforms("cpu"))
    assert noise.dtype == torch.int64 and (noise == 16).all()
