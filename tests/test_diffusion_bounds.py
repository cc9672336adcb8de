"""Losses and bounds against sums over all frames, orders and times."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.denoisers import Bent, Table, number, random_joint, states
from tests.nets import no_waiting
from worldmodels.diffusion.bounds import count_bound, integrated_bound, nll_at
from worldmodels.diffusion.draws import Rand, RowStreams, uniforms
from worldmodels.diffusion.kernels import marginal
from worldmodels.diffusion.objective import denoising_loss, time_bound, token_nll
from worldmodels.diffusion.processes import COUNTS, LAWS, Absorbing, Hybrid, Uniform
from worldmodels.diffusion.schedules import SCHEDULES, Linear, Schedule, groups

VOCAB, TOKENS = 3, 3
WIDE = uniforms("cpu", torch.float64)
ORDERS = torch.tensor(list(permutations(range(TOKENS)))).double() / TOKENS


@pytest.fixture
def table() -> Table:
    return Table(random_joint(VOCAB, TOKENS), VOCAB, TOKENS)


def scripted(*numbers: Tensor) -> Rand:
    """Says these numbers, of these shapes."""
    left = list(numbers)

    def rand(shape: tuple[int, ...]) -> Tensor:
        assert left[0].shape == shape
        return left.pop(0)

    return rand


def every_draw(denoise: Table | Bent, frame: Tensor) -> Tensor:
    """The bound of one frame: the estimate's mean over all counts and all orders."""
    counts = (torch.arange(TOKENS).double() + 0.5) / TOKENS
    cases = TOKENS * len(ORDERS)
    rand = scripted(counts.repeat_interleave(len(ORDERS)), ORDERS.repeat(TOKENS, 1))
    return count_bound(denoise, frame.expand(cases, -1), VOCAB, rand).mean()


