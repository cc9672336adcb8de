"""What samplers draw, against exact laws: those that go back along a grid of times."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.denoisers import (
    Table,
    chi_square,
    distance,
    frequencies,
    number,
    random_joint,
    states,
)
from tests.sampler_laws import (
    all_masks,
    coins,
    finished,
    pushed,
    sampler,
    step_matrix,
    values,
)
from worldmodels.diffusion.draws import uniforms
from worldmodels.diffusion.kernels import mixture_step
from worldmodels.diffusion.processes import Hybrid, Uniform
from worldmodels.diffusion.sampling import Step
from worldmodels.diffusion.schedules import Cosine, Linear

VOCAB, TOKENS = 3, 3
WIDE = uniforms("cpu", torch.float64)
MASKS = all_masks(VOCAB, TOKENS)
EVERY = states(VOCAB + 1, TOKENS)


@pytest.fixture
def table() -> Table:
    return Table(random_joint(VOCAB, TOKENS), VOCAB, TOKENS)


def marginals(table: Table) -> Tensor:
    """The product (V^N,) of what the tokens are one by one."""
    each = table(torch.full((1, TOKENS), VOCAB)).exp()[0]
    return each[torch.arange(TOKENS), table.frames].prod(-1)


def test_ancestral_comes_nearer_with_every_step(table: Table) -> None:
    apart = []
    for steps in (1, 2, 4, 16, 32):
        ended = MASKS
        made = sampler("ancestral", TOKENS, VOCAB, steps)
        for k in range(steps):
            # At t = 1 - k/K a mask stays with the probability s/t.
            stay = torch.full((64, TOKENS), (steps - k - 1) / (steps - k), dtype=torch.float64)
            ended = ended @ step_matrix(made, k, table, values, coins(stay))
        apart.append(distance(finished(ended, VOCAB, TOKENS), table.joint))
    assert apart[0] == pytest.approx(distance(marginals(table), table.joint), abs=1e-12)
    # About c/K; 3 tokens in random order need just 3 calls.
    ratios = [steps * far for steps, far in zip((16, 32), apart[-2:], strict=True)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05) and sorted(apart, reverse=True) == apart


def test_ancestral_shows_places_as_its_schedule_says() -> None:
    schedule, steps = Cosine(), 4
    made = sampler("ancestral", 50, VOCAB, steps, schedule=schedule)
    out = made(lambda z: torch.zeros(*z.shape, VOCAB), torch.full((2000, 50), VOCAB))
    for k, now in enumerate(out.trace[:-1]):
        left = float((now.z == VOCAB).double().mean())
        alpha = float(schedule.alpha(torch.tensor(1 - (k + 1) / steps)))
        assert left == pytest.approx(1 - alpha, abs=0.01)


def remasking(rule: str, strength: float, steps: int, k: int) -> Tensor:
    """At each place of every state (S,N): the chance that it is a mask after call k."""
    before, after = k / steps, (k + 1) / steps
    limit = min(1.0, (1 - after) / before) if k else 1.0
    masked = EVERY == VOCAB
    if rule == "conf":
        # All visible tokens were as likely when they were written.
        again = strength * limit / (~masked).sum(-1, keepdim=True).clamp_min(1)
        again, stay = again.expand(masked.shape), (1 - after) / (1 - before)
    else:
        sigma = min(strength, limit) if rule == "cap" else strength * limit
        again = torch.full(masked.shape, sigma, dtype=torch.float64)
        stay = (1 - after - sigma * before) / (1 - before)
    return torch.where(masked, stay, again).double()


def remasked(table: Table, rule: str, strength: float, steps: int) -> list[Tensor]:
    made = sampler("remask", TOKENS, VOCAB, steps, rule=rule, strength=strength)
    return [
        step_matrix(made, k, table, values, coins(remasking(rule, strength, steps, k)))
        for k in range(steps)
    ]


@pytest.mark.parametrize("rule", ["cap", "rescale"])
@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5, 1.0])
def test_remasking_leaves_as_many_masks_as_the_schedule(
    table: Table, rule: str, strength: float
) -> None:
    law, steps = MASKS, 6
    for k, matrix in enumerate(remasked(table, rule, strength, steps)):
        torch.testing.assert_close(matrix.sum(-1), torch.ones(64).double())
        law = law @ matrix
        masks = law @ (EVERY == VOCAB).double()
        torch.testing.assert_close(masks, torch.full((3,), 1 - (k + 1) / steps).double())
    assert distance(finished(law, VOCAB, TOKENS), table.joint) < 0.3


def test_of_data_remasking_keeps_the_noised_law(table: Table) -> None:
    """The law of z_t after t of masks, stepped with a perfect denoiser of one token, is z_s's."""
    joint = random_joint(VOCAB, 1)
    single = Table(joint, VOCAB, 1)
    steps = 5
    for rule in ("cap", "rescale"):
        made = sampler("remask", 1, VOCAB, steps, rule=rule, strength=0.4)
        for k in range(steps):
            before, after = k / steps, (k + 1) / steps
            chance = remasking(rule, 0.4, steps, k)
            low = torch.cat([chance[number(torch.tensor([v, 0, 0]), 4)][:1] for v in range(4)])
            start = torch.cat([joint * before, torch.tensor([1 - before], dtype=torch.float64)])
            end = torch.cat([joint * after, torch.tensor([1 - after], dtype=torch.float64)])
            matrix = step_matrix(made, k, single, values, coins(low[:, None]))
            torch.testing.assert_close(start @ matrix, end, rtol=0, atol=1e-12)


