"""What the rows of a batch are to learn, and what dreams make of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from tests.diffusion import KINDS, diffusion, trained
from tests.layouts import SHAPES, truth
from tests.nets import gradients, windows
from worldmodels.diffusion.objective import denoising_loss
from worldmodels.dynamics.blocks import BlockMemory
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.dynamics.objectives import Objectives

ALONE = tuple(f"agent.dynamics.objectives.{w}" for w in ("clean=0", "corrupted=0", "alone=1"))
SOME = ("agent.dynamics.objectives.alone=0.1",)

everywhere = pytest.mark.parametrize(("shape", "kind"), [*product(SHAPES, KINDS)])
each_kind = pytest.mark.parametrize("kind", KINDS)


def frame(net: Diffusion, shape: str) -> tuple[BlockMemory, Tensor, Tensor]:
    """A memory of some rows, actions, and a frame that is partly hidden."""
    batch = windows([(0, 3, 0), (1, 2, 0), (3, 0, 0)])
    z = truth(batch)[:, 0].masked_fill(torch.tensor([True, False, True, True]), 16)
    return net.start(batch, truth(batch)), torch.tensor([1, 2, 3]), z


def apart(net: Diffusion, memory: BlockMemory, act: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with and without the past and the action, in two passes of one branch."""
    weight, net.guidance = net.guidance, 0.0
    past = memory.past
    given = net._given(memory, act)[:, None]
    alone = net._denoise(
        past,
        torch.zeros_like(given),
        z[:, None],
        place=torch.tensor([past.filled]),
        sight=torch.zeros(len(z), 1, past.filled, dtype=torch.bool),
        before=torch.zeros_like(memory.block)[:, None],
    )[:, 0]
    told = net.denoise(memory, act, z)
    net.guidance = weight
    return told, alone


@everywhere
@pytest.mark.parametrize("weight", [-1.0, 0.5, 1.0, 2.0])
def test_guidance_in_one_pass_is_that_of_two(shape: str, kind: str, weight: float) -> None:
    net = diffusion(shape, kind, *SOME, f"agent.dynamics.guidance={weight}")
    memory, act, z = frame(net, shape)
    told, alone = apart(net, memory, act, z)
    assert not torch.allclose(told, alone, atol=1e-2)
    guided = net.denoise(memory, act, z)
    torch.testing.assert_close(guided, told + weight * (told - alone), atol=1e-5, rtol=1e-4)
    if weight == -1:
        torch.testing.assert_close(guided, alone, atol=1e-5, rtol=1e-4)


@everywhere
def test_no_guidance_costs_nothing(shape: str, kind: str) -> None:
    net = diffusion(shape, kind, *SOME)
    memory, act, z = frame(net, shape)
    told, _ = apart(net, memory, act, z)
    widths: list[int] = []
    inner = net.net.branch

    def noted(past: object, x: Tensor, **rest: Tensor) -> Tensor:
        widths.append(x.shape[1])
        return inner(past, x, **rest)  # type: ignore[arg-type]

    net.net.branch = noted  # type: ignore[method-assign, assignment]
    assert torch.equal(net.denoise(memory, act, z), told)
    net.guidance = 1.0
    net.denoise(memory, act, z)
    assert widths == [1, 2]


@everywhere
def test_rows_alone_learn_what_guidance_asks(shape: str, kind: str) -> None:
    """The loss's logits of frames alone are those of the branch that knows nothing."""
    net, batch = diffusion(shape, kind, *ALONE), windows([(0, 4, 0), (1, 3, 0)])
    tokens = truth(batch)
    noised, said = trained(net, batch, tokens)
    memory = net.start(batch, tokens)
    for t in range(4):
        _, alone = apart(net, memory, batch.act[:, t], noised.z[:, t])
        real = batch.valid[:, t]
        torch.testing.assert_close(
            said["token_head"][:, t][real], alone[real], atol=1e-5, rtol=1e-4
        )


@everywhere
def test_rows_alone_know_no_other_frame_and_no_action(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind, *ALONE), windows([(0, 5, 0)] * 2)
    tokens, other = truth(batch), windows([(0, 5, 0)] * 2, seed=5)
    noised, base = trained(net, batch, tokens)
    _, moved = trained(net, replace(other, act=(batch.act + 1) % 5), 15 - tokens, noised)
    assert torch.equal(moved["token_head"], base["token_head"])
    assert not torch.isclose(moved["reward_head"], base["reward_head"]).all()
    grads = gradients(net, net.loss(batch, tokens).total)
    assert any("reward_head" in name for name in grads)


def test_shares_of_rows_are_as_said() -> None:
    tokens = torch.randint(0, 16, (4000, 5, 4))
    goal = Objectives(vocab=16, clean=2, corrupted=1, alone=1, noise=0.4).draw(tokens)
    wrong = (goal.history != tokens).float().mean((1, 2))
    assert abs(goal.alone.float().mean() - 0.25) < 0.03
    assert not wrong[goal.alone].any()
    # A replaced token is now and then the same one; the mean rate is half of the largest.
    spoilt = wrong > 0
    assert abs(wrong.mean() - 0.25 * 0.2 * 15 / 16) < 0.01
    assert 0.2 < spoilt.float().mean() <= 0.27 and wrong.max() < 0.8
    assert (goal.history >= 0).all() and (goal.history < 16).all()


