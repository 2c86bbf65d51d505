"""Embedding and head start from the bigrams of the training tokens."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.qwen3 import Qwen3Params
from tiny_lm.model.registry import build_model
from tiny_lm.shards.stream import TokenStream
from tiny_lm.training import bigrams
from tiny_lm.training.bigrams import UNSEEN, count_bigrams, factorize, start_from_bigrams

PARAMS = Llama3Params(d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=32, context_length=16)


def build(shards, params=PARAMS, initialization="zero"):
    """A model whose blocks add nothing yet, and the stream."""
    torch.manual_seed(1)
    return build_model(params, 260, initialization).eval(), TokenStream(shards, "train")


def test_bigrams_are_counted():
    tokens = np.random.default_rng(0).integers(0, 7, 500).astype(np.uint16)
    counted = count_bigrams(tokens, 7).to_dense()
    expected = Counter(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))
    assert counted.sum() == 499
    assert all(counted[a, b] == expected[a, b] for a in range(7) for b in range(7))


def test_with_enough_dimensions_the_probabilities_are_those_of_the_counts(monkeypatch):
    monkeypatch.setattr(bigrams, "LONGEST", 1.0)  # no embedding is shortened
    tokens = np.random.default_rng(0).zipf(1.5, 5000).clip(max=20).astype(np.uint16)
    counts = count_bigrams(tokens, 21)  # token 0 never occurs
    torch.manual_seed(1)
    embedding, head = factorize(counts, 24)
    n = counts.to_dense()
    frequency = n.sum(0) + 0.5
    expected = n + UNSEEN * frequency / frequency.sum()
    torch.testing.assert_close(
        (embedding @ head.T).softmax(1), expected / expected.sum(1, keepdim=True), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("d_model", [8, 64])
def test_a_norm_after_the_embedding_changes_nothing(d_model):
    counts = count_bigrams(np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint16), 40)
    embedding, _ = factorize(counts, d_model)
    torch.testing.assert_close(embedding.square().mean(1), torch.ones(40), rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_model_predicts_the_next_token_from_the_current_one_before_it_is_trained(shards):
    model, stream = build(shards)
    x, y = (torch.from_numpy(stream.read(i, i + 640).astype(np.int64)).view(40, 16) for i in (0, 1))
    blind = model.token_losses(x, y).mean()
    start_from_bigrams(model, stream)
    frequency = torch.bincount(y.flatten(), minlength=260) / y.numel()
    entropy = -torch.special.xlogy(frequency, frequency).sum()
    assert model.token_losses(x, y).mean() < entropy - 0.3 < blind
    embedding, head = model.token_emb.weight, model.lm_head.weight
    torch.testing.assert_close(model(x), F.embedding(x, embedding) @ head.T, rtol=1e-3, atol=1e-3)


def test_a_width_without_room_for_bigrams_is_refused(shards):
    qwen = Qwen3Params(d_model=2, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=2, d_ff=4, tie_embeddings=False)
    model, stream = build(shards, qwen)
    with pytest.raises(ValueError, match="^model.d_model = 2: must be at least 3 with train.initialization = bigrams$"):
        start_from_bigrams(model, stream)


def test_a_tied_head_keeps_its_weights(shards):
    model, stream = build(shards, replace(PARAMS, tie_embeddings=True))
    before = model.token_emb.weight.clone()
    start_from_bigrams(model, stream)
    assert torch.equal(model.token_emb.weight, before)


def test_a_large_corpus_is_counted_from_the_start_only(shards, monkeypatch):
    weights = []
    for limit in (10**9, 500, 500):
        monkeypatch.setattr(bigrams, "MAX_TOKENS", limit)
        model, stream = build(shards)
        assert len(stream) > 500
        start_from_bigrams(model, stream)
        weights.append(model.lm_head.weight)
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
