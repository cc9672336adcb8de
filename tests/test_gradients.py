"""The gradient estimators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from worldmodels.quantizers.gradients import GRADIENTS, RATIO, rotation, straight_through


def pairs(count: int = 40, dim: int = 5) -> tuple[Tensor, Tensor]:
    """Vectors and codes of like sizes."""
    z, q = torch.randn(count, dim), torch.randn(count, dim)
    return z, q * z.norm(dim=-1, keepdim=True) / q.norm(dim=-1, keepdim=True) * 2


def jacobians(z: Tensor, q: Tensor) -> Tensor:
    """Of the rotation at each vector: (N,d,d)."""
    return torch.stack(
        [jacobian(lambda x, b=b: rotation(x, b), a) for a, b in zip(z, q, strict=True)]
    )


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_value_is_the_code_and_only_the_vector_gets_a_gradient(name: str) -> None:
    z, q = pairs()
    z.requires_grad_()
    q.requires_grad_()
    out = GRADIENTS[name](z, q)
    torch.testing.assert_close(out, q, atol=5e-6, rtol=0)
    out.square().sum().backward()
    assert z.grad is not None and z.grad.all() and q.grad is None


def test_straight_through_is_the_identity_backwards() -> None:
    z, q = pairs(1)
    (found,) = jacobian(lambda x: straight_through(x, q), z)[:, :, 0]
    assert torch.equal(found, torch.eye(5))


def test_rotation_turns_and_scales_by_the_ratio_of_sizes() -> None:
    z, q = (x.double() for x in pairs())
    found = jacobians(z, q)
    ratio = q.norm(dim=-1) / z.norm(dim=-1)
    eye = ratio.square()[:, None, None] * torch.eye(5)
    torch.testing.assert_close(found @ found.mT, eye.double(), atol=1e-6, rtol=1e-6)
    assert (torch.linalg.det(found) > 0).all()
    torch.testing.assert_close((found @ z[..., None])[..., 0], q)


def test_what_is_at_right_angles_to_both_is_only_scaled() -> None:
    z, q = (x.double() for x in pairs())
    basis = torch.linalg.qr(torch.stack((z, q), -1)).Q
    free = torch.randn_like(z)
    free = free - (basis @ (basis.mT @ free[..., None]))[..., 0]
    ratio = (q.norm(dim=-1) / z.norm(dim=-1))[:, None]
    torch.testing.assert_close((jacobians(z, q) @ free[..., None])[..., 0], ratio * free)


def test_rotation_onto_itself_is_straight_through() -> None:
    z, _ = pairs()
    torch.testing.assert_close(jacobians(z, z), torch.eye(5).expand(40, 5, 5))


def test_opposite_vectors_have_a_finite_gradient_and_the_right_value() -> None:
    z, _ = pairs()
    torch.testing.assert_close(rotation(z, -z), -z)
    assert jacobians(z, -z).isfinite().all() and jacobians(z, -z).abs().max() <= 3


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e-12, 1e-5, 1e-3, 1e3, 1e12, 1e30])
def test_gradients_stay_bounded_however_long_the_vector_or_the_code(size: float) -> None:
    z, q = pairs()
    for a, b in ((size * z, q), (z, size * q), (size * z, size * q)):
        torch.testing.assert_close(rotation(a, b), b)
        assert jacobians(a, b).norm(dim=(-1, -2)).max() <= 2.3 * RATIO[1]


def test_a_vector_without_direction_is_taken_straight_through() -> None:
    z, q = pairs()
    for a in (torch.zeros_like(z), 1e-6 * z):
        assert torch.equal(jacobians(a, q), torch.eye(5).expand(40, 5, 5))


def test_one_number_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        rotation(torch.randn(3, 1), torch.randn(3, 1))


def test_other_vectors_of_the_batch_do_not_matter() -> None:
    z, q = pairs()
    z.requires_grad_()
    towards = torch.randn_like(q)
    (whole,) = torch.autograd.grad((rotation(z, q) * towards).sum(), z)
    far = torch.cat((z[:3], 1e6 * torch.randn(9, 5))).detach().requires_grad_()
    q_far = torch.cat((q[:3], torch.randn(9, 5)))
    (some,) = torch.autograd.grad((rotation(far, q_far)[:3] * towards[:3]).sum(), far)
    torch.testing.assert_close(some[:3], whole[:3])
