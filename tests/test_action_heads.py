"""What policies' outputs say about actions: exact probabilities, draws, gradients."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.action_heads import MEAN, Binned, Categorical, MultiCategorical, SquashedGaussian
from agents.protocols import ActionHead
from tests.nets import no_waiting
from worldmodels.nets.heads import sample

CHOICES: dict[str, Any] = {
    "categorical": Categorical(actions=5),
    "multi_categorical": MultiCategorical(sizes=(3, 2, 4)),
    "binned": Binned(dims=3, bins=5),
}
GAUSSIAN = SquashedGaussian(dims=2, min_std=0.1, max_std=2.0)
HEADS: dict[str, Any] = CHOICES | {"squashed_gaussian": GAUSSIAN}
DIMS = {"categorical": 1, "multi_categorical": 3, "binned": 3, "squashed_gaussian": 2}


def every(kind: str) -> Tensor:
    """All actions of a head of choices, (N,*A)."""
    grid = torch.linspace(-1, 1, 5).tolist()
    ranges: dict[str, list[Any]] = {
        "multi_categorical": [range(3), range(2), range(4)],
        "binned": [grid] * 3,
    }
    return torch.arange(5) if kind == "categorical" else torch.tensor([*product(*ranges[kind])])


def gaussian(mean: list[float], std: list[float]) -> Tensor:
    """Outputs (4,) of GAUSSIAN for these means and deviations."""
    share = (torch.tensor(std) / 0.1).log() / math.log(20)
    return torch.cat((MEAN * (torch.tensor(mean) / MEAN).atanh(), share.logit()))


def test_a_single_choice_is_drawn_and_scored_as_agents_have_done() -> None:
    """To the bit, gradients too."""
    head, act = CHOICES["categorical"], torch.randint(0, 5, (6, 7))
    weight, ret = torch.rand(6, 7), torch.randn(6, 7)
    grads, losses = [], []
    for ours in (True, False):
        torch.manual_seed(0)
        logits = (torch.randn(6, 7, 5) * 3).requires_grad_()
        if ours:
            taken, entropy = head.score(logits, act)
            entropy = (entropy * weight).sum()
        else:
            logp = logits.float().log_softmax(-1)
            taken = logp.gather(-1, act[..., None])[..., 0]
            entropy = -((logp.exp() * logp).sum(-1) * weight).sum()
        loss = -(taken * ret * weight).sum() - 0.001 * entropy
        loss.backward()
        assert logits.grad is not None
        grads.append(logits.grad)
        losses.append(loss.detach())
    assert torch.equal(*grads) and torch.equal(*losses)
    for temperature in (1.0, 0.3):
        torch.manual_seed(1)
        drawn = head.sample(logits.detach(), temperature)
        torch.manual_seed(1)
        assert torch.equal(drawn, sample(logits.detach() / temperature))
    torch.manual_seed(1)
    plain = sample(logits.detach())
    torch.manual_seed(1)
    assert torch.equal(head.sample(logits.detach()), plain)


@pytest.mark.parametrize("kind", CHOICES)
def test_probabilities_are_those_of_draws_and_the_entropy_is_theirs(kind: str) -> None:
    head, acts, dims = CHOICES[kind], every(kind), DIMS[kind]
    outputs = torch.randn(head.size)
    log_prob, entropy = head.score(outputs.expand(len(acts), -1), acts)
    probs = (log_prob * dims).exp()
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0))
    torch.testing.assert_close(-(probs * log_prob).sum(), entropy[0])
    drawn = head.sample(outputs.expand(20_000, -1))
    alike = (drawn[:, None] == acts).view(20_000, len(acts), -1).all(-1)
    assert (alike.sum(1) == 1).all(), "every draw is one of them"
    assert (alike.float().mean(0) - probs).abs().max() < 0.015
    best = acts[probs.argmax()]
    assert torch.equal(head.mode(outputs), best)
    cold = head.sample(outputs.expand(50, -1), 1e-3)
    assert torch.equal(cold, best.expand_as(cold))


def test_dimensions_are_independent_categoricals() -> None:
    """Those of several sizes and those of one size say the same where both can."""
    binned, multi = Binned(dims=3, bins=5), MultiCategorical(sizes=(5, 5, 5))
    outputs, ids = torch.randn(50, 15), torch.randint(0, 5, (50, 3))
    act = ids.float() / 2 - 1
    torch.testing.assert_close(binned.score(outputs, act), multi.score(outputs, ids))
    assert torch.equal(binned.mode(outputs), multi.mode(outputs).float() / 2 - 1)
    single, parts = Categorical(actions=5), outputs.unflatten(-1, (3, 5))
    each = torch.stack([single.score(parts[:, k], ids[:, k])[0] for k in range(3)], -1)
    torch.testing.assert_close(binned.score(outputs, act)[0], each.mean(-1))


def test_an_even_policy_has_an_entropy_that_does_not_grow_with_dimensions() -> None:
    for dims in (1, 2, 21):
        entropy = Binned(dims=dims, bins=51).score(torch.zeros(dims * 51), torch.zeros(dims))[1]
        assert float(entropy) == pytest.approx(math.log(51), rel=1e-5)


def test_both_ends_can_be_drawn() -> None:
    head = Binned(dims=1, bins=51)
    drawn = head.sample(torch.zeros(5000, 51))
    assert drawn.min() == -1 and drawn.max() == 1 and len(drawn.unique()) == 51


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (1.5, 0.11), (-2.0, 1.5), (0.3, 1.9)])
def test_the_density_integrates_to_one_and_its_entropy_is_exact(mean: float, std: float) -> None:
    # Even before tanh: where a density piles up at the ends, steps must be small.
    before = torch.linspace(-7, 7, 20_001, dtype=torch.float64)
    act = before.tanh()
    outputs = gaussian([mean, mean], [std, std])
    log_prob, entropy = GAUSSIAN.score(
        outputs.expand(len(act), -1), act.float()[:, None].expand(-1, 2)
    )
    step = 1 - act.square()
    density = log_prob.double().exp() * step
    mass = torch.trapezoid(density, before)
    # float32 cannot tell actions apart that are nearer than 1e-7, which counts near the ends.
    assert float(mass) == pytest.approx(1, abs=3e-3)
    exact = -torch.trapezoid(density * log_prob.double(), before)
    assert float(entropy[0]) == pytest.approx(float(exact), abs=5e-3)


def test_the_entropy_is_what_draws_say() -> None:
    outputs = torch.cat((torch.randn(6, 2) * 2, torch.randn(6, 2) * 2), -1)
    many = outputs[:, None].expand(-1, 40_000, -1)
    log_prob, entropy = GAUSSIAN.score(many, GAUSSIAN.sample(many))
    torch.testing.assert_close(-log_prob.mean(1), entropy[:, 0], atol=0.03, rtol=0.01)
    assert (entropy <= math.log(2) + 1e-4).all(), "none is wider than an even one"


def test_the_density_is_that_of_torch() -> None:
    distributions = torch.distributions
    outputs = torch.randn(100, 4)
    mean, std = GAUSSIAN._gaussian(outputs)
    normal = distributions.Normal(mean, std)
    oracle = distributions.TransformedDistribution(
        normal, [distributions.TanhTransform(cache_size=1)]
    )
    act = oracle.sample()
    expected = oracle.log_prob(act).mean(-1)
    torch.testing.assert_close(GAUSSIAN.score(outputs, act)[0], expected, atol=1e-3, rtol=1e-3)


def test_deviations_and_means_are_bounded() -> None:
    outputs = torch.tensor([[-1e30] * 4, [0.0] * 4, [1e30] * 4, [1.0, -1.0, 2.0, -2.0]])
    mean, std = GAUSSIAN._gaussian(outputs)
    torch.testing.assert_close(std[:3, 0], torch.tensor([0.1, 0.2**0.5, 2.0]))
    torch.testing.assert_close(mean[:3, 0], torch.tensor([-5.0, 0, 5]))
    assert (std >= 0.0999).all() and (std <= 2.001).all()
    torch.testing.assert_close(GAUSSIAN.mode(outputs), mean.tanh())


def test_temperature_widens_draws() -> None:
    outputs = gaussian([0.2, -0.3], [0.3, 0.2]).expand(20_000, -1)
    for temperature in (0.1, 1.0, 2.0):
        drawn = GAUSSIAN.sample(outputs, temperature).atanh()
        torch.testing.assert_close(
            drawn.std(0), temperature * torch.tensor([0.3, 0.2]), atol=0, rtol=0.03
        )
        torch.testing.assert_close(drawn.mean(0), torch.tensor([0.2, -0.3]), atol=0.015, rtol=0)


def expected_square(outputs: Tensor, target: Tensor) -> Tensor:
    """The mean of (act - target)^2 by integration, summed over dimensions."""
    mean, std = GAUSSIAN._gaussian(outputs)
    place = torch.linspace(-6, 6, 401)
    share = (-0.5 * place.square()).softmax(0)
    act = (mean[:, None] + std[:, None] * place).tanh()
    return ((act - target[:, None]).square() * share).sum()


def test_both_gradients_are_that_of_the_expected_return() -> None:
    """Through the action, and of the log-probability, on a quadratic of two dimensions."""
    start, target = gaussian([0.4, -0.2], [0.5, 0.8]), torch.tensor([0.7, 0.1])
    outputs = start.clone().requires_grad_()
    (exact,) = torch.autograd.grad(expected_square(outputs, target), outputs)
    many = outputs.expand(200_000, -1)
    cost = (GAUSSIAN.rsample(many) - target).square().sum(-1).mean()
    (through,) = torch.autograd.grad(cost, outputs)
    act = GAUSSIAN.sample(many)
    assert not act.requires_grad
    paid = (act - target).square().sum(-1)
    log_prob = 2 * GAUSSIAN.score(many, act)[0]
    (scored,) = torch.autograd.grad((log_prob * (paid - paid.mean())).mean(), outputs)
    torch.testing.assert_close(through, exact, atol=4e-3, rtol=0)
    torch.testing.assert_close(scored, exact, atol=1e-2, rtol=0)
    assert exact.abs().min() > 0.02, "there is something to see"


@pytest.mark.parametrize("kind", CHOICES)
def test_the_score_gradient_is_that_of_the_expected_return(kind: str) -> None:
    head, acts, dims = CHOICES[kind], every(kind), DIMS[kind]
    paid = torch.randn(len(acts))
    outputs = torch.randn(head.size, requires_grad=True)
    log_prob, _ = head.score(outputs.expand(len(acts), -1), acts)
    (exact,) = torch.autograd.grad(((dims * log_prob).exp() * paid).sum(), outputs)
    many = outputs.expand(100_000, -1)
    act = head.sample(many).view(100_000, 1, -1)
    got = paid[(act == acts.view(1, len(acts), -1)).all(-1).byte().argmax(1)]
    act = act[:, 0] if acts.ndim > 1 else act[:, 0, 0]
    log_prob = dims * head.score(many, act)[0]
    (scored,) = torch.autograd.grad((log_prob * (got - got.mean())).mean(), outputs)
    torch.testing.assert_close(scored, exact, atol=1.5e-2, rtol=0)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_any_leading_shape_and_nothing_waits(kind: str, shape: tuple[int, ...]) -> None:
    head: ActionHead = HEADS[kind]
    outputs = torch.randn(*shape, head.size, requires_grad=True)
    with no_waiting():
        act, best = head.sample(outputs.detach()), head.mode(outputs.detach())
        log_prob, entropy = head.score(outputs, act)
        (log_prob + entropy).sum().backward()
    own = () if kind == "categorical" else (DIMS[kind],)
    assert act.shape == best.shape == (*shape, *own) and act.dtype == best.dtype
    assert act.dtype == (torch.int64 if "categorical" in kind else torch.float32)
    assert log_prob.shape == entropy.shape == shape and log_prob.dtype == torch.float32
    torch.manual_seed(3)
    first = head.sample(outputs.detach())
    torch.manual_seed(3)
    assert torch.equal(head.sample(outputs.detach()), first)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_outputs_stay_finite_and_in_bounds(kind: str, size: float) -> None:
    head = HEADS[kind]
    outputs = (torch.randn(200, head.size).sign() * size).requires_grad_()
    act = head.sample(outputs.detach())
    if not act.dtype.is_floating_point:
        assert (act >= 0).all()
    else:
        assert act.abs().max() <= 1 and act.isfinite().all()
    for taken in (act, head.mode(outputs.detach()), act.roll(1, 0)):
        log_prob, entropy = head.score(outputs, taken)
        (grad,) = torch.autograd.grad((log_prob + entropy).sum(), outputs)
        assert log_prob.isfinite().all() and entropy.isfinite().all() and grad.isfinite().all()


def test_the_ends_themselves_can_be_scored() -> None:
    for act in (-1.0, 1.0, 0.99999999):
        outputs = torch.randn(4, requires_grad=True)
        log_prob, _ = GAUSSIAN.score(outputs, torch.full((2,), act))
        (grad,) = torch.autograd.grad(log_prob, outputs)
        assert log_prob.isfinite() and grad.isfinite().all()


def test_the_gradient_through_an_action_is_finite_and_scores_it_consistently() -> None:
    """The entropy from draws is -score(outputs, rsample(outputs)): its gradient agrees, too."""
    outputs = gaussian([0.5, -1.0], [0.5, 0.9]).requires_grad_()
    (exact,) = torch.autograd.grad(GAUSSIAN.score(outputs, torch.zeros(2))[1], outputs)
    many = outputs.expand(100_000, -1)
    log_prob, _ = GAUSSIAN.score(many, GAUSSIAN.rsample(many))
    (drawn,) = torch.autograd.grad(-log_prob.mean(), outputs)
    torch.testing.assert_close(drawn, exact, atol=1e-2, rtol=0)


def test_half_precision_is_scored_in_single() -> None:
    for kind, head in HEADS.items():
        outputs = torch.randn(5, head.size).bfloat16()
        act = head.sample(outputs)
        expected = head.score(outputs.float(), act)
        torch.testing.assert_close(head.score(outputs, act), expected, msg=kind)
