"""The whole world model: imagination beside the loss, real and imagined steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.nets import (
    cut,
    gradients,
    no_waiting,
    parts,
    scribble,
    shake,
    shown,
    small_agent,
    windows,
)
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.protocols import Prev
from worldmodels.world_model import WorldModel

LEFT = [(0, 8, 0), (1, 7, 0), (3, 5, 0)]


def world_model(*words: str) -> WorldModel:
    return small_agent(*words).world_model


def test_imagining_the_truth_retraces_the_logits_of_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent, batch, context = small_agent(), windows(LEFT), 3
    model, (tokenizer, dynamics) = agent.world_model, parts(agent)
    seen: dict[str, Tensor] = {}
    for name in ("token_head", "reward_head", "end_head"):
        head = getattr(dynamics, name)
        head.register_forward_hook(lambda _m, _x, y, name=name: seen.update({name: y}))
    model.loss(batch)
    trained = dict(seen)
    truth = iter(batch.obs[:, context + 1 :].unbind(1))
    asked: list[Prev] = []

    def decode(prev: Prev, tokens: Tensor) -> Tensor:
        asked.append(prev)
        return next(truth)[:, None]

    monkeypatch.setattr(tokenizer, "decode", decode)
    state, tokens = model.start(cut(batch, slice(None), slice(0, context))), model.tokenize(batch)
    for t in range(context, 8):
        assert torch.equal(shown(state), batch.obs[:, t])
        state, prediction = model.imagine(state, batch.act[:, t], tokens[:, t + 1])
        expected = trained["token_head"][:, t]
        torch.testing.assert_close(prediction.logits, expected, atol=1e-5, rtol=1e-4)
        rew = dynamics.reward.predict(trained["reward_head"][:, t])
        torch.testing.assert_close(prediction.rew, rew, atol=1e-4, rtol=1e-3)
        end = trained["end_head"][:, t].softmax(-1)[:, 1]
        torch.testing.assert_close(prediction.end_prob, end, atol=1e-5, rtol=1e-4)
        assert torch.equal(asked[-1].obs[:, 0], batch.obs[:, t])
        assert torch.equal(asked[-1].act[:, 0], batch.act[:, t])


def test_an_imagined_frame_is_decoded_from_the_imagined_frame_before_it() -> None:
    agent, batch = small_agent(), windows(LEFT)
    model, (tokenizer, _) = agent.world_model, parts(agent)
    state = model.start(batch)
    for t in range(3):
        before = shown(state)
        state, prediction = model.imagine(state, batch.act[:, t])
        prev = Prev(before[:, None], batch.act[:, t, None])
        with torch.no_grad():
            expected = tokenizer.decode(prev, prediction.tokens[:, None])[:, 0]
        assert torch.equal(shown(state), expected) and shown(state).dtype == torch.uint8
        assert prediction.tokens.min() >= 0 and prediction.tokens.max() < tokenizer.vocab


def test_imagination_feeds_back_its_own_frames_and_tokens() -> None:
    model, batch = world_model(), windows(LEFT)
    torch.manual_seed(5)
    state = model.start(batch)
    drawn, last = [], []
    for t in range(4):
        state, prediction = model.imagine(state, batch.act[:, t])
        drawn.append(prediction.tokens)
        last.append(prediction.logits)
    state = model.start(batch)
    for t in range(4):
        state, prediction = model.imagine(state, batch.act[:, t], drawn[t])
        torch.testing.assert_close(prediction.logits, last[t], atol=1e-5, rtol=1e-4)
    other, _ = model.imagine(model.start(batch), batch.act[:, 0], 15 - drawn[0])
    _, moved = model.imagine(other, batch.act[:, 1], drawn[1])
    assert not torch.allclose(moved.logits, last[1], atol=1e-3)


def test_where_nobody_looks_nothing_is_drawn_and_all_else_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = world_model("agent.dynamics.layout.kind=token"), windows(LEFT)
    assert model.draws, "the policy looks at frames"
    found: list[list[Tensor]] = []
    for draws in (True, False):
        monkeypatch.setattr(model, "draws", draws)
        torch.manual_seed(5)
        state, frame = model.start(batch), batch.obs[:, -1]
        assert torch.equal(state.tokens, model.tokenize(batch)[:, -1])
        found.append([])
        for act in batch.act.repeat(1, 3).unbind(1):
            state, prediction = model.imagine(state, act)
            assert torch.equal(state.tokens, prediction.tokens)
            found[-1] += [prediction.tokens, prediction.logits]
            frame = model.draw(frame, act, state.tokens)
            assert torch.equal(shown(state), frame) if draws else state.obs is None
    assert len(found[0]) == 48 and all(map(torch.equal, *found))


def test_imagination_without_a_past() -> None:
    model, batch = world_model(), windows([(5, 0, 0)] * 2)
    bare = cut(batch, slice(None), slice(5, 5))
    assert bare.act.shape == (2, 0) and bare.seen.all()
    state, prediction = model.imagine(model.start(bare), torch.tensor([1, 2]))
    assert shown(state).shape == (2, 64, 64, 3) and prediction.rew.shape == (2,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("context", [0, 2, 9])
def test_imagination_remembers_no_more_steps_than_it_may(layout: str, context: int) -> None:
    kind = f"agent.dynamics.layout.kind={layout}"
    model, batch = world_model(kind, f"agent.behaviour.model_context={context}"), windows(LEFT)
    short = cut(batch, slice(None), slice(max(0, 8 - context), 8))
    tokens = model.tokenize(batch)[:, -1]
    _, prediction = model.imagine(model.start(batch), batch.act[:, 0], tokens)
    memory = model.dynamics.start(short, model.tokenize(short))
    _, expected = model.dynamics.step(memory, batch.act[:, 0], tokens)
    torch.testing.assert_close(prediction.logits, expected.logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(shown(model.start(batch)), batch.obs[:, -1])


def test_the_tokenizer_gets_no_gradient_from_the_dynamics_loss() -> None:
    agent = small_agent()
    model, (tokenizer, dynamics) = agent.world_model, parts(agent)
    gradients(model, model.loss(windows(LEFT)).total)
    assert all(p.grad is None for p in tokenizer.parameters())
    assert all(p.grad is not None for p in dynamics.parameters())


def test_losses_and_imagination_change_no_weight_or_codebook() -> None:
    model, batch = world_model("agent.tokenizer.quantizer.revive_updates=9"), windows(LEFT)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.loss(batch)
    model.imagine(model.start(batch), batch.act[:, 0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_padding_before_the_start_changes_no_dream() -> None:
    model, batch = world_model(), windows([(8, 0, 0), (4, 4, 0), (0, 8, 0)])
    dreams = []
    for variant in (batch, scribble(batch)):
        torch.manual_seed(1)
        state = model.start(variant)
        for t in range(3):
            state, prediction = model.imagine(state, batch.act[:, t])
        dreams.append((shown(state), prediction.logits, prediction.rew))
    assert all(torch.equal(a, b) for a, b in zip(*dreams, strict=True))


def test_padding_before_a_short_past_is_like_no_padding() -> None:
    agent, batch = small_agent(), windows([(4, 4, 0), (0, 8, 0)])
    model, (_, dynamics) = agent.world_model, parts(agent)
    # Learned positions count from the window's start; without them padding shifts nothing.
    torch.nn.init.zeros_(dynamics.net.position.weight)
    short = cut(batch, slice(0, 1), slice(4, 8))
    tokens = torch.full((2, 4), 3)
    for past, rows in ((batch, slice(0, 1)), (short, slice(0, 1))):
        _, prediction = model.imagine(
            model.start(past), batch.act[: len(past.act), 0], tokens[: len(past.act)]
        )
        if past is batch:
            padded = prediction.logits[rows]
    torch.testing.assert_close(prediction.logits, padded, atol=1e-5, rtol=1e-4)


def test_rows_do_not_see_each_other() -> None:
    model, batch = world_model(), windows(LEFT)
    act, tokens = batch.act[:, 0], torch.full((3, 4), 2)
    _, together = model.imagine(model.start(batch), act, tokens)
    for i in range(3):
        row = cut(batch, slice(i, i + 1), slice(0, 8))
        _, single = model.imagine(model.start(row), act[i : i + 1], tokens[i : i + 1])
        torch.testing.assert_close(single.logits[0], together.logits[i], atol=1e-5, rtol=1e-4)


def test_bfloat16_imagination_is_near_float32_and_keeps_its_types() -> None:
    model, batch = world_model(), windows(LEFT)
    shake(model)
    tokens = torch.full((3, 4), 2)
    _, exact = model.imagine(model.start(batch), batch.act[:, 0], tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state, rough = model.imagine(model.start(batch), batch.act[:, 0], tokens)
        state, rough2 = model.imagine(state, batch.act[:, 1])
        model.loss(batch).total.backward()
    for prediction in (rough, rough2):
        assert prediction.logits.dtype == prediction.rew.dtype == torch.float32
        assert prediction.end_prob.dtype == torch.float32
    scale = exact.logits.std()
    assert ((rough.logits - exact.logits).abs().mean() / scale) < 0.05


def test_nothing_waits_for_the_host() -> None:
    model, batch = world_model(), windows(LEFT)
    with no_waiting():
        model.loss(batch).total.backward()
        state = model.start(batch)
        for t in range(3):
            state, _ = model.imagine(state, batch.act[:, t])