def order_likelihood(denoise: Table | Bent, frame: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the mean over orders of the chain rule, and the mean over orders of its -log."""
    nats = []
    for order in permutations(range(TOKENS)):
        z, total = torch.full((1, TOKENS), VOCAB), torch.zeros(()).double()
        for i in order:
            total = total + token_nll(denoise(z), frame[None])[0, i]
            z[0, i] = frame[i]
        nats.append(total)
    each = torch.stack(nats)
    return -(-each).exp().mean().log(), each.mean()


def test_of_a_perfect_denoiser_the_bound_is_the_likelihood(table: Table) -> None:
    for frame, prob in zip(table.frames, table.joint, strict=True):
        assert float(every_draw(table, frame)) == pytest.approx(-math.log(prob), abs=1e-9)


def test_of_another_denoiser_it_is_above_that_of_random_orders(table: Table) -> None:
    bent = Bent(table, 1.0)
    likelihood, gaps = [], []
    for frame in table.frames:
        exact, chains = order_likelihood(bent, frame)
        bound = every_draw(bent, frame)
        assert float(bound) == pytest.approx(float(chains), abs=1e-9)
        likelihood.append(exact)
        gaps.append(bound - exact)
    assert float((-torch.stack(likelihood)).exp().sum()) == pytest.approx(1, abs=1e-9)
    assert min(gaps) > 0 and max(gaps) > 0.01


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_is_the_integral_over_time_of_every_schedule(table: Table, name: str) -> None:
    schedule: Schedule = SCHEDULES[name]()
    bent, frame = Bent(table, 1.0), table.frames[5]
    # The sum of masked tokens' nats, over all sets of a size.
    sums = []
    for count in range(TOKENS + 1):
        nats = torch.zeros(()).double()
        for places in combinations(range(TOKENS), count):
            z = frame.clone()
            z[list(places)] = VOCAB
            nats = nats + token_nll(bent(z[None]), frame[None])[0, list(places)].sum()
        sums.append(nats)
    nodes = 100_000
    t = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    alpha, total = schedule.alpha(t), torch.zeros(nodes).double()
    for count, nats in enumerate(sums):
        total = total + (1 - alpha) ** count * alpha ** (TOKENS - count) * nats
    integral = (schedule.weight(t) * total).mean()
    # A geometric schedule is not clean at 0 by 1e-5.
    assert float(every_draw(bent, frame)) == pytest.approx(float(integral), rel=1e-4)


@pytest.mark.parametrize("draws", [1, 2, TOKENS])
def test_estimates_of_the_bound_have_its_mean(table: Table, draws: int) -> None:
    bent, frame = Bent(table, 1.0), table.frames[7]
    found = count_bound(bent, frame.expand(40_000, -1), VOCAB, WIDE, draws=draws)
    error = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(float(every_draw(bent, frame)), abs=3 * error)


@pytest.mark.parametrize("counts", COUNTS)
def test_the_loss_of_a_frame_times_its_weight_has_the_mean_of_the_bound(
    table: Table, counts: str
) -> None:
    bent, frame = Bent(table, 1.0), table.frames[7]
    process = Absorbing(vocab=VOCAB, schedule=Linear(), counts=counts)
    cases = 600 * len(ORDERS)
    u = (torch.arange(600).double() + 0.5) / 600
    draws = scripted(u.repeat_interleave(len(ORDERS)), ORDERS.repeat(600, 1))
    noised = process.corrupt(frame.expand(cases, -1), draws)
    assert noised.weight is not None
    every = denoising_loss(bent(noised.z), frame.expand(cases, -1), noised.scored) * noised.weight
    assert float(every.mean()) == pytest.approx(float(every_draw(bent, frame)), rel=3e-3)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("tokens", [1, 4, 64])
def test_counts_come_as_often_as_their_law_says(counts: str, tokens: int) -> None:
    u = (torch.arange(200_000).double() + 0.5) / 200_000
    found = COUNTS[counts](u, tokens).bincount(minlength=tokens + 1)[1:] / len(u)
    law = LAWS[counts](torch.arange(tokens) + 1, tokens)
    torch.testing.assert_close(found, law, atol=2e-5, rtol=0)
    assert float(law.sum()) == pytest.approx(1, abs=1e-6)


def test_with_as_many_draws_as_tokens_each_count_comes_once(table: Table) -> None:
    seen: list[Tensor] = []

    def watch(z: Tensor) -> Tensor:
        seen.append((z == VOCAB).sum(-1))
        return table(z)

    count_bound(watch, table.frames, VOCAB, draws=TOKENS)
    counts = torch.stack(seen).sort(0).values
    assert torch.equal(counts, torch.tensor([[1], [2], [3]]).expand(3, 27))

    def unsure_of_many(z: Tensor) -> Tensor:
        sharp = torch.tensor([9.0, 2.0, 1.0, 0.0])[(z == VOCAB).sum(-1)]
        return sharp[:, None, None] * F.one_hot(torch.zeros_like(z), VOCAB)

    zeros = torch.zeros(500, TOKENS).long()
    assert count_bound(unsure_of_many, zeros, VOCAB, draws=1).std() > 0.5
    assert count_bound(unsure_of_many, zeros, VOCAB, draws=TOKENS).std() < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_nll_at_is_the_mean_over_orders(table: Table, steps: int) -> None:
    bent = Bent(table, 1.0)
    sizes = groups(TOKENS, steps, "linear")
    for frame in table.frames[::5]:
        each = []
        for order in permutations(range(TOKENS)):
            z, nats, done = torch.full((1, TOKENS), VOCAB), torch.zeros(()).double(), 0
            for size in sizes:
                places = list(order[done : done + size])
                nats = nats + token_nll(bent(z), frame[None])[0, places].sum()
                z[0, places] = frame[places]
                done += size
            each.append(nats)
        found = nll_at(bent, frame.expand(6, -1), VOCAB, sizes, scripted(ORDERS))
        assert float(found.mean()) == pytest.approx(float(torch.stack(each).mean()), abs=1e-9)


def test_nll_at_falls_from_the_marginals_to_the_bound(table: Table) -> None:
    bent, rows = Bent(table, 0.5), table.frames.repeat_interleave(6, 0)
    mean = []
    for steps in (1, 2, 3):
        nats = nll_at(
            table, rows, VOCAB, groups(TOKENS, steps, "linear"), scripted(ORDERS.repeat(27, 1))
        )
        mean.append(float((nats.view(27, 6).mean(-1) * table.joint).sum()))
    assert mean[0] > mean[1] > mean[2]
    entropy = -(table.joint * table.joint.log()).sum()
    assert mean[2] == pytest.approx(float(entropy), abs=1e-9)
    singles = nll_at(bent, table.frames, VOCAB, (3,))
    empty = bent(torch.full((1, TOKENS), VOCAB)).log_softmax(-1)
    expected = -empty[0, torch.arange(TOKENS), table.frames].sum(-1)
    torch.testing.assert_close(singles, expected, rtol=0, atol=1e-12)


def integrated(table: Table, kernel: Uniform | Hybrid, read: str, nodes: int) -> Tensor:
    """The bound (V^N,) of every frame: all noise at each of the nodes in time."""
    z, x = states(VOCAB + 1, TOKENS), table.frames
    total = torch.zeros(len(x)).double()
    for node in range(nodes):
        # Twice bent, as logarithms are left at the ends.
        s = torch.tensor((node + 0.5) / nodes).double()
        u, slope = s.square() * (3 - 2 * s), 6 * s * (1 - s)
        t = (math.pi / 2 * u).sin().square()
        law = marginal(kernel, t)[x[:, None], z].prod(-1)
        logits = getattr(table, read)(z, kernel, t).log()
        many = time_bound(
            logits.repeat(len(x), 1, 1),
            x.repeat_interleave(len(z), 0),
            z.repeat(len(x), 1),
            t.expand(len(x) * len(z)),
            kernel,
        ).view(len(x), len(z))
        # Of masks that the kernel does not have, the rates are 0/0.
        many = torch.where(law > 0, many, 0)
        total = total + (law * many).sum(-1) * slope * (math.pi / 2) * (math.pi * u).sin() / nodes
    return total


KERNELS: list[Uniform | Hybrid] = [
    Hybrid(vocab=VOCAB, replaced=0.2),
    Uniform(vocab=VOCAB, schedule=Linear()),
]


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_the_cavity_posterior_the_integral_is_the_likelihood(
    table: Table, kernel: Uniform | Hybrid
) -> None:
    found = integrated(table, kernel, "cavity", 200)
    torch.testing.assert_close(found, -table.joint.log(), rtol=0, atol=1e-3)
    wrong = integrated(table, kernel, "full", 60)
    assert float((wrong - found).mul(table.joint).sum()) > 0.01


@pytest.mark.parametrize("kernel", KERNELS)
def test_estimates_of_the_integral_have_its_mean(table: Table, kernel: Uniform | Hybrid) -> None:
    """Of a denoiser that knows nothing of time, as a network would not."""
    frame = table.frames[11]
    logits = torch.randn(TOKENS, VOCAB, dtype=torch.float64)

    def blind(z: Tensor) -> Tensor:
        return logits.expand(len(z), -1, -1)

    rows = frame.expand(40_000, -1)
    found = integrated_bound(blind, rows, kernel, WIDE, draws=3)
    error = float(found.std()) / math.sqrt(len(found))
    # Of tokens that are guessed one by one the bound is exact.
    exact = float(token_nll(logits[None], frame[None]).sum())
    assert float(found.mean()) == pytest.approx(exact, abs=3.5 * error + 1e-3)
    narrow = integrated_bound(blind, rows[:500], kernel, RowStreams(torch.arange(500)))
    assert narrow.isfinite().all()


def test_of_uniform_counts_the_loss_times_tokens_is_the_bound(table: Table) -> None:
    bent, frame = Bent(table, 1.0), table.frames[9]
    made = Absorbing(vocab=VOCAB, schedule=Linear(), counts="uniform")
    tokens = frame.expand(40_000, -1)
    noised = made.corrupt(tokens, WIDE)
    found = denoising_loss(bent(noised.z), tokens, noised.scored) * TOKENS
    error = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(float(every_draw(bent, frame)), abs=3 * error)


def test_bounds_do_not_wait_for_the_device_and_are_each_rows_own(table: Table) -> None:
    tokens, seeds = table.frames[:6], torch.arange(6)
    table.table = table.table.float()
    logits = torch.randn(VOCAB)

    def blind(z: Tensor) -> Tensor:
        return logits.expand(*z.shape, -1)

    with no_waiting():
        together = [
            count_bound(table, tokens, VOCAB, RowStreams(seeds), draws=2),
            nll_at(table, tokens, VOCAB, (1, 2), RowStreams(seeds)),
            integrated_bound(blind, tokens, KERNELS[0], RowStreams(seeds), draws=2),
        ]
    for i in range(6):
        row, alone = tokens[i : i + 1], seeds[i : i + 1]
        assert torch.equal(
            count_bound(table, row, VOCAB, RowStreams(alone), draws=2), together[0][i : i + 1]
        )
        assert torch.equal(
            nll_at(table, row, VOCAB, (1, 2), RowStreams(alone)), together[1][i : i + 1]
        )
        torch.testing.assert_close(
            integrated_bound(blind, row, KERNELS[0], RowStreams(alone), draws=2),
            together[2][i : i + 1],
        )
    assert number(tokens, VOCAB).tolist() == list(range(6))
