"""Each kernel against its plain form."""

import pytest
import torch
from torch.nn import functional as F

from tiny_lm.model import kernels
from tiny_lm.model.kernels import predictions, summed_cross_entropy
from tiny_lm.model.transformer import RMSNorm

CHUNKS = {"one chunk": (2**20, 2**20), "five rows": (2**20, 5), "logits of five rows": (5 * 31, 2**20)}


@pytest.fixture(params=CHUNKS.values(), ids=CHUNKS)
def data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    monkeypatch.setattr(kernels, "CHUNK_LOGITS", request.param[0])
    monkeypatch.setattr(kernels, "CHUNK_ROWS_CPU", request.param[1])
    torch.manual_seed(0)
    targets = torch.randint(0, 31, (3, 11))
    targets[0, :4] = -100
    targets[2] = -100
    return torch.randn(3, 11, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True), targets


def test_loss_and_gradients_equal_cross_entropy(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    expected = F.cross_entropy((features @ weight.T).flatten(0, 1), targets.flatten(), reduction="sum")
    loss = summed_cross_entropy(features, weight, targets)
    torch.testing.assert_close(loss, expected)
    # scaled, as by gradient accumulation and a GradScaler
    wanted = torch.autograd.grad(expected * 0.25, (features, weight))
    torch.testing.assert_close(torch.autograd.grad(loss * 0.25, (features, weight)), wanted)


def test_the_loss_of_each_token_equals_cross_entropy(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    losses, _, _ = predictions(features.detach(), weight.detach(), targets)
    expected = F.cross_entropy((features @ weight.T).transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    assert losses.shape == (3, 11)
    assert (losses[2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predictions_equal_the_maximum_of_the_softmax(data: tuple[torch.Tensor, ...], dtype: torch.dtype) -> None:
    features, weight, targets = data[0].detach().to(dtype), data[1].detach(), data[2]
    losses, probs, tokens = predictions(features, weight, targets)
    logits = features @ weight.to(dtype).T
    expected = F.softmax(logits, -1, dtype=torch.float32).max(-1)
    torch.testing.assert_close(probs, expected.values)
    assert torch.equal(tokens, expected.indices)
    torch.testing.assert_close(losses, F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none"))
    assert (probs.shape, probs.dtype, tokens.dtype) == ((3, 11), torch.float32, torch.int64)


def test_of_equally_probable_tokens_the_first_is_predicted() -> None:
    _, probs, tokens = predictions(torch.ones(1, 2, 1), torch.tensor([[0.0], [1.0], [1.0]]), torch.zeros(1, 2).long())
    assert tokens.tolist() == [[1, 1]]
    assert probs[0, 0].item() == pytest.approx(1 / (2 + 1 / 2.718281828))


def test_the_loss_is_the_same_without_gradients(data: tuple[torch.Tensor, ...]) -> None:
    with_gradients = summed_cross_entropy(*data)
    with torch.inference_mode():
        torch.testing.assert_close(summed_cross_entropy(*data), with_gradients.detach())


def test_matmuls_are_rounded_to_bfloat16_and_the_loss_is_not(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    halves = features.detach().bfloat16().requires_grad_()
    logits = (halves @ weight.bfloat16().T).double()  # rounded once, by the matmul
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    loss = summed_cross_entropy(halves, weight, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert halves.grad is not None
    assert weight.grad is not None
    assert (halves.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_autocast_rounds_the_matmuls_and_not_the_loss(data: tuple[torch.Tensor, ...]) -> None:
    features, weight, targets = data
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_cross_entropy(features, weight, targets)
        halves = summed_cross_entropy(features.bfloat16(), weight, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, halves)
    exact = summed_cross_entropy(features, weight, targets)
    assert 0 < (loss - exact).abs() < 0.01 * (targets != -100).sum()
    loss.backward()
    assert features.grad is not None
    assert weight.grad is not None
    assert features.grad.dtype == weight.grad.dtype == torch.float32
    wanted = torch.autograd.grad(exact, (features, weight))
    torch.testing.assert_close((features.grad, weight.grad), wanted, atol=2e-2, rtol=5e-2)


def test_without_targets_the_loss_and_its_gradients_are_zero() -> None:
    features = torch.ones(1, 2, 4, requires_grad=True)
    loss = summed_cross_entropy(features, torch.ones(3, 4), torch.full((1, 2), -100))
    loss.backward()
    assert loss == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_extreme_logits_stay_finite() -> None:
    features = torch.tensor([[[1e4, 0.0]]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = summed_cross_entropy(features, weight, torch.tensor([[1]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(weight.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("logits", "rows", "expected"),
    [(2**20, 2**20, [33]), (2**20, 5, [5, 5, 5, 5, 5, 5, 3]), (5 * 31, 2**20, [5, 5, 5, 5, 5, 5, 3]), (1, 5, [1] * 33)],
)
def test_on_a_cpu_both_rows_and_logits_limit_a_chunk(logits, rows, expected, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "CHUNK_LOGITS", logits)
    monkeypatch.setattr(kernels, "CHUNK_ROWS_CPU", rows)
    features = torch.zeros(33, 8)
    assert [len(features[chunk]) for chunk in kernels._chunks(features, torch.zeros(31, 8))] == expected


@pytest.mark.parametrize("length", [1, 128, 129, 300])
@pytest.mark.parametrize("n_kv_heads", [6, 2, 1])
def test_attention_in_blocks_and_its_gradients_equal_torch(n_kv_heads: int, length: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, heads, length, 8, dtype=torch.float64) for heads in (6, n_kv_heads, n_kv_heads)]
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    out = kernels._attention_in_blocks(*ours)
    expected = F.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize(
    ("dtype", "length", "dropout", "in_blocks"),
    [
        (torch.bfloat16, 1024, 0.0, True),
        (torch.bfloat16, 1025, 0.0, False),
        (torch.bfloat16, 16, 0.5, False),
        (torch.float32, 16, 0.0, False),
    ],
)
def test_attention_in_blocks_is_for_short_texts_in_bfloat16(monkeypatch, dtype, length, dropout, in_blocks) -> None:
    seen = []
    blocks = kernels._attention_in_blocks
    monkeypatch.setattr(kernels, "_attention_in_blocks", lambda *parts: seen.append(parts) or blocks(*parts))
    q, k, v = (torch.randn(1, heads, length, 4, dtype=dtype) for heads in (6, 3, 3))
    kernels.causal_attention(q, k, v, dropout)
    assert bool(seen) == in_blocks


@pytest.mark.parametrize("biases", [(False, False, False), (True, True, True), (True, False, True)])
@pytest.mark.parametrize("length", [1, 3])
def test_a_joint_matmul_equals_the_separate_layers(length: int, biases: tuple[bool, ...]) -> None:
    layers = [torch.nn.Linear(5, size, bias=bias) for size, bias in zip((2, 3, 7), biases, strict=True)]
    joint, x, cache = kernels.Linear(*layers), torch.randn(1, length, 5), object()
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    for out in (joint(x), joint(x, cache), joint(x, cache)):
        torch.testing.assert_close(out, expected)


def test_a_large_joint_matmul_of_a_few_tokens_swaps_its_factors_on_several_threads(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    calls, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *factors: calls.append(factors) or mm(*factors))
    layers = [torch.nn.Linear(5, size, bias=False) for size in (2, 4)]
    joint = kernels.Linear(*layers)
    for batch, length, swapped in ((3, 1, True), (3, 7, True), (1, 1, False), (33, 1, False)):
        x, calls[:] = torch.randn(batch, length, 5), []
        torch.testing.assert_close(joint(x, object()), torch.cat([layer(x) for layer in layers], dim=-1))
        assert bool(calls) == swapped
    assert joint(torch.randn(3, 1, 5)).shape == (3, 1, 6)


def test_a_joint_matmul_uses_changed_weights_unless_it_keeps_them_for_a_cache() -> None:
    layer, x, cache = torch.nn.Linear(5, 2), torch.randn(1, 1, 5), object()
    joint = kernels.Linear(layer)
    before = joint(x, cache)
    torch.nn.init.zeros_(layer.weight)
    torch.testing.assert_close(joint(x), layer(x))
    torch.testing.assert_close(joint(x, cache), before)
    torch.testing.assert_close(joint(x, object()), layer(x))


def test_a_norm_on_another_device_is_compiled_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that needs a value from the host would split the graph of a compiled model at each norm."""
    monkeypatch.setattr(kernels, "to_autocast_dtype", lambda x: x)  # not defined for the meta device
    norm = RMSNorm(8, 1e-3).to("meta")
    explained = torch._dynamo.explain(norm.forward)(torch.empty(2, 8, device="meta"))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@pytest.mark.parametrize("gradients", [True, False])
def test_rms_norm_equals_torch(gradients: bool) -> None:
    x, weight = torch.randn(2, 3, 8), torch.randn(8)
    with torch.set_grad_enabled(gradients):
        out = kernels.rms_norm(x, weight, torch.tensor(1e-3))
    torch.testing.assert_close(out, F.rms_norm(x, (8,), weight, 1e-3))


def test_dropout_equals_torch() -> None:
    x = torch.randn(2, 30)
    assert kernels.dropout(x, 0.5, False) is x
    assert kernels.dropout(x, 0.0, True) is x
    torch.manual_seed(0)
    dropped = kernels.dropout(x, 0.5, True)
    torch.manual_seed(0)
    assert torch.equal(dropped, F.dropout(x, 0.5))
