"""The delta tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.agent import Agent
from runners.phases import Phase
from tests.nets import (
    NUM_ACTIONS,
    assert_same,
    cut,
    gradients,
    no_waiting,
    parts,
    scribble,
    small_agent,
    windows,
)
from tests.quantizers import BINARY
from tests.runs import HARDWARE
from worldmodels.nets.conv import to_uint8, to_unit
from worldmodels.protocols import Prev
from worldmodels.quantizers import QUANTIZERS
from worldmodels.tokenizers.delta_vq import DeltaVQ

PADDED = [(0, 4, 2), (3, 3, 0), (0, 6, 0), (2, 1, 3), (6, 0, 0)]


def tokenizer(*words: str) -> DeltaVQ:
    return parts(small_agent(*words))[0]


def test_tokens_depend_on_both_frames_and_the_action() -> None:
    net, batch = tokenizer(), windows([(0, 1, 0)] * 6)
    prev, obs = Prev(batch.obs[:, :1], batch.act), batch.obs[:, 1:]
    base = net._vectors(prev, obs)
    other = windows([(0, 1, 0)] * 6, seed=9)
    for changed in (
        net._vectors(replace(prev, obs=other.obs[:, :1]), obs),
        net._vectors(replace(prev, act=(prev.act + 1) % NUM_ACTIONS), obs),
        net._vectors(prev, other.obs[:, 1:]),
    ):
        assert (changed - base).abs().amax((1, 2)).min() > 1e-4


def test_pictures_depend_on_the_frame_before_the_action_and_each_token() -> None:
    net, batch = tokenizer(), windows([(0, 1, 0)])
    prev, tokens = Prev(batch.obs[:, :1], batch.act), torch.zeros(1, 1, 4, dtype=torch.long)

    def picture(prev: Prev, tokens: Tensor) -> Tensor:
        return net._picture(prev, net.quantizer.embed(tokens.flatten(0, 1)))

    base = picture(prev, tokens)
    assert not torch.allclose(picture(replace(prev, obs=255 - prev.obs), tokens), base, atol=1e-3)
    other = replace(prev, act=(prev.act + 1) % NUM_ACTIONS)
    assert not torch.allclose(picture(other, tokens), base, atol=1e-3)
    for k in range(4):
        code = tokens.clone()
        code[..., k] = 7
        assert not torch.allclose(picture(prev, code), base, atol=1e-3), k
    assert torch.equal(net.decode(prev, tokens)[:, 0], to_uint8(base))


def test_encode_and_decode_treat_each_step_by_itself() -> None:
    net, batch = tokenizer(), windows([(0, 5, 0)] * 2)
    prev, obs = Prev(batch.obs[:, :-1], batch.act), batch.obs[:, 1:]
    tokens = net.encode(prev, obs)
    picture = net.decode(prev, tokens)
    assert tokens.shape == (2, 5, 4) and tokens.dtype == torch.int64
    assert picture.shape == obs.shape and picture.dtype == torch.uint8
    alone = Prev(prev.obs[1:, 3:4], prev.act[1:, 3:4])
    assert torch.equal(net.encode(alone, obs[1:, 3:4]), tokens[1:, 3:4])
    apart = net.decode(alone, tokens[1:, 3:4]).int() - picture[1:, 3:4].int()
    assert apart.abs().max() <= 1


def test_tokens_of_a_window_stand_at_the_frame_they_describe() -> None:
    net, batch = tokenizer(), windows([(0, 4, 0)] * 3)
    tokens = net.tokenize(batch)
    assert tokens.shape == (3, 5, 4) and (tokens[:, 0] == 0).all()
    for t in range(4):
        prev = Prev(batch.obs[:, t : t + 1], batch.act[:, t : t + 1])
        assert torch.equal(net.encode(prev, batch.obs[:, t + 1 : t + 2])[:, 0], tokens[:, t + 1])


def test_a_window_of_one_frame_has_tokens_of_no_step() -> None:
    net, batch = tokenizer(), windows([(0, 2, 0)] * 3)
    assert net.tokenize(cut(batch, slice(3), slice(0, 0))).shape == (3, 1, 4)


def test_loss_is_the_published_sum_over_valid_steps() -> None:
    net, batch = tokenizer("agent.tokenizer.quantizer.commitment=0.3"), windows(PADDED)
    loss = net.loss(batch)
    rows = []
    for b, t in batch.valid.nonzero().tolist():
        prev = Prev(batch.obs[b : b + 1, t : t + 1], batch.act[b : b + 1, t : t + 1])
        obs = batch.obs[b : b + 1, t + 1 : t + 2]
        quantized = net.quantizer(net._vectors(prev, obs))
        error = to_unit(obs) - net._picture(prev, quantized.z)
        commit = 0.3 * (2 - 2 * cosine(net, prev, obs)).mean() / 8
        rows.append(
            torch.stack((error.abs().mean(), error.square().mean(), error.abs().max() ** 2, commit))
        )
    l1, l2, worst, commit = torch.stack(rows).mean(0)
    expected = {"l1": l1, "l2": l2, "worst": worst, "commit": commit}
    assert_same(loss.parts, expected, atol=1e-5)
    torch.testing.assert_close(loss.total, 0.1 * l1 + l2 + 0.01 * worst + commit)


def cosine(net: DeltaVQ, prev: Prev, obs: Tensor) -> Tensor:
    """Of each vector and its code."""
    z = net._vectors(prev, obs)
    return torch.cosine_similarity(z, net.quantizer.embed(net.quantizer(z).codes), dim=-1)


def test_noise_is_on_the_decoders_context_and_in_training_only() -> None:
    net, batch = tokenizer("agent.tokenizer.context_noise=0.1"), windows([(0, 4, 0)] * 2)
    prev, obs = Prev(batch.obs[:, :-1], batch.act), batch.obs[:, 1:]
    entered: dict[str, list[Tensor]] = {"encoder": [], "context": []}
    for name, inputs in entered.items():
        net.get_submodule(name).register_forward_pre_hook(
            lambda _, args, inputs=inputs: inputs.append(args[0])
        )
    net.loss(batch)
    net.loss(batch)
    assert torch.equal(*entered["encoder"])
    before = to_unit(prev.obs)
    first, second = (x - before for x in entered["context"])
    assert abs(float(first.mean())) < 0.002 and abs(float(first.std()) - 0.1) < 0.002
    assert abs(float((first * second).mean())) < 0.001, "drawn anew each time"
    net.decode(prev, net.encode(prev, obs))
    assert torch.equal(entered["context"][-1], before)


def test_without_noise_nothing_is_drawn() -> None:
    net, batch = tokenizer(), windows([(0, 4, 0)] * 2)
    state = torch.get_rng_state()
    net.loss(batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_padding_changes_no_loss_gradient_or_codebook() -> None:
    net, batch = tokenizer("agent.tokenizer.quantizer.revive_updates=0"), windows(PADDED)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    results = []
    for variant in (batch, scribble(batch)):
        net.load_state_dict(state)
        loss = net.loss(variant)
        grads = gradients(net, loss.total)
        metrics = net.learn(loss.learn)
        results.append((loss.parts | metrics, grads, net.state_dict()))
        state_after = {k: v.clone() for k, v in net.state_dict().items()}
        assert not torch.equal(state_after["quantizer.codebook"], state["quantizer.codebook"])
        results[-1] = (loss.parts | metrics, grads, state_after)
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


def test_rows_of_padding_cost_what_the_same_rows_cost_alone() -> None:
    net, batch = tokenizer(), windows(PADDED)
    rows = [
        cut(batch, slice(i, i + 1), slice(left, left + n)) for i, (left, n, _) in enumerate(PADDED)
    ]
    losses = [net.loss(row) for row in rows if row.act.shape[1]]
    steps = torch.tensor([float(n) for _, n, _ in PADDED if n])
    for name, whole in net.loss(batch).parts.items():
        alone = torch.stack([loss.parts[name] for loss in losses])
        torch.testing.assert_close(whole, (alone * steps).sum() / steps.sum(), atol=1e-6, rtol=1e-4)


def test_an_empty_batch_costs_nothing() -> None:
    net = tokenizer()
    loss = net.loss(windows([(3, 0, 0)] * 2))
    assert loss.total == 0
    assert all(g.abs().max() == 0 for g in gradients(net, loss.total).values())


def test_every_parameter_learns_and_the_codebook_gets_no_gradient() -> None:
    net = tokenizer("agent.tokenizer.quantizer.commitment=0.3")
    loss = net.loss(windows([(0, 4, 0)] * 8))
    grads = gradients(net, loss.total)
    assert grads.keys() == dict(net.named_parameters()).keys()
    assert all(g.abs().max() > 0 for g in grads.values())
    assert not net.quantizer.codebook.requires_grad  # type: ignore[attr-defined]


def test_what_is_learned_is_what_was_quantised() -> None:
    net, batch = tokenizer(), windows(PADDED)
    z, codes, valid = net.loss(batch).learn
    assert z.shape == (5, 6, 4, 8) and torch.equal(valid, batch.valid) and not z.requires_grad
    assert torch.equal(codes[:, :, :], net.tokenize(batch)[:, 1:])
    assert torch.equal(net.quantizer(z).codes, codes)


def test_codes_of_a_training_step_are_those_of_imagination_under_autocast() -> None:
    net, batch = tokenizer(), windows([(0, 4, 0)] * 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net.loss(batch)
        with torch.no_grad():
            tokens = net.tokenize(batch)[:, 1:]
    z, codes, _ = loss.learn
    assert torch.equal(net.quantizer(z).codes, codes)
    assert (codes == tokens).float().mean() > 0.9
    assert all(part.dtype == torch.float32 for part in loss.parts.values())


@pytest.mark.parametrize("name", ["l1", "l2", "worst"])
def test_autocast_does_not_round_the_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, batch = tokenizer(), windows(PADDED)
    fixed = torch.rand(batch.valid.numel(), 3, 64, 64)
    monkeypatch.setattr(net, "_picture", lambda prev, codes, noise: fixed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net.loss(batch).parts[name]
    torch.testing.assert_close(inside, net.loss(batch).parts[name], atol=0, rtol=1e-6)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_it_learns_with_every_quantizer(kind: str) -> None:
    word = f"agent.tokenizer.quantizer.kind={kind}"
    agent, batch = small_agent(word), windows(PADDED)
    net = parts(agent)[0]
    phase = tokenizer_phase(agent)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    metrics = phase.update(batch)
    assert all(v.isfinite() for v in metrics.values()) and metrics["grad_norm"] > 0
    assert {"perplexity", "slot_perplexity", "codes_in_use", "dead_codes"} <= metrics.keys()
    after = net.state_dict()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and (weight != before[name]).any(), name
    assert not torch.equal(after["quantizer.usage.share"], before["quantizer.usage.share"])

    prev, obs = Prev(batch.obs[:, :-1], batch.act), batch.obs[:, 1:]
    tokens = net.encode(prev, obs)
    again = parts(small_agent(word))[0]
    again.load_state_dict(after)
    assert torch.equal(again.encode(prev, obs), tokens)
    picture = net.decode(prev, tokens)
    assert picture.dtype == torch.uint8 and picture.shape == obs.shape
    assert torch.equal(again.decode(prev, tokens), picture)
    other = net.decode(prev, (tokens + 1) % net.vocab)
    assert (other != picture).flatten(2).any(-1).all(), "tokens matter"


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_an_update_in_slices_is_one_update(kind: str) -> None:
    word = f"agent.tokenizer.quantizer.kind={kind}"
    loud = ["agent.tokenizer.quantizer.entropy_weight=1"] if kind in BINARY else []
    agent = small_agent(word, *loud, "agent.tokenizer.worst=0")
    weights, results = {k: v.clone() for k, v in agent.state_dict().items()}, []
    for rows in (5, 2, 1):
        agent.load_state_dict(weights)
        phase, torch_state = tokenizer_phase(agent), torch.get_rng_state()
        phase.slice = rows
        for step in range(2):
            metrics = phase.update(windows(PADDED, seed=step))
        grads = [p.grad for p in phase.parameters]
        results.append((metrics, grads))
        torch.set_rng_state(torch_state)
    for metrics, grads in results[1:]:
        torch.testing.assert_close(metrics, results[0][0], atol=1e-4, rtol=1e-2)
        torch.testing.assert_close(grads, results[0][1], atol=1e-4, rtol=1e-2)


def tokenizer_phase(agent: Agent) -> Phase:
    """Updates of all rows of PADDED at once."""
    learner = agent.learners()[0]
    numbers: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01, "clip": 10.0, "after_epoch": 0}
    once = {"batch": len(PADDED), "frames": 7, "updates": 1, "first_updates": 1}
    return Phase(learner, HARDWARE, **once, **numbers)


def test_nothing_waits_for_the_host() -> None:
    net, batch = tokenizer("agent.tokenizer.quantizer.revive_updates=9"), windows(PADDED)
    with no_waiting():
        loss = net.loss(batch)
        loss.total.backward()
        net.learn(loss.learn)
        with torch.no_grad():
            net.decode(Prev(batch.obs[:, :-1], batch.act), net.tokenize(batch)[:, 1:])