def test_only_what_is_asked_for_is_drawn() -> None:
    tokens = torch.randint(0, 16, (500, 3, 4))
    clean = Objectives(vocab=16, clean=1, corrupted=0, alone=0, noise=1).draw(tokens)
    assert torch.equal(clean.history, tokens) and not clean.alone.any()
    spoilt = Objectives(vocab=16, clean=0, corrupted=0.3, alone=0, noise=1).draw(tokens)
    assert (
        not spoilt.alone.any() and (spoilt.history != tokens).flatten(1).any(1).float().mean() > 0.9
    )
    alone = Objectives(vocab=16, clean=0, corrupted=0, alone=0.2, noise=1).draw(tokens)
    assert alone.alone.all()


def test_rows_with_a_clean_past_stand_for_all() -> None:
    tokens = torch.randint(0, 16, (4000, 2, 4))
    goal = Objectives(vocab=16, clean=1, corrupted=0.5, alone=0.5, noise=1).draw(tokens)
    assert goal.weight is not None
    spoilt = (goal.history != tokens).flatten(1).any(1)
    assert set(goal.weight.tolist()) == {0.0, 2.0}
    assert not goal.weight[spoilt | goal.alone].any()
    assert float(goal.weight.mean()) == pytest.approx(1, abs=0.06)
    only = Objectives(vocab=16, clean=0.3, corrupted=0, alone=0, noise=1).draw(tokens)
    assert only.weight is not None and bool((only.weight == 1).all())


@pytest.mark.parametrize(
    "words",
    [
        ("process.kind=copilot4d",),
        ("process.kind=hybrid", "sampler.kind=reverse"),
        ("process.kind=uniform", "sampler.kind=reverse"),
        ("objectives.clean=0",),
    ],
)
def test_what_has_no_bound_tells_no_nats(words: tuple[str, ...]) -> None:
    net = diffusion("token", "block", *(f"agent.dynamics.{word}" for word in words))
    batch = windows([(0, 4, 0)] * 3)
    assert "nll" not in net.loss(batch, truth(batch)).parts


@each_kind
def test_a_corrupted_past_is_what_the_clean_stream_shows_and_labels_stay(kind: str) -> None:
    words = tuple(f"agent.dynamics.objectives.{w}" for w in ("clean=0", "corrupted=1", "noise=1"))
    net, batch = diffusion("token", kind, *words), windows([(0, 4, 0)] * 3)
    tokens = truth(batch)
    with torch.no_grad():
        torch.manual_seed(0)
        noised, said = trained(net, batch, tokens)
        torch.manual_seed(0)
        history = net.objectives.draw(tokens).history
        assert (history != tokens).any()
        torch.manual_seed(0)
        loss = net.loss(batch, tokens)
        frames = denoising_loss(said["token_head"], tokens[:, 1:], noised.scored)
        torch.testing.assert_close(loss.parts["obs_ce"], frames.mean())
        shown = ~noised.scored
        assert torch.equal(noised.z[shown], tokens[:, 1:][shown])
        net.objectives = replace(net.objectives, clean=1.0, corrupted=0.0)
        _, told = trained(net, batch, history, noised)
    for name, logits in told.items():
        torch.testing.assert_close(said[name], logits, atol=1e-5, rtol=1e-4)


def test_smoothed_labels_are_torchs() -> None:
    net = diffusion("token", "block", "agent.dynamics.label_smoothing=0.1")
    batch = windows([(0, 4, 0)] * 3)
    tokens = truth(batch)
    torch.manual_seed(0)
    noised, said = trained(net, batch, tokens)
    torch.manual_seed(0)
    loss = net.loss(batch, tokens)
    logp = said["token_head"].log_softmax(-1)
    taken = logp.gather(-1, tokens[:, 1:, :, None])[..., 0]
    scores = -(0.9 * taken + 0.1 * logp.mean(-1))
    frames = (scores * noised.scored).sum(-1) / noised.scored.sum(-1)
    torch.testing.assert_close(loss.parts["obs_ce"], frames.mean())
    torch.manual_seed(0)
    goal = net.objectives.draw(tokens)
    assert noised.weight is not None and goal.weight is not None
    frames = -(taken * noised.scored).sum(-1) / noised.scored.sum(-1)
    nats = (frames * noised.weight * goal.weight[:, None]).mean()
    torch.testing.assert_close(loss.parts["nll"], nats)


@each_kind
def test_one_token_always_hidden_is_learned_as_the_next_of_a_sequence(kind: str) -> None:
    """With one token a frame, the loss is plain cross-entropy of the next given those before."""
    net = diffusion("token", kind, "agent.tokenizer.tokens=1", *ONE)
    batch = windows([(0, 5, 0)] * 3)
    tokens = truth(batch)[..., :1]
    loss = net.loss(batch, tokens)
    scores = []
    with torch.no_grad():
        for t in range(5):
            past = replace(
                batch,
                obs=batch.obs[:, : t + 1],
                **{k: getattr(batch, k)[:, :t] for k in ("act", "rew", "end", "trunc", "valid")},
            )
            memory = net.start(past, tokens[:, : t + 1])
            _, prediction = net.step(memory, batch.act[:, t], tokens[:, t + 1])
            logp = prediction.logits.log_softmax(-1)
            scores.append(-logp.gather(-1, tokens[:, t + 1, :, None])[..., 0])
    torch.testing.assert_close(loss.parts["obs_ce"], torch.stack(scores).mean())
    torch.testing.assert_close(loss.parts["nll"], torch.stack(scores).mean())


ONE = (
    "agent.dynamics.objectives.corrupted=0",
    "agent.dynamics.sampler.steps=1",
)
