"""Losses of noised frames, and what may be trained on."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from worldmodels.diffusion.kernels import marginal
from worldmodels.diffusion.objective import denoising_loss, time_bound
from worldmodels.diffusion.processes import Hybrid, Noised, Uniform
from worldmodels.diffusion.schedules import Linear

VOCAB, TOKENS = 3, 3
KERNELS: list[Uniform | Hybrid] = [
    Hybrid(vocab=VOCAB, replaced=0.2),
    Uniform(vocab=VOCAB, schedule=Linear()),
]


def test_clipping_bounds_the_weight_of_a_token_and_only_that() -> None:
    kernel = KERNELS[0]
    logits = torch.randn(3, 1, VOCAB, dtype=torch.float64)
    tokens, z = torch.zeros(3, 1).long(), torch.tensor([[0], [1], [VOCAB]])
    t = torch.full((3,), 0.01, dtype=torch.float64)
    weight = (kernel.rate(t[0]) / marginal(kernel, t[0])[0])[z[:, 0]]
    assert weight[0] < 2 < weight[1:].min()
    free, clipped = (time_bound(logits, tokens, z, t, kernel, clip) for clip in (None, 2.0))
    torch.testing.assert_close(clipped, free * (2 / weight).clamp_max(1))
    both = time_bound(logits[:2].view(1, 2, VOCAB), tokens[:2].T, z[:2].T, t[:1], kernel, 2.0)
    torch.testing.assert_close(both[0], clipped[:2].sum())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_integrand_can_be_trained_on(kernel: Uniform | Hybrid, dtype: torch.dtype) -> None:
    tokens = torch.randint(VOCAB, (1000, 5, TOKENS))
    noised = kernel.corrupt(tokens)
    # Times as near the ends as there are.
    noised.level[:2] = torch.tensor([1e-4, 1 - 1e-4])[:, None]
    logits = (9 * torch.randn(*tokens.shape, VOCAB)).to(dtype).requires_grad_()
    loss = time_bound(logits, tokens, noised.z, noised.level, kernel, clip=10.0)
    assert loss.shape == tokens.shape[:-1] and loss.dtype == torch.float32
    loss.mean().backward()
    assert loss.isfinite().all() and loss.min() > -1e-3
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_the_loss_is_the_mean_over_a_frames_scored_tokens() -> None:
    logits, tokens = torch.randn(2, 3, 4, 5), torch.randint(5, (2, 3, 4))
    scored = torch.rand(2, 3, 4) < 0.5
    scored[0, 0], scored[0, 1] = False, True
    noised = Noised(tokens, scored, torch.zeros(2, 3))
    for smoothing in (0.0, 0.1):
        found = denoising_loss(logits, tokens, noised.scored, smoothing)
        logp = logits.log_softmax(-1)
        hit = logp.gather(-1, tokens[..., None])[..., 0]
        nats = -(1 - smoothing) * hit - smoothing * logp.mean(-1)
        assert found.shape == (2, 3) and float(found[0, 0]) == 0
        for b in range(2):
            for f in range(3):
                if scored[b, f].any():
                    expected = nats[b, f][scored[b, f]].mean()
                    torch.testing.assert_close(found[b, f], expected)
    low = denoising_loss(logits.bfloat16(), tokens, noised.scored)
    assert low.dtype == torch.float32
    torch.testing.assert_close(
        low, denoising_loss(logits.bfloat16().float(), tokens, noised.scored)
    )


def test_tokens_that_are_not_scored_have_no_gradient_and_may_be_impossible() -> None:
    logits = torch.randn(1, 3, 5)
    logits[0, 0, 2] = -torch.inf
    logits.requires_grad_()
    tokens = torch.tensor([[2, 2, 2]])
    scored = torch.tensor([[False, True, False]])
    loss = denoising_loss(logits, tokens, scored)
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad is not None
    torch.testing.assert_close(loss[0], F.cross_entropy(logits[0, 1:2], tokens[0, 1:2]))
    assert not logits.grad[0, [0, 2]].isnan().any() and not logits.grad[0, [0, 2]].any()