def test_without_strength_remasking_is_ancestral(table: Table) -> None:
    made = sampler("ancestral", TOKENS, VOCAB, 4)
    for k, matrix in enumerate(remasked(table, "rescale", 0.0, 4)):
        stay = torch.full((64, TOKENS), (3 - k) / (4 - k), dtype=torch.float64)
        plain = step_matrix(made, k, table, values, coins(stay))
        torch.testing.assert_close(matrix, plain, rtol=0, atol=1e-12)


def test_ancestral_draws_from_its_law(table: Table) -> None:
    """In float32 as well, with torch's own numbers."""
    expected = pushed(MASKS, remasked(table, "rescale", 0.0, 4))
    table.table = table.table.float()
    z = sampler("ancestral", TOKENS, VOCAB, 4)(table, torch.full((100_000, TOKENS), VOCAB)).z
    assert chi_square(frequencies(z, VOCAB) * 1e5, finished(expected, VOCAB, TOKENS)) > 1e-3


@pytest.mark.parametrize("rule", ["cap", "rescale", "conf"])
def test_remasking_draws_from_its_law(table: Table, rule: str) -> None:
    steps = 4
    expected = remasked(table, rule, 0.6, steps)
    made = sampler("remask", TOKENS, VOCAB, steps, rule=rule, strength=0.6)
    out = made(table, torch.full((100_000, TOKENS), VOCAB), WIDE)
    if rule == "conf":
        # The chances of the trace, not even ones, decide; only the first call has none.
        first = frequencies(out.trace[0].z, VOCAB + 1)
        assert chi_square(first * 1e5, MASKS @ expected[0]) > 1e-3
        return
    for k, now in enumerate(out.trace):
        counts = frequencies(now.z, VOCAB + 1) * 1e5
        assert chi_square(counts, pushed(MASKS, expected[: k + 1])) > 1e-3


def test_conf_masks_those_again_that_were_unlikely() -> None:
    made = sampler("remask", 4, VOCAB, 2, rule="conf", strength=1.0)
    z, rows = torch.tensor([[0, 1, 2, VOCAB]]).expand(100_000, -1), 100_000
    prob = torch.tensor([[0.1, 0.5, 0.9, 0.0]]).expand(rows, -1)
    after = made.step(0, Step(z, prob), torch.zeros(rows, 4, VOCAB).log_softmax(-1), WIDE)
    doubt = (-prob[0, :3]).exp()
    # In the first of two calls everything may be masked.
    expected = doubt / doubt.sum()
    found = (after.z[:, :3] == VOCAB).double().mean(0)
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=0.006)
    assert not after.prob[after.z == VOCAB].any()


@pytest.mark.parametrize(
    "kernel",
    [Uniform(vocab=VOCAB, schedule=Linear()), Hybrid(vocab=VOCAB, replaced=0.3)],
)
def test_reverse_draws_from_the_law_of_its_steps(table: Table, kernel: Uniform | Hybrid) -> None:
    steps = 3
    law = kernel.noise(torch.tensor(1.0).double())[EVERY].prod(-1)
    times = [torch.tensor(1 - k / steps).double() for k in range(steps + 1)]
    laws = [law]
    for t, s in zip(times, times[1:], strict=False):
        each = mixture_step(kernel, s, t, EVERY, table.full(EVERY, kernel, t))
        laws.append(laws[-1] @ each[:, torch.arange(TOKENS), EVERY].prod(-1))
    left = list(times)

    def denoise(z: Tensor) -> Tensor:
        # Each state once, as a hundred thousand frames have few.
        t = left.pop(0)
        return table.full(EVERY, kernel, t)[number(z, VOCAB + 1)].log()

    made = sampler("reverse", TOKENS, VOCAB, steps, kernel=kernel)
    out = made(denoise, kernel.prior((100_000, TOKENS), WIDE), WIDE)
    for now, expected in zip(out.trace, laws[1:], strict=True):
        assert chi_square(frequencies(now.z, VOCAB + 1) * 1e5, expected) > 1e-3
