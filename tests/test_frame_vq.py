"""The frame tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from agents.agent import Agent
from agents.build import build_agent, make
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image
from runners.phases import Phase
from runners.settings.tokenizers import FrameVqSettings
from tests.nets import (
    NUM_ACTIONS,
    assert_same,
    codecs,
    cut,
    gradients,
    no_waiting,
    scribble,
    settings,
    small_agent,
    windows,
)
from tests.quantizers import BINARY
from tests.runs import HARDWARE
from worldmodels.nets.conv import to_unit
from worldmodels.protocols import Prev
from worldmodels.quantizers import QUANTIZERS
from worldmodels.tokenizers import TOKENIZERS
from worldmodels.tokenizers.frame_vq import FrameVQ

KIND = "agent.tokenizer.kind=frame_vq"
PADDED = [(0, 4, 2), (3, 3, 0), (0, 6, 0), (2, 1, 3), (6, 0, 0)]


def tokenizer(*words: str) -> FrameVQ:
    return of(small_agent(KIND, *words))


def of(agent: Agent) -> FrameVQ:
    net = agent.world_model.tokenizer
    assert isinstance(net, FrameVQ)
    return net


def test_frames_are_tokens_of_what_they_show_alone() -> None:
    net, batch = tokenizer(), windows([(0, 5, 0)] * 2)
    tokens = net.tokenize(batch)
    assert tokens.shape == (2, 6, 4) and tokens.dtype == torch.int64
    other = windows([(0, 5, 0)] * 2, seed=7)
    prev = Prev(other.obs[:, :-1], (batch.act + 1) % NUM_ACTIONS)
    assert torch.equal(net.encode(prev, batch.obs[:, 1:]), tokens[:, 1:])
    assert torch.equal(net.tokenize(cut(batch, slice(2), slice(5, 5))), tokens[:, -1:])
    picture = net.decode(prev, tokens[:, 1:])
    same = Prev(batch.obs[:, :-1], batch.act)
    assert torch.equal(net.decode(same, tokens[:, 1:]), picture)
    assert picture.shape == batch.obs[:, 1:].shape and picture.dtype == torch.uint8


@pytest.mark.parametrize(("tokens", "grid"), [(16, 4), (64, 8)])
def test_as_many_tokens_as_the_grid_has_places(tokens: int, grid: int) -> None:
    at = "agent.tokenizer."
    down = "down=[1,0]" if grid == 4 else "down=[0,0]"
    net = tokenizer(f"{at}tokens={tokens}", f"{at}{down}")
    batch = windows([(0, 1, 0)])
    found = net.tokenize(batch)
    assert net.grid == (grid, grid) and found.shape == (1, 2, tokens)
    assert net.decode(Prev(batch.obs, batch.act), found).shape == batch.obs.shape


def test_the_defaults_have_as_many_parameters_as_published() -> None:
    numbers = FrameVqSettings().model_dump()
    with torch.device("meta"):
        quantizer = make(QUANTIZERS, numbers.pop("quantizer"), tokens=16)
        shapes = {"space": Image((64, 64, 3)), "actions": codecs(18)}
        net = make(TOKENIZERS, numbers, **shapes, quantizer=quantizer)
    assert sum(p.numel() for p in net.parameters()) == 4_027_523


def test_every_token_moves_the_picture() -> None:
    net, batch = tokenizer(), windows([(0, 1, 0)])
    tokens = torch.zeros(1, 1, 4, dtype=torch.long)
    prev = Prev(batch.obs[:, :1], batch.act)
    base = net.decode(prev, tokens)
    for k in range(4):
        code = tokens.clone()
        code[..., k] = 7
        assert not torch.equal(net.decode(prev, code), base), k


def test_loss_is_the_published_sum_over_real_frames() -> None:
    words = ("l1=2", "l2=0.5", "worst=0.1", "quantizer.commitment=0.3")
    net = tokenizer(*(f"agent.tokenizer.{word}" for word in words))
    batch = windows(PADDED)
    loss, rows = net.loss(batch), []
    assert batch.seen.sum() < batch.seen.numel() and batch.seen[:, 0].any()
    for b, t in batch.seen.nonzero().tolist():
        obs = batch.obs[b : b + 1, t : t + 1]
        z = net._vectors(obs)
        code = net.quantizer.embed(net.quantizer(z).codes)
        error = to_unit(obs) - net._picture(code)
        apart = (z - code).square().mean()
        own = torch.stack((apart, 0.3 * apart))
        mine = (error.abs().mean(), error.square().mean(), error.abs().max() ** 2)
        rows.append(torch.cat((torch.stack(mine), own)))
    l1, l2, worst, codebook, commit = torch.stack(rows).mean(0)
    expected = {"l1": l1, "l2": l2, "worst": worst, "codebook": codebook, "commit": commit}
    assert_same(loss.parts, expected, atol=1e-4)
    total = 2 * l1 + 0.5 * l2 + 0.1 * worst + codebook + commit
    torch.testing.assert_close(loss.total, total, atol=1e-4, rtol=1e-4)


def test_pixels_are_between_minus_1_and_1_inside() -> None:
    net, batch = tokenizer(), windows([(0, 1, 0)])
    entered: list[Any] = []
    net.encoder.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    net.decoder.register_forward_hook(lambda _m, _x, y: entered.append(y))
    picture = net._picture(net.quantizer(net._vectors(batch.obs)).z)
    torch.testing.assert_close(entered[0], 2 * to_unit(batch.obs) - 1)
    torch.testing.assert_close(entered[1], 2 * picture - 1)


def test_padding_changes_no_loss_gradient_or_codebook() -> None:
    net = tokenizer("agent.tokenizer.quantizer.kind=vq_ema")
    batch = windows(PADDED)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    results = []
    for variant in (batch, scribble(batch)):
        net.load_state_dict(state)
        loss = net.loss(variant)
        grads, metrics = gradients(net, loss.total), net.learn(loss.learn)
        after = {k: v.clone() for k, v in net.state_dict().items()}
        assert not torch.equal(after["quantizer.codebook"], state["quantizer.codebook"])
        results.append((loss.parts | metrics, grads, after))
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


def test_the_weight_of_a_row_is_what_its_loss_counts() -> None:
    net, batch = tokenizer(), windows(PADDED)
    weight = net.weight(batch).float()
    assert weight.tolist() == [5, 4, 7, 2, 1]
    rows = [net.loss(cut(batch, slice(i, i + 1), slice(0, 6))).parts for i in range(len(PADDED))]
    for name, whole in net.loss(batch).parts.items():
        alone = torch.stack([row[name] for row in rows])
        expected = (alone * weight).sum() / weight.sum()
        torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_it_learns_with_every_quantizer(kind: str) -> None:
    words = (KIND, f"agent.tokenizer.quantizer.kind={kind}")
    agent, batch = small_agent(*words), windows(PADDED)
    net = of(agent)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    metrics = tokenizer_phase(agent).update(batch)
    assert all(v.isfinite() for v in metrics.values()) and metrics["grad_norm"] > 0
    for name, weight in net.named_parameters():
        assert weight.grad is not None and (weight != before[name]).any(), name
    again = of(small_agent(*words))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.tokenize(batch), net.tokenize(batch))


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_an_update_in_slices_is_one_update(kind: str) -> None:
    loud = ["agent.tokenizer.quantizer.entropy_weight=1"] if kind in BINARY else []
    agent = small_agent(KIND, f"agent.tokenizer.quantizer.kind={kind}", *loud)
    weights, results = {k: v.clone() for k, v in agent.state_dict().items()}, []
    for rows in (5, 2, 1):
        agent.load_state_dict(weights)
        phase, torch_state = tokenizer_phase(agent), torch.get_rng_state()
        phase.slice = rows
        for step in range(2):
            metrics = phase.update(windows(PADDED, seed=step))
        results.append((metrics, [p.grad for p in phase.parameters]))
        torch.set_rng_state(torch_state)
    for metrics, grads in results[1:]:
        torch.testing.assert_close(metrics, results[0][0], atol=1e-4, rtol=1e-2)
        torch.testing.assert_close(grads, results[0][1], atol=1e-4, rtol=1e-2)


def tokenizer_phase(agent: Agent) -> Phase:
    """Updates of all rows of PADDED at once."""
    numbers: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.0, "clip": 10.0, "after_epoch": 0}
    once = {"batch": len(PADDED), "frames": 7, "updates": 1, "first_updates": 1}
    return Phase(agent.learners()[0], HARDWARE, **once, **numbers)


def test_a_few_frames_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    words = ("quantizer.kind=fsq", "encoder.base=16", "decoder.base=16", "l2=1")
    numbers = settings(KIND, *(f"agent.tokenizer.{word}" for word in words))
    net = of(build_agent(numbers, EnvSpec(Image((64, 64, 3)), Discrete(NUM_ACTIONS))))
    batch = windows([(0, 1, 0)] * 4)
    # Eight pictures of a light square each, on grey.
    obs = torch.full_like(batch.obs, 100)
    for i in range(8):
        row, column = divmod(i, 4)
        obs[i // 2, i % 2, 32 * row : 32 * row + 32, 16 * column : 16 * column + 16] = 220
    batch = replace(batch, obs=obs)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        net.loss(batch).total.backward()
        optimizer.step()
    tokens = net.tokenize(batch)
    assert len(tokens.flatten(0, 1).unique(dim=0)) == 8
    error = net.decode(Prev(obs, batch.act), tokens).float() - obs.float()
    assert error.square().mean() < 0.1 * obs.float().var()


def test_codes_of_a_training_step_are_those_of_imagination_under_autocast() -> None:
    net, batch = tokenizer(), windows([(0, 4, 0)] * 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net.loss(batch)
        with torch.no_grad():
            tokens = net.tokenize(batch)
    z, codes, _ = loss.learn
    assert torch.equal(net.quantizer(z).codes, codes)
    assert (codes == tokens).float().mean() > 0.9
    assert all(part.dtype == torch.float32 for part in loss.parts.values())


def test_nothing_waits_for_the_host() -> None:
    net, batch = tokenizer(), windows(PADDED)
    with no_waiting():
        loss = net.loss(batch)
        loss.total.backward()
        net.learn(loss.learn)
        with torch.no_grad():
            net.decode(Prev(batch.obs[:, :-1], batch.act), net.tokenize(batch)[:, 1:])
