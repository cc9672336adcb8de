"""What stands in padding is nothing to anybody, and slices of a batch teach what the batch does."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.agent import Agent
from agents.protocols import Learner
from envs.trees import leaves
from runners.phases import Phase
from tests.layouts import PAIRS
from tests.nets import assert_same, gradients, scribble, small_agent, windows
from tests.runs import HARDWARE
from tests.spaces import spec_of, words_of
from worldmodels.batch import Batch
from worldmodels.protocols import Loss

ROWS = [(0, 5, 0), (2, 3, 0), (0, 1, 4), (1, 3, 1), (5, 0, 0)]
# Starts of imagination are padded on the left alone.
PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
# What is seen, the tokenizers of pictures and of vectors.
TOKENIZERS = [
    ("all", "delta_vq", "bins"),
    ("all", "frame_vq", "bins"),
    ("all", "patch_nn", "mlp"),
    ("all", "delta_vq", "mlp"),
    ("numbers", "delta_vq", "bins"),
    ("vector", "delta_vq", "mlp"),
    ("categories", "delta_vq", "bins"),
]
each_tokenizer = pytest.mark.parametrize(("obs", "pictures", "vectors"), TOKENIZERS)


def with_tokenizer(obs: str, pictures: str, vectors: str) -> Agent:
    """An agent that makes tokens so."""
    words = words_of("tokens", "parallel", "delta", vectors=vectors)
    return small_agent(*words, f"agent.tokenizer.kind={pictures}", spec=spec_of(obs, "tokens"))


def learner_of(agent: Agent, name: str) -> Learner:
    """One of what the agent learns."""
    (found,) = (part for part in agent.learners() if part.name == name)
    return found


def taught(learner: Learner, batch: Batch) -> tuple[Loss, dict[str, Tensor], dict[str, Tensor]]:
    """A loss and its gradients, and all that the learner keeps once it has learned."""
    torch.manual_seed(0)
    loss = learner.loss(learner.prepare(batch))
    grads = gradients(learner.module, loss.total) if loss.total.requires_grad else {}
    learner.learn(loss.learn)
    return loss, grads, {k: v.float() for k, v in learner.module.state_dict().items()}


@each_tokenizer
def test_padding_teaches_a_tokenizer_nothing(obs: str, pictures: str, vectors: str) -> None:
    spec = spec_of(obs, "tokens")
    batch, agent = windows(ROWS, spec=spec), with_tokenizer(obs, pictures, vectors)
    before = copy.deepcopy(learner_of(agent, "tokenizer").module.state_dict())
    (loss, grads, kept), (other, others, theirs) = (
        taught(learner_of(copy.deepcopy(agent), "tokenizer"), variant)
        for variant in (batch, scribble(batch, spec=spec))
    )
    assert_same(loss.parts, other.parts)
    assert_same(grads, others, 1e-5)
    assert_same(kept, theirs)
    moved = {key for key in kept if key.split(".")[-1] in ("share", "idle", "updates")}
    assert moved and all((kept[key] != before[key]).any() for key in moved)


@pytest.mark.parametrize(("dynamics", "layout"), PAIRS)
def test_padding_teaches_no_world_model_and_changes_no_moment(dynamics: str, layout: str) -> None:
    spec = spec_of("all", "tokens")
    agent = small_agent(*words_of("tokens", dynamics, layout, "latent"), spec=spec)
    batch = windows(ROWS, spec=spec)
    other = scribble(batch, spec=spec)
    (loss, grads, _), (same, sames, _) = (
        taught(learner_of(agent, "world_model"), variant) for variant in (batch, other)
    )
    assert {f"{name}/obs_ce" for name in ("state", "pixels", "kind")} < loss.parts.keys()
    assert_same(loss.parts, same.parts)
    assert_same(grads, sames, 1e-5)
    one, two = (agent.world_model.moments(variant)[batch.seen] for variant in (batch, other))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("view", "layout"),
    [("frame", "delta"), ("latent", "blind"), ("reconstruction", "token"), ("tokens", "token")],
)
def test_padding_changes_no_policy(view: str, layout: str) -> None:
    spec = spec_of("all", "floats")
    agent = small_agent(*words_of("floats", "parallel", layout, view), spec=spec)
    past = windows(PAST, spec=spec)
    lessons, carries = [], []
    for variant in (past, scribble(past, spec=spec)):
        torch.manual_seed(0)
        lesson = agent.lesson(variant)
        lessons.append(lesson)
        carries.append(agent.watch(variant)[agent.view.carries :])
    for one, two in zip(*carries, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    for field in ("x", "act", "ret", "baseline", "mask"):
        pairs = zip(*(leaves(getattr(lesson, field)) for lesson in lessons), strict=True)
        for one, two in pairs:
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def sliced(
    agent: Agent, name: str, batch: Batch, rows: int
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Loss.learn, gradients and what is kept after an update in slices of so many rows."""
    seen: list[Any] = []
    learner = learner_of(copy.deepcopy(agent), name)

    def noted(what: Any) -> dict[str, Tensor]:
        seen.append(what)
        return learner.learn(what)

    phase = Phase(
        replace(learner, learn=noted, tokenize=None),
        HARDWARE,
        batch=len(batch.act),
        frames=6,
        updates=1,
        first_updates=1,
        after_epoch=0,
        lr=0.0,
        weight_decay=0.0,
        clip=1e9,
    )
    phase.slice = rows
    torch.manual_seed(0)
    phase.update(batch)
    named = learner.module.named_parameters()
    grads = {key: p.grad for key, p in named if p.grad is not None}
    assert len(grads) == len(phase.parameters)
    return flat(seen[0]), grads, {k: v.float() for k, v in learner.module.state_dict().items()}


def flat(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples."""
    if isinstance(tree, tuple):
        return [x for one in tree for x in flat(one)]
    return [] if tree is None else [tree]


def check_slices(agent: Agent, name: str, batch: Batch) -> None:
    """One row at a time, two, and all."""
    seen, grads, kept = sliced(agent, name, batch, len(batch.act))
    for rows in (1, 2):
        saw, moved, keep = sliced(agent, name, batch, rows)
        for one, two in zip(saw, seen, strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
        assert_same(moved, grads, 1e-5)
        assert_same(keep, kept, 1e-5)


@each_tokenizer
def test_a_tokenizer_learns_of_slices_what_it_learns_of_the_batch(
    obs: str, pictures: str, vectors: str
) -> None:
    """Delta tokens need a frame before, so that the parts count different frames."""
    agent = with_tokenizer(obs, pictures, vectors)
    check_slices(agent, "tokenizer", windows(ROWS, spec=spec_of(obs, "tokens")))


@pytest.mark.parametrize(("act", "policy"), [("floats", "gaussian"), ("tokens", "binned")])
@pytest.mark.parametrize("dynamics", ["autoregressive", "parallel"])
def test_others_learn_of_slices_what_they_learn_of_the_batch(
    dynamics: str, act: str, policy: str
) -> None:
    spec = spec_of("all", act)
    words = (*words_of(act, dynamics, "delta"), f"agent.policy.kind={policy}")
    agent = small_agent(*words, spec=spec)
    check_slices(agent, "world_model", windows(ROWS, spec=spec))
    check_slices(agent, "policy", windows(PAST, spec=spec))
