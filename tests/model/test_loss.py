"""The loss in pieces against `cross_entropy` on whole logits."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tiny_lm.model import loss as module
from tiny_lm.model.loss import mean_loss, next_token_loss, token_losses

PIECES = {"one piece": (2**20, 2**20), "five rows": (2**20, 5), "logits of five rows": (5 * 31, 2**20)}


@pytest.fixture(params=PIECES.values(), ids=PIECES)
def data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    monkeypatch.setattr(module, "PIECE_LOGITS", request.param[0])
    monkeypatch.setattr(module, "PIECE_ROWS_CPU", request.param[1])
    torch.manual_seed(0)
    targets = torch.randint(0, 31, (3, 11))
    targets[0, :4] = -100
    targets[2] = -100
    return torch.randn(3, 11, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True), targets


def test_loss_and_gradients_equal_cross_entropy(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    expected = F.cross_entropy((features @ weight.T).flatten(0, 1), targets.flatten(), reduction="sum")
    loss = next_token_loss(features, weight, targets)
    torch.testing.assert_close(loss, expected)
    # scaled as gradient accumulation and a GradScaler scale it
    wanted = torch.autograd.grad(expected * 0.25, (features, weight))
    torch.testing.assert_close(torch.autograd.grad(loss * 0.25, (features, weight)), wanted)


def test_every_token_by_itself(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    model = SimpleNamespace(features=lambda x: x, lm_head=SimpleNamespace(weight=weight))
    losses = token_losses(model, features, targets)
    expected = F.cross_entropy((features @ weight.T).transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    assert losses.shape == (3, 11)
    assert (losses[2] == 0).all()


def test_without_gradients_the_same_loss(data: tuple[torch.Tensor, ...]) -> None:
    with_gradients = next_token_loss(*data)
    with torch.inference_mode():
        torch.testing.assert_close(next_token_loss(*data), with_gradients.detach())


def test_products_are_rounded_and_the_loss_is_not(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    halves = features.detach().bfloat16().requires_grad_()
    logits = (halves @ weight.bfloat16().T).double()  # rounded once, by the product
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    loss = next_token_loss(halves, weight, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert halves.grad is not None
    assert weight.grad is not None
    assert (halves.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_autocast_rounds_the_products_and_not_the_loss(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_token_loss(features, weight, targets)
        halves = next_token_loss(features.bfloat16(), weight, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, halves)
    exact = next_token_loss(features, weight, targets)
    assert 0 < (loss - exact).abs() < 0.01 * (targets != -100).sum()
    loss.backward()
    assert features.grad is not None
    assert weight.grad is not None
    assert features.grad.dtype == weight.grad.dtype == torch.float32
    wanted = torch.autograd.grad(exact, (features, weight))
    torch.testing.assert_close((features.grad, weight.grad), wanted, atol=2e-2, rtol=5e-2)


def test_the_sum_over_no_targets_is_zero_and_so_are_its_gradients() -> None:
    features = torch.ones(1, 2, 4, requires_grad=True)
    loss = next_token_loss(features, torch.ones(3, 4), torch.full((1, 2), -100))
    loss.backward()
    assert loss == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_the_mean_counts_each_target_once(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    model = SimpleNamespace(features=lambda x: x, lm_head=SimpleNamespace(weight=weight))
    expected = F.cross_entropy((features @ weight.T).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(mean_loss(model, features, targets), expected)


def test_extreme_logits_stay_finite() -> None:
    features = torch.tensor([[[1e4, 0.0]]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = next_token_loss(features, weight, torch.tensor([[1]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(weight.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("logits", "rows", "expected"),
    [(2**20, 2**20, [33]), (2**20, 5, [5, 5, 5, 5, 5, 5, 3]), (5 * 31, 2**20, [5, 5, 5, 5, 5, 5, 3]), (1, 5, [1] * 33)],
)
def test_on_a_cpu_a_piece_has_so_many_rows_and_so_many_logits_at_most(logits, rows, expected, monkeypatch) -> None:
    monkeypatch.setattr(module, "PIECE_LOGITS", logits)
    monkeypatch.setattr(module, "PIECE_ROWS_CPU", rows)
    features = torch.zeros(33, 8)
    assert [len(features[piece]) for piece in module._pieces(features, torch.zeros(31, 8))] == expected
