"""Noise of one token as matrices: chains, posteriors, and steps back in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.denoisers import Table, distance, number, random_joint, states
from worldmodels.diffusion.kernels import (
    Kernel,
    cavity,
    full_posterior,
    marginal,
    mixture_step,
    plug_in_step,
    posterior,
    transition,
)
from worldmodels.diffusion.processes import Absorbing, Hybrid, Uniform
from worldmodels.diffusion.schedules import Cosine, Geometric, Linear, Poly

VOCAB = 3
KERNELS: list[Kernel] = [
    Absorbing(vocab=VOCAB, schedule=Linear(), counts="cosine"),
    Absorbing(vocab=VOCAB, schedule=Geometric(), counts="cosine"),
    Uniform(vocab=VOCAB, schedule=Linear()),
    Uniform(vocab=VOCAB, schedule=Cosine()),
    Hybrid(vocab=VOCAB, replaced=0.2),
    Hybrid(vocab=VOCAB, replaced=0.0),
]
NOISY = [KERNELS[2], KERNELS[4]]
TIMES = [(0.0, 0.3), (0.2, 0.21), (0.1, 0.9), (0.5, 1.0), (0.0, 1.0)]


def double(*times: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(t, dtype=torch.float64) for t in times)


def close(found: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("s", "t"), TIMES)
def test_two_stretches_of_noise_make_one(kernel: Kernel, s: float, t: float) -> None:
    at_s, at_t = double(s, t)
    step = transition(kernel, at_s, at_t)
    close(marginal(kernel, at_s) @ step, marginal(kernel, at_t))
    close(step.sum(-1), torch.ones(VOCAB + 1).double())
    assert (step > -1e-12).all()
    (middle,) = double((s + t) / 2)
    close(transition(kernel, at_s, middle) @ transition(kernel, middle, at_t), step)


def test_noise_that_is_taken_away_is_noticed() -> None:
    class Cleaning(Hybrid):
        def noise(self, t: Tensor) -> Tensor:
            return super().noise(t).flip(-1) if float(t) > 0.5 else super().noise(t)

    with pytest.raises(AssertionError, match="taken away"):
        transition(Cleaning(vocab=VOCAB, replaced=0.2), *double(0.49, 0.51))


def test_a_poly_schedule_is_a_linear_one_with_a_bent_clock() -> None:
    bent = Absorbing(vocab=VOCAB, schedule=Poly(2.0), counts="cosine")
    close(marginal(bent, *double(0.6)), marginal(KERNELS[0], *double(0.36)))


def test_kernels_end_where_they_should() -> None:
    replaced = 0.2
    hybrid = Hybrid(vocab=VOCAB, replaced=replaced)
    start, half, end = double(0.0, 0.5, 1.0)
    assert float(hybrid.alpha(start)) == 1 and float(hybrid.alpha(end)) == 0
    assert hybrid.noise(end).tolist() == [0, 0, 0, 1]
    assert float(hybrid.noise(half)[:-1].sum()) == pytest.approx(replaced, abs=1e-12)
    most = hybrid.noise(torch.linspace(0, 1, 101, dtype=torch.float64))[:, :-1].sum(-1)
    assert int(most.argmax()) == 50
    assert KERNELS[2].noise(end).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert KERNELS[0].noise(end).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("kernel", KERNELS)
def test_rates_are_those_of_alpha_and_noise(kernel: Kernel) -> None:
    t = torch.linspace(0.02, 0.98, 97, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(kernel.alpha(t).sum(), t)
    columns = [torch.autograd.grad(kernel.noise(t)[:, v].sum(), t) for v in range(VOCAB + 1)]
    rising = torch.stack([column for (column,) in columns], -1)
    expected = rising - (slope / kernel.alpha(t))[:, None] * kernel.noise(t)
    torch.testing.assert_close(kernel.rate(t), expected, rtol=1e-6, atol=1e-9)


def test_weights_of_the_hybrid_are_the_published_ones() -> None:
    kernel, replaced = Hybrid(vocab=VOCAB, replaced=0.2), 0.2
    t = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    scale = 2 * replaced / (1 - replaced)
    c = scale * (t * (1 - t)).sqrt()
    slope = scale * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())
    found = kernel.rate(t)[:, None] / marginal(kernel, t)[:, :-1]
    grown = c + (1 - t) * slope
    close(found[:, 0, -1], 1 / (t * (1 - t)), 1e-6)
    close(found[:, 0, 0], grown / VOCAB / ((1 - t) * (1 - t + c / VOCAB)), 1e-6)
    close(found[:, 0, 1], grown / ((1 - t) * c), 1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("s", "t"), TIMES)
def test_the_posterior_undoes_the_noise(kernel: Kernel, s: float, t: float) -> None:
    at_s, at_t = double(s, t)
    back = posterior(kernel, at_s, at_t)
    end = marginal(kernel, at_t)[:-1]
    close(torch.einsum("xt,txs->xs", end, back), marginal(kernel, at_s)[:-1])
    sums = back.sum(-1)
    close(sums, (end.T > 0).double())


def test_a_visible_token_of_masks_stays_and_a_mask_is_filled_in_time() -> None:
    back = posterior(KERNELS[0], *double(0.4, 0.8))
    close(back[VOCAB, 1], torch.tensor([0, 0.5, 0, 0.5]).double())
    close(back[1, 1], torch.tensor([0, 1, 0, 0]).double())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("s", "t"), TIMES)
def test_steps_are_sums_over_the_posterior(kernel: Kernel, s: float, t: float) -> None:
    at_s, at_t = double(s, t)
    z = torch.tensor([[VOCAB, 0, 2, 1]])
    if not marginal(kernel, at_t)[0, VOCAB]:
        z = z.clamp_max(VOCAB - 1)
    if float(at_t) == 1 and isinstance(kernel, Hybrid | Absorbing):
        z = torch.full_like(z, VOCAB)
    law = torch.rand(1, 4, VOCAB, dtype=torch.float64).softmax(-1)
    full = full_posterior(kernel, at_t, z, law)
    expected = torch.einsum("bnx,bnxs->bns", full, posterior(kernel, at_s, at_t)[z])
    close(mixture_step(kernel, at_s, at_t, z, full), expected)
    # From the cavity posterior the other formula leads to the same.
    close(plug_in_step(kernel, at_s, at_t, z, law), expected)
    if kernel in NOISY:
        close(cavity(kernel, at_t, z, full), law)


def test_visible_tokens_are_carried_over_whatever_the_model_says() -> None:
    law = torch.tensor([[[0.0, 0.3, 0.7]]]).double()
    z = torch.tensor([[0]])
    s, t = double(0.2, 0.6)
    for step in (mixture_step, plug_in_step):
        close(step(KERNELS[0], s, t, z, law)[0, 0], torch.eye(4)[0].double())


Step = Callable[[Kernel, Tensor, Tensor, Tensor, Tensor], Tensor]


def sampled(table: Table, kernel: Kernel, steps: int, step: Step, read: str) -> Tensor:
    """The law (V^N,) that a sampler ends with which takes `steps` steps from noise."""
    z = states(VOCAB + 1, table.tokens)
    start = kernel.noise(*double(1.0))[z].prod(-1)
    for k in range(steps):
        t, s = double(1 - k / steps, 1 - (k + 1) / steps)
        probs = getattr(table, read)(z, kernel, t)
        each = step(kernel, s, t, z, probs)
        matrix = each[:, torch.arange(table.tokens), z].prod(-1)
        start = start @ matrix
    return start[number(table.frames, VOCAB + 1)]


@pytest.mark.parametrize("kernel", NOISY)
def test_each_reverse_step_converges_with_its_own_posterior_only(kernel: Kernel) -> None:
    table = Table(random_joint(VOCAB, 2, sharpness=2.0), VOCAB, 2)
    wrong = []
    apart = []
    for steps in (4, 16, 64, 256):
        mixture = sampled(table, kernel, steps, mixture_step, "full")
        close(sampled(table, kernel, steps, plug_in_step, "cavity"), mixture, 1e-10)
        assert float(mixture.sum()) == pytest.approx(1)
        apart.append(distance(mixture, table.joint))
        wrong.append(distance(sampled(table, kernel, steps, plug_in_step, "full"), table.joint))
    assert all(later < 0.35 * sooner for sooner, later in zip(apart, apart[1:], strict=False))
    assert apart[-1] < 0.005 and min(wrong) > 0.05, (apart, wrong)
