import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.training.optimizer import build_optimizer
from tiny_lm.training.params import MAX_SHRINKAGE, SHRINKAGE_PER_PASS, TrainParams


def build(model, weight_decay=0.1, **change):
    options = {
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "embedding_learning_rate": 5e-2,
        "matrix_learning_rate": 2e-2,
        "momentum": 0.95,
        "precision": "32",
        **change,
    }
    return build_optimizer(model, SimpleNamespace(**options), weight_decay)


def test_matrices_decay_and_vectors_do_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 4))
    groups = build(model).param_groups
    assert {p.dim() for p in groups[0]["params"]} == {2}
    assert {p.dim() for p in groups[1]["params"]} == {1}
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.1, 0.0)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_every_group_has_the_learning_rate_of_the_peak_as_its_initial_one():
    assert [group["initial_lr"] for group in build(nn.Linear(3, 4)).param_groups] == [3e-3, 3e-3]


def test_muon_takes_the_matrices_of_the_blocks_with_their_own_learning_rate():
    model = build_model(Llama3Params(d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=32), vocab_size=64)
    by_head, hidden, embedding, vectors = build(model, optimizer="muon").param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].split(".")[3] for p in by_head["params"]} == {"W_q", "W_k"}
    assert (by_head["maps"], hidden["maps"]) == (2, 1)
    assert {names[id(p)].split(".")[0] for p in hidden["params"]} == {"blocks"}
    assert {p.dim() for p in hidden["params"]} == {2}
    assert [names[id(p)] for p in embedding["params"]] == ["token_emb.weight", "lm_head.weight"]
    assert {p.dim() for p in vectors["params"]} == {1}
    groups = by_head, hidden, embedding, vectors
    assert sum(len(g["params"]) for g in groups) == len(names)
    assert [g["initial_lr"] for g in groups] == [2e-2, 2e-2, 5e-2, 3e-3]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.1, 0.1, 0.0]


def test_a_tied_matrix_is_stepped_once():
    emb, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = emb.weight
    assert sum(len(g["params"]) for g in build(nn.Sequential(emb, head)).param_groups) == 1


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_weight_decay_null_shrinks_old_weights_in_a_pass_by_the_share_that_is_read_again(name):
    params = TrainParams(optimizer=name, batch_size=4, micro_batch_size=4, steps=400)
    model = build_model(Llama3Params(d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32), vocab_size=64)
    tokens, context_length = 40_000, 100  # 100 steps are a pass, so three of four tokens are read again
    optimizer = build_optimizer(model, params, params.weight_decay_for(tokens, context_length))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    matrix = model.get_parameter("blocks.0.feedforward.w2.weight")
    before = matrix.norm()
    for _ in range(100):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert (before / matrix.norm()).item() == pytest.approx(math.exp(0.75 * SHRINKAGE_PER_PASS), rel=0.02)


def test_weight_decay_null_is_0_if_no_text_is_read_twice_and_has_a_limit():
    params = TrainParams()
    tokens = params.steps * params.batch_size * 256
    assert params.weight_decay_for(tokens, 256) == params.weight_decay_for(10 * tokens, 256) == 0
    assert 0 < params.weight_decay_for(tokens // 2, 256) < params.weight_decay_for(tokens // 4, 256)
    assert params.weight_decay_for(10, 256) * params.matrix_learning_rate == pytest.approx(MAX_SHRINKAGE)
    assert replace(params, weight_decay=0.3).weight_decay_for(tokens, 256) == 0.3


def test_weight_decay_null_shrinks_no_group_more_if_the_learning_rate_of_another_is_lower():
    params = TrainParams()
    decay = params.weight_decay_for(10**5, 256)
    slow_matrices = replace(params, matrix_learning_rate=0.0001)
    assert slow_matrices.weight_decay_for(10**5, 256) == decay  # else embeddings would change their sign in each step
    fast_matrices = replace(params, matrix_learning_rate=0.04)
    assert fast_matrices.weight_decay_for(10**5, 256) == pytest.approx(decay / 2)


def test_one_step_is_adamw_by_its_formula():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False)
    optimizer = build(layer, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.5)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    before, layer.weight.grad = layer.weight.detach().clone(), torch.randn(2, 3)
    gradient = layer.weight.grad.clone()
    optimizer.step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * gradient / (gradient.abs() + 1e-3)  # bias-corrected first step
    torch.testing.assert_close(layer.weight.detach(), expected)


@pytest.mark.parametrize(("precision", "fused"), [("32", True), ("bf16-mixed", True), ("16-mixed", False)])
def test_the_fused_kernel_steps_unless_a_scaler_must_unscale_before_the_gradient_is_clipped(
    monkeypatch, precision, fused
):
    calls, kernel = [], torch._fused_adamw_
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *given, **options: calls.append(1) or kernel(*given, **options))
    layer = nn.Linear(3, 2)
    optimizer = build(layer, precision=precision)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert bool(calls) == fused
    assert getattr(optimizer, "_step_supports_amp_scaling", False) == fused  # Lightning refuses to clip where it is set
