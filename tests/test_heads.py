"""Targets of heads, and sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldmodels.nets.heads import (
    REWARD_TARGETS,
    VALUE_TARGETS,
    ExpectedSign,
    HlGauss,
    Scalar,
    Sign,
    Target,
    TwoHot,
    sample,
    symexp,
    symlog,
)

TARGETS: dict[str, Target] = {**REWARD_TARGETS, **VALUE_TARGETS}
VALUES = torch.tensor([0.0, 1e-3, 0.1, 1.0, 2.5, 17.0, 400.0, 1e6])
VALUES = torch.cat((VALUES, -VALUES))


def counts_fit(counts: Tensor, probs: Tensor) -> bool:
    """Chi-square at about five standard deviations."""
    expected = probs * counts.sum()
    chi2 = float(((counts - expected).square() / expected)[probs > 0].sum())
    freedom = int((probs > 0).sum()) - 1
    return chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_symexp_inverts_symlog() -> None:
    torch.testing.assert_close(symexp(symlog(VALUES)), VALUES, rtol=1e-5, atol=1e-7)
    assert symlog(torch.tensor(-(math.e - 1))) == pytest.approx(-1)


def test_two_hot_labels_hold_the_value() -> None:
    label = TwoHot().label(VALUES)
    torch.testing.assert_close(label.sum(-1), torch.ones(len(VALUES)))
    assert ((label > 0).sum(-1) <= 2).all() and (label >= 0).all()
    torch.testing.assert_close(TwoHot().predict(label.log()), VALUES, rtol=2e-4, atol=1e-4)


def test_two_hot_label_of_a_value_between_two_buckets() -> None:
    width = 40 / 254
    label = TwoHot().label(symexp(torch.tensor([3.25 * width])))[0]
    assert label.nonzero().flatten().tolist() == [130, 131]
    torch.testing.assert_close(label[130:132], torch.tensor([0.75, 0.25]), atol=1e-4, rtol=0)


def test_zero_is_the_middle_bucket_and_the_edges_hold() -> None:
    far = [0.0, -math.expm1(20), math.expm1(20), -1e30, 1e30, -math.inf, math.inf]
    label = TwoHot().label(torch.tensor(far, dtype=torch.float32))
    assert label.argmax(-1).tolist() == [127, 0, 254, 0, 254, 0, 254]
    torch.testing.assert_close(label.sum(-1), torch.ones(len(far)))


def test_two_hot_loss_is_the_cross_entropy_and_leaves_its_argument_alone() -> None:
    logits, value = torch.randn(len(VALUES), 255), VALUES.clone()
    loss = TwoHot().loss(logits, value)
    expected = -(TwoHot().label(VALUES) * logits.softmax(-1).log()).sum(-1)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(value, VALUES)
    even = TwoHot().loss(torch.zeros(1, 255), torch.zeros(1))
    assert even.item() == pytest.approx(math.log(255))


def test_two_hot_prediction_of_even_logits_is_zero() -> None:
    assert TwoHot().predict(torch.zeros(4, 255)).abs().max() < 1e-4


WITHIN = torch.tensor([0.0, 1e-4, 0.003, 0.02, 0.3, 1.0, 7.7, 63.0, 900.0, 1.5e4])
WITHIN = torch.cat((WITHIN, -WITHIN))


def test_hl_gauss_labels_are_integrals_of_a_gaussian() -> None:
    label = HlGauss().label(WITHIN)
    torch.testing.assert_close(label.sum(-1), torch.ones(len(WITHIN)))
    width, per_bin = 30 / 128, 1000
    z = -15 - width / 2 + (torch.arange(129 * per_bin).double() + 0.5) * width / per_bin
    for row, value in zip(label, WITHIN.double(), strict=True):
        density = (-0.5 * ((z - (50 * value).asinh()) / (0.75 * width)) ** 2).exp()
        integral = (density / density.sum()).unflatten(0, (129, per_bin)).sum(-1)
        torch.testing.assert_close(row.double(), integral, atol=3e-6, rtol=0)


def test_hl_gauss_labels_hold_the_value() -> None:
    value = (torch.linspace(-13.9, 13.9, 5003).double().sinh() / 50).float()
    label = HlGauss().label(value)
    torch.testing.assert_close(HlGauss().predict(label.log()), value, rtol=3e-5, atol=3e-8)
    assert HlGauss().predict(torch.zeros(2, 129)).tolist() == [0, 0]


def test_hl_gauss_predicts_the_mean_of_values_that_differ() -> None:
    value = torch.tensor([-3.0, 0.5, 40.0])
    label, share = HlGauss().label(value), torch.tensor([0.2, 0.5, 0.3])
    mean = HlGauss().predict((share[:, None] * label).sum(0).log())
    torch.testing.assert_close(mean, (share * value).sum(), rtol=1e-4, atol=0)


def test_hl_gauss_values_do_not_grow_by_learning_from_themselves() -> None:
    value = torch.tensor([0.0, 1e-4])
    for _ in range(3000):
        value = HlGauss().predict(HlGauss().label(torch.tensor([0.1, 0.0]) + 0.997 * value).log())
    assert value[0].item() == pytest.approx(0.1 / 0.003, rel=0.01)
    assert abs(value[1].item()) < 1e-4


def test_hl_gauss_clamps_what_lies_beyond_its_bins() -> None:
    edge = math.sinh(15) / 50
    far = torch.tensor([edge, 2 * edge, 1e30, math.inf])
    for value, bin_ in ((far, 128), (-far, 0)):
        label = HlGauss().label(value)
        assert (label.argmax(-1) == bin_).all() and (label == label[0]).all()
        torch.testing.assert_close(label.sum(-1), torch.ones(4))


def test_hl_gauss_gradient_is_the_difference_of_the_distributions() -> None:
    logits = (torch.randn(len(WITHIN), 129) * 3).requires_grad_()
    HlGauss().loss(logits, WITHIN).sum().backward()
    assert logits.grad is not None
    expected = logits.softmax(-1) - HlGauss().label(WITHIN)
    torch.testing.assert_close(logits.grad, expected.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_autocast_changes_neither_losses_nor_predictions(name: str) -> None:
    target = TARGETS[name]
    logits, value = torch.randn(50, 7, target.size) * 3, torch.randn(50, 7) * 10

    def both() -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        return target.loss(logits, value), target.predict(logits)

    loss, predicted = both()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_in, predicted_in = both()
    assert loss_in.dtype == predicted_in.dtype == torch.float32
    assert torch.equal(loss, loss_in) and torch.equal(predicted, predicted_in)


def test_losses_are_per_element() -> None:
    for target in TARGETS.values():
        logits, value = torch.randn(3, 4, target.size), torch.randn(3, 4)
        loss = target.loss(logits, value)
        alone = target.loss(logits[2:, 1:2], value[2:, 1:2])
        assert loss.shape == (3, 4) == target.predict(logits).shape
        torch.testing.assert_close(loss[2:, 1:2], alone)


def test_sign_learns_the_sign_and_predicts_by_its_probabilities() -> None:
    logits = torch.tensor([[0.2, -1.0, 0.9]]).log_softmax(-1)
    for value, place in ((-7.0, 0), (0.0, 1), (0.3, 2)):
        assert Sign().loss(logits, torch.tensor([value])) == pytest.approx(-logits[0, place].item())
    drawn = Sign().predict(logits.expand(100_000, 3))
    counts = torch.stack([(drawn == v).sum() for v in (-1.0, 0.0, 1.0)])
    assert counts.sum() == 100_000 and counts_fit(counts, logits[0].exp())


def test_expected_sign_is_the_mean_of_what_sign_draws() -> None:
    logits = torch.tensor([[0.2, -1.0, 0.9], [2.0, 0.0, -1.0]])
    value = torch.tensor([-7.0, 0.3])
    assert torch.equal(ExpectedSign().loss(logits, value), Sign().loss(logits, value))
    mean = ExpectedSign().predict(logits)
    drawn = Sign().predict(logits.expand(100_000, 2, 3))
    error = drawn.std(0) / 100_000**0.5
    assert ((drawn.mean(0) - mean).abs() < 5 * error).all()


def test_a_guess_is_right_where_it_is_near_the_value_or_names_its_sign() -> None:
    value = torch.tensor([0.0, 1.0, -0.1])
    label = TwoHot().label(value).clamp_min(1e-12).log()
    assert TwoHot().right(label, value + torch.tensor([0.04, -0.04, 0.04])).all()
    assert not TwoHot().right(label, value + torch.tensor([0.06, -0.06, 0.06])).any()
    classes = torch.eye(3)
    assert Sign().right(classes, torch.tensor([-2.0, 0.0, 3.0])).all()
    assert not Sign().right(classes, torch.tensor([1.0, 0.5, 0.0])).any()


def test_scalar_is_the_squared_error() -> None:
    output, value = torch.tensor([[3.0], [-1.0]]), torch.tensor([1.0, -1.5])
    assert Scalar().loss(output, value).tolist() == [4.0, 0.25]
    assert Scalar().predict(output).tolist() == [3.0, -1.0]


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_samples_follow_the_probabilities(scale: float) -> None:
    logits = torch.randn(9) * scale
    drawn = sample(logits.expand(200_000, 9))
    assert counts_fit(drawn.bincount(minlength=9), logits.softmax(-1))


def test_rows_are_sampled_by_themselves() -> None:
    logits = torch.randn(2, 3, 6)
    drawn = sample(logits.expand(60_000, 2, 3, 6))
    flat = drawn.flatten(1)
    for i, row in enumerate(logits.flatten(0, 1)):
        assert counts_fit(flat[:, i].bincount(minlength=6), row.softmax(-1))
    together = (flat[:, 0] * 6 + flat[:, 1]).bincount(minlength=36)
    first, second = logits.flatten(0, 1)[:2].softmax(-1)
    assert counts_fit(together, (first[:, None] * second).flatten())


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_impossible_classes_are_never_drawn(
    monkeypatch: pytest.MonkeyPatch, uniform: float
) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, uniform))
    never = -math.inf
    for row in ([never, 0.0, never], [0.0, never, never], [never, never, 3.0]):
        only = max(range(3), key=lambda i: row[i])
        assert sample(torch.tensor(row)) == only
    noise = torch.randn(300, 1024)
    noise[:, ::2] = never
    noise[:, -200:] = never
    drawn = sample(noise)
    assert noise.gather(1, drawn[:, None]).isfinite().all()


def test_samples_are_class_numbers_in_any_type() -> None:
    logits = torch.randn(5, 4, 1024)
    for dtype in (torch.float32, torch.bfloat16):
        drawn = sample(logits.to(dtype))
        assert drawn.dtype == torch.int64 and drawn.shape == (5, 4)
        assert int(drawn.min()) >= 0 and int(drawn.max()) < 1024
    assert sample(torch.randn(0, 3)).shape == (0,) and sample(torch.zeros(2, 1)).tolist() == [0, 0]
