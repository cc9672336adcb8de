"""The perceptual loss: its distance, and what it teaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.agent import Agent
from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image
from runners.phases import Phase
from tests.nets import (
    NUM_ACTIONS,
    assert_same,
    gradients,
    no_waiting,
    scribble,
    settings,
    small_agent,
    windows,
)
from tests.perceptual import VGG16, on, save_weights
from tests.runs import HARDWARE
from worldmodels.nets.conv import largest_map
from worldmodels.nets.lpips import Lpips
from worldmodels.nets.lpips_files import LINEAR, VGG
from worldmodels.protocols import Prev
from worldmodels.tokenizers.delta_vq import DeltaVQ
from worldmodels.tokenizers.frame_vq import FrameVQ

KINDS = ["delta_vq", "frame_vq"]
PADDED = [(0, 2, 1), (2, 1, 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights"))


def of(agent: Agent) -> DeltaVQ | FrameVQ:
    net = agent.world_model.tokenizer
    assert isinstance(net, DeltaVQ | FrameVQ)
    return net


def plain(folder: Path, one: Tensor, other: Tensor) -> float:
    """The distance of two pictures (3,H,W) in [-1,1], as the paper writes it, in float64."""
    linear = torch.load(folder / LINEAR)
    distance = 0.0
    for i, (a, b) in enumerate(zip(maps(folder, one), maps(folder, other), strict=True)):
        weight = linear[f"lin{i}.model.1.weight"].double().numpy().reshape(-1)
        for row in range(a.shape[1]):
            for column in range(a.shape[2]):
                x, y = a[:, row, column], b[:, row, column]
                apart = x / (np.sqrt((x**2).sum()) + 1e-10) - y / (np.sqrt((y**2).sum()) + 1e-10)
                distance += float((weight * apart**2).sum()) / a[0].size
    return distance


def maps(folder: Path, picture: Tensor) -> Iterator[Any]:
    """Maps (C,h,w) before each halving of VGG16."""
    vgg = {name: x.double().numpy() for name, x in torch.load(folder / VGG).items()}
    shift = np.array([-0.030, -0.088, -0.188])[:, None, None]
    scale = np.array([0.458, 0.448, 0.450])[:, None, None]
    x, number = (picture.double().numpy() - shift) / scale, 0
    for width in VGG16[:-1]:
        if width == "M":
            yield x
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
        else:
            weight = vgg[f"features.{number}.weight"]
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            y = (
                np.zeros((len(weight), *x.shape[1:]))
                + vgg[f"features.{number}.bias"][:, None, None]
            )
            for i in range(3):
                for j in range(3):
                    seen = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
                    y += np.tensordot(weight[:, :, i, j], seen, 1)
            x, number = np.maximum(y, 0), number + 1
        number += 1
    yield x


def test_it_is_the_published_distance(folder: Path) -> None:
    net = Lpips(folder)
    one, other = torch.rand(2, 2, 3, 32, 16)
    found = net(one, other)
    assert found.shape == (2,) and found.dtype == torch.float32
    expected = plain(folder, 2 * one[1] - 1, 2 * other[1] - 1)
    assert float(found[1]) == pytest.approx(expected, rel=1e-4)
    assert found.min() > 0 and torch.equal(net(other, one), found)
    assert not net(one, one).any() and net(one[:0], other[:0]).shape == (0,)


def test_gradients_reach_the_picture_and_no_weights(folder: Path) -> None:
    net = Lpips(folder)
    real, picture = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32, requires_grad=True)
    distance = net(real, picture)
    distance.sum().backward()
    assert picture.grad is not None and picture.grad.isfinite().all()
    step = picture.grad / picture.grad.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert (net(real, picture - 0.01 * step) < distance).all()
    assert not list(net.parameters()) and not net.state_dict()
    assert not any(x.requires_grad for x in net.buffers())
    # Nothing answers to anything: no direction, and none made up.
    for name, x in net.named_buffers():
        if name.startswith("features"):
            x.zero_()
    picture.grad = None
    net(real, picture).sum().backward()
    assert picture.grad is not None and not picture.grad.any()


def test_it_is_nearly_the_same_in_bfloat16(folder: Path) -> None:
    net = Lpips(folder)
    one, other = torch.rand(2, 4, 3, 64, 64)
    exact = net(one, other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(one, other)
        assert not net(one, one).any()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0, rtol=0.02)


def test_it_follows_the_agent_to_another_device(folder: Path) -> None:
    net = Lpips(folder)
    net.load(torch.device("cpu"))
    assert {x.device.type for x in net.to("meta").buffers()} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_a_tokenizer_is_as_before(folder: Path, kind: str) -> None:
    agents, states = [], []
    for words in (on(folder, kind), on(folder, kind)[:1]):
        torch.manual_seed(0)
        built = build_agent(settings(*words), EnvSpec(Image((64, 64, 3)), Discrete(NUM_ACTIONS)))
        agents.append(built)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    with_it, without = (agent.state_dict() for agent in agents)
    assert list(with_it) == list(without)
    assert all(torch.equal(with_it[name], x) for name, x in without.items())
    one, other = (of(agent) for agent in agents)
    assert other.perceptual is None and largest_map(other) == 8 * 8 * 8
    batch = windows(PADDED)
    loss, plus = other.loss(batch), one.loss(batch)
    assert "perceptual" not in loss.parts
    expected = sum(loss.parts[name] for name in loss.parts if name not in one.weights)
    expected = sum((other.weights[name] * loss.parts[name] for name in other.weights), expected)
    torch.testing.assert_close(loss.total, expected)
    assert all(torch.equal(plus.parts[name], x) for name, x in loss.parts.items())
    torch.testing.assert_close(plus.total, loss.total + 0.5 * plus.parts["perceptual"])
    assert torch.equal(torch.get_rng_state(), states[0])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_count(folder: Path, kind: str) -> None:
    net, batch = of(small_agent(*on(folder, kind))), windows(PADDED)
    results = []
    for variant in (batch, scribble(batch)):
        loss = net.loss(variant)
        results.append((loss.parts, gradients(net, loss.total)))
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


def test_it_is_a_mean_over_the_frames_that_count(folder: Path) -> None:
    net, batch = of(small_agent(*on(folder))), windows(PADDED)
    assert net.perceptual is not None
    pictures = net.decode(Prev(batch.obs, batch.act), net.tokenize(batch)).float()
    each = [
        net.perceptual(*(x[b, t].permute(2, 0, 1)[None] / 255 for x in (batch.obs, pictures)))
        for b, t in batch.seen.nonzero().tolist()
    ]
    assert len(each) == 5 < batch.seen.numel()
    # Decoded frames are rounded and cut to what a screen can show.
    found = net.loss(batch).parts["perceptual"]
    torch.testing.assert_close(found, torch.cat(each).mean(), atol=0, rtol=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_with_it_learns_also_in_slices(folder: Path, kind: str) -> None:
    agent, results = small_agent(*on(folder, kind)), []
    net = of(agent)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    numbers: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.0, "clip": 10.0, "after_epoch": 0}
    for rows in (2, 1):
        net.load_state_dict(before)
        once = {"batch": len(PADDED), "frames": 4, "updates": 1, "first_updates": 1}
        phase = Phase(agent.learners()[0], HARDWARE, **once, **numbers)
        assert phase.learner.frame_values == 64 * 64 * 64
        phase.slice = rows
        metrics = phase.update(windows(PADDED))
        assert metrics["perceptual"] > 0 and all(x.isfinite() for x in metrics.values())
        assert any((x != before[name]).any() for name, x in net.named_parameters())
        results.append((metrics, [p.grad for p in phase.parameters]))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-2)
    assert list(net.state_dict()) == list(before)


def test_nothing_waits_for_the_host(folder: Path) -> None:
    net, batch = of(small_agent(*on(folder))), windows(PADDED)
    net.loss(batch)
    with no_waiting():
        net.loss(batch).total.backward()
