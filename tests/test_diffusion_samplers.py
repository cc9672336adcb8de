"""What holds for every sampler."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.denoisers import Table, frequencies, random_joint, tied_joint
from tests.nets import no_waiting
from worldmodels.diffusion import SAMPLERS
from worldmodels.diffusion.bounds import count_bound, nll_at
from worldmodels.diffusion.draws import RowStreams, uniforms
from worldmodels.diffusion.objective import denoising_loss
from worldmodels.diffusion.processes import Absorbing, Hybrid, Uniform
from worldmodels.diffusion.schedules import Geometric, Linear, groups

VOCAB, TOKENS = 5, 4
NOISE = {
    "uniform": Uniform(vocab=VOCAB, schedule=Linear()),
    "hybrid": Hybrid(vocab=VOCAB, replaced=0.2),
    # Not quite clean at its end, so a mask may stay.
    "absorbing": Absorbing(vocab=VOCAB, schedule=Geometric(low=0.3), counts="cosine"),
}
EVERY: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SAMPLERS if name != "reverse"),
    ("remask", {"rule": "cap", "strength": 0.5}),
    ("remask", {"rule": "conf", "strength": 0.9}),
    ("ancestral", {"schedule": Geometric()}),
    ("copilot4d", {"visible": "keep", "shape": "cosine"}),
    *(("reverse", {"kernel": kernel}) for kernel in NOISE.values()),
]
KINDS = pytest.mark.parametrize(("name", "rest"), EVERY)
GROUPED = sorted(SAMPLERS.keys() - {"ancestral", "remask", "reverse"})


def made(name: str, steps: int = 3, **rest: Any) -> Any:
    return SAMPLERS[name](**{"tokens": TOKENS, "vocab": VOCAB, "steps": steps} | rest)


def start(rest: dict[str, Any], rows: int) -> Tensor:
    """What a sampler of these settings begins with."""
    if "kernel" in rest:
        return rest["kernel"].prior((rows, TOKENS), uniforms("cpu"))
    return torch.full((rows, TOKENS), VOCAB)


def forms() -> Any:
    """A denoiser that looks at all tokens of its own row."""
    weight = torch.randn((VOCAB + 1) * TOKENS, TOKENS * VOCAB, dtype=torch.float64)

    def denoise(z: Tensor) -> Tensor:
        # Not a matrix product, whose sums depend on how many rows there are.
        seen = F.one_hot(z, VOCAB + 1).flatten(1).double()
        return (seen[:, :, None] * weight).sum(1).view(-1, TOKENS, VOCAB)

    return denoise


@KINDS
@pytest.mark.parametrize("steps", [1, 2, TOKENS])
def test_no_mask_is_left_and_the_trace_leads_to_the_frame(
    name: str, rest: dict[str, Any], steps: int
) -> None:
    sampled = made(name, steps, **rest)
    calls = []
    inner = forms()

    def denoise(z: Tensor) -> Tensor:
        calls.append(z)
        return inner(z)

    z0 = start(rest, 300)
    before = z0.clone()
    out = sampled(denoise, z0)
    assert out.z.shape == (300, TOKENS) and out.z.dtype == torch.int64
    assert out.z.min() >= 0 and out.z.max() < VOCAB
    assert torch.equal(out.trace[-1].z, out.z) and len(calls) == sampled.calls
    assert torch.equal(z0, before)
    for now in out.trace:
        visible = now.z < VOCAB
        assert not now.prob[~visible].any()
        assert (now.prob[visible] > 0).all() and (now.prob <= 1 + 1e-6).all()


@KINDS
def test_a_row_is_drawn_alike_alone_and_among_others(name: str, rest: dict[str, Any]) -> None:
    denoise, seeds = forms(), torch.arange(5)
    z0 = start(rest, 5)
    together = made(name, **rest)(denoise, z0, RowStreams(seeds))
    for i in range(5):
        alone = made(name, **rest)(denoise, z0[i : i + 1], RowStreams(seeds[i : i + 1]))
        assert torch.equal(alone.z[0], together.z[i])
    again = made(name, **rest)(denoise, z0, RowStreams(seeds))
    assert torch.equal(again.z, together.z)


@KINDS
def test_sampling_does_not_wait_for_the_device(name: str, rest: dict[str, Any]) -> None:
    logits = torch.randn(TOKENS, VOCAB)
    sampled = made(name, top_k=3, **rest)
    with no_waiting():
        sampled(lambda z: logits.expand(len(z), -1, -1), start(rest, 4))


@KINDS
def test_impossible_tokens_are_never_drawn(name: str, rest: dict[str, Any]) -> None:
    """As a caller who knows that some ids never occur says."""
    known = torch.tensor([False, True, False, True, False])
    denoise = forms()
    z0 = start(rest, 500)
    if "kernel" in rest and int(z0.max()) < VOCAB:
        z0 = known.nonzero()[torch.randint(2, z0.shape)][..., 0]
    out = made(name, **rest)(lambda z: denoise(z).masked_fill(~known, -torch.inf), z0)
    if name != "reverse":
        assert known[out.z].all()
    assert not any(now.prob.isnan().any() for now in out.trace)


@KINDS
def test_a_sharp_temperature_and_top_1_take_the_likeliest(name: str, rest: dict[str, Any]) -> None:
    logits = torch.tensor([[0, 0.5, 1, 0.2, 0], [2, 0, 0, 1, 1], [0, 0, 0, 0, 3], [0, 9, 1, 1, 1]])
    best = logits.argmax(-1)
    for change in ({"temperature": 1e-3}, {"top_k": 1}):
        if name == "reverse" and isinstance(rest["kernel"], Uniform):
            continue
        out = made(name, **rest | change)(lambda z: logits.expand(len(z), -1, -1), start(rest, 50))
        assert (out.z == best).all()


def test_temperature_divides_logits_and_top_k_cuts_them() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0, -1.0]])
    plain = made("random").predict(logits)
    torch.testing.assert_close(plain, logits.log_softmax(-1))
    warm = made("random", temperature=2.0).predict(logits)
    torch.testing.assert_close(warm, (logits / 2).log_softmax(-1))
    cut = made("random", top_k=2).predict(logits).exp()
    torch.testing.assert_close(cut, torch.tensor([[0, 0, math.e, 1, 0]]) / (math.e + 1))
    both = made("random", top_k=2, temperature=0.5).predict(logits).exp()
    torch.testing.assert_close(both, torch.tensor([[0, 0, math.e**2, 1, 0]]) / (math.e**2 + 1))
    all_of_them = made("random", top_k=9).predict(logits)
    torch.testing.assert_close(all_of_them, plain)
    few = logits.masked_fill(torch.arange(5) != 1, -torch.inf)
    assert made("random", top_k=2).predict(few).exp().tolist() == [[0, 1, 0, 0, 0]]
    assert plain.dtype == made("random").predict(logits.bfloat16()).dtype == torch.float32
    assert made("random").predict(logits.double()).dtype == torch.float64


@pytest.mark.parametrize("name", ["random", "confidence", "event_first", "entropy_bounded"])
@pytest.mark.parametrize("given", [0, 2, TOKENS])
def test_given_tokens_stay_and_the_rest_fits_them(name: str, given: int) -> None:
    table = Table(random_joint(VOCAB, TOKENS), VOCAB, TOKENS)
    z0 = torch.full((2000, TOKENS), VOCAB)
    z0[:, :given] = torch.randint(VOCAB, (2000, given))
    out = made(name, TOKENS)(table, z0)
    assert torch.equal(out.z[:, :given], z0[:, :given])
    assert (out.trace[-1].prob[:, :given] == 1).all()


@pytest.mark.parametrize("name", ["ancestral", "copilot4d", "planned", "gibbs"])
def test_other_samplers_finish_frames_that_are_partly_given(name: str) -> None:
    rest: dict[str, Any] = {"visible": "keep"} if name == "copilot4d" else {}
    z0 = torch.full((200, TOKENS), VOCAB)
    z0[:, 1:3] = torch.randint(VOCAB, (200, 2))
    out = made(name, **rest)(forms(), z0)
    assert out.z.max() < VOCAB
    if name in ("ancestral", "copilot4d"):
        assert torch.equal(out.z[:, 1:3], z0[:, 1:3])


@KINDS
def test_frames_of_one_token_are_one_draw(name: str, rest: dict[str, Any]) -> None:
    rest = {k: v for k, v in rest.items() if k != "kernel"} if name != "reverse" else rest
    law = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0])
    sampled = made(name, 1, **rest | {"tokens": 1})
    z0 = start(rest, 20_000)[:, :1]
    z = sampled(lambda z: law.log().expand(len(z), 1, -1), z0).z
    if name != "reverse" or not isinstance(rest["kernel"], Uniform):
        torch.testing.assert_close(frequencies(z, VOCAB).float(), law, rtol=0, atol=0.012)


@pytest.mark.parametrize("name", GROUPED)
def test_more_steps_than_tokens_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="4 tokens takes 1 to 4 steps, not 5"):
        made(name, 5)


@KINDS
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_settings_without_a_sense_are_refused(
    name: str, rest: dict[str, Any], wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        made(name, **rest | wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("remask", {"rule": "loop"}, "cap, rescale, conf"),
        ("remask", {"strength": 1.1}, r"in \[0,1\]"),
        ("copilot4d", {"visible": "both"}, "resample, keep"),
        ("copilot4d", {"shape": "both"}, "linear, cosine, copilot"),
        ("event_first", {"budget": -0.1}, "at least 0"),
        ("gibbs", {"sweeps": 0}, "sweeps must be at least 1"),
    ],
)
def test_unknown_words_are_refused_with_the_choices(
    name: str, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        made(name, **wrong)


@pytest.fixture(scope="module")
def learned() -> Any:
    """A small network that learned frames of four tied tokens, which are 1 with probability 0.3."""
    torch.manual_seed(0)
    hidden = [nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    net = nn.Sequential(*hidden, nn.Linear(64, 8))
    process = Absorbing(vocab=2, schedule=Linear(), counts="cosine")
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)

    def denoise(z: Tensor) -> Tensor:
        return net(F.one_hot(z, 3).flatten(1).float()).view(-1, 4, 2)

    for _ in range(600):
        frames = (torch.rand(256, 1) < 0.3).long().expand(-1, 4)
        noised = process.corrupt(frames)
        loss = denoising_loss(denoise(noised.z), frames, noised.scored).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoise


@torch.no_grad()
def test_a_learned_denoiser_tears_tied_tokens_only_when_it_draws_them_at_once(
    learned: Any,
) -> None:
    z0, prob = torch.full((20_000, 4), 2), 0.3

    def torn(name: str, steps: int, **rest: Any) -> tuple[float, float]:
        z = SAMPLERS[name](tokens=4, vocab=2, steps=steps, **rest)(learned, z0).z
        whole = z.sum(-1)
        broken = float(((whole > 0) & (whole < 4)).double().mean())
        return broken, float((z[:, 0] == 1).double().mean())

    once, twice = torn("random", 1), torn("random", 2)
    assert once[0] == pytest.approx(1 - prob**4 - (1 - prob) ** 4, abs=0.03)
    assert 0.3 < twice[0] < once[0] - 0.2
    for found in (torn("random", 4), torn("event_first", 4), torn("entropy_bounded", 4)):
        assert found[0] < 0.02 and found[1] == pytest.approx(prob, abs=0.03)
    assert torn("confidence", 4, noise=0.0)[1] < 0.1
    frames = (torch.rand(4000, 1) < prob).long().expand(-1, 4)
    coin = -prob * math.log(prob) - (1 - prob) * math.log(1 - prob)
    bound = float(count_bound(learned, frames, 2, draws=4).mean())
    curve = [float(nll_at(learned, frames, 2, groups(4, k, "linear")).mean()) for k in (1, 2, 4)]
    assert bound == pytest.approx(coin, abs=0.08) and curve[2] == pytest.approx(coin, abs=0.08)
    assert curve[0] == pytest.approx(4 * coin, abs=0.15) and curve[0] > curve[1] > curve[2]


@torch.no_grad()
def test_the_table_of_tied_tokens_is_what_is_learned(learned: Any) -> None:
    table = Table(tied_joint(4, 0.3), 2, 4)
    z = torch.tensor([[2, 2, 2, 2], [2, 1, 2, 2], [0, 2, 2, 0]])
    masked = z == 2
    apart = (learned(z).softmax(-1) - table(z).exp()).abs().amax(-1)
    assert float(apart[masked].max()) < 0.05
