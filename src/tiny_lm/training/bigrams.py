"""Initial weights of embedding and head from the bigrams of the training tokens.

The first thing that a language model learns is which token follows which. That takes counting, not training: with these
weights, a model whose blocks add nothing yet predicts the next token from the current one.

A factorization of pointwise mutual information gives word vectors (Levy & Goldberg 2014, "Neural Word Embedding as
Implicit Matrix Factorization"). Here its left factor is the embedding and its right one the head. Each bigram is
weighted by √(p(a) p(b)), since the rare ones are noise, and smoothed by UNSEEN pseudo-occurrences of each first token
that are followed by tokens as frequent as anywhere: PMI(a, b) = log(1 + n(a, b) / (UNSEEN p(b))), up to a constant for
each a, which the softmax ignores. So it is 0 for unseen bigrams, and the matrix is sparse.
"""

import math

import numpy as np
import torch
from torch import Tensor

from tiny_lm.io.params import check
from tiny_lm.model.transformer import Transformer
from tiny_lm.shards.stream import TokenStream

MAX_TOKENS = 2**24  # counted at most, from the start
UNSEEN = 100.0
LONGEST = 0.99  # the quantile of the lengths of embeddings to which longer ones are shortened
FRACTION = 0.9  # of the squared length of an embedding that the bigrams take at most


@torch.no_grad()
def start_from_bigrams(model: Transformer, stream: TokenStream) -> None:
    """Sets embedding and head, if the model has an untied head. Draws from torch's global generator."""
    if not model.params.ties_embeddings:
        d_model = model.params.d_model
        check(d_model >= 3, "model.d_model", d_model, "at least 3 with train.initialization = bigrams")
        counts = count_bigrams(stream.read(0, min(len(stream), MAX_TOKENS)), model.vocab_size)
        embedding, head = factorize(counts, d_model)
        model.token_emb.weight.copy_(embedding)
        model.lm_head.weight.copy_(head)


def count_bigrams(tokens: np.ndarray, vocab_size: int) -> Tensor:
    """How often token b follows token a: a sparse float32 matrix (V, V)."""
    pairs, counts = np.unique(tokens[:-1].astype(np.int64) * vocab_size + tokens[1:], return_counts=True)
    indices = torch.from_numpy(np.stack([pairs // vocab_size, pairs % vocab_size]))
    values = torch.from_numpy(counts).float()
    return torch.sparse_coo_tensor(indices, values, (vocab_size,) * 2, check_invariants=False).coalesce()


def factorize(counts: Tensor, d_model: int) -> tuple[Tensor, Tensor]:
    """Embedding E and head H such that softmax(E Hᵀ) is close to the bigram probabilities: both (V, d_model).

    All rows of E have a length of √d_model, so that a norm after it changes nothing: what the bigrams leave is split
    between a constant, which gives each token its frequency, and a filler that the head ignores. A random rotation
    spreads all of it over the dimensions, because AdamW treats each separately.
    """
    vocab_size = len(counts)
    (first, second), n = counts.indices(), counts.values()
    p_first, p_second = (_frequencies(ids, n, vocab_size) for ids in (first, second))
    pmi = torch.log1p(n / (UNSEEN * p_second[second]))
    weighted = torch.sparse_coo_tensor(
        counts.indices(), pmi * (p_first[first] * p_second[second]).sqrt(), counts.shape, check_invariants=False
    )
    rank = min(d_model - 2, vocab_size)
    left, sizes, right = torch.svd_lowrank(weighted, q=rank)  # (V, rank), (rank,), (V, rank)
    left *= sizes.sqrt() / p_first.sqrt()[:, None]
    right *= sizes.sqrt() / p_second.sqrt()[:, None]

    longest = left.norm(dim=1).quantile(LONGEST)
    left *= (longest / left.norm(dim=1)).clamp(max=1)[:, None]
    scale = math.sqrt(FRACTION * d_model) / longest
    left, right = left * scale, right / scale
    constant = math.sqrt((1 - FRACTION) * d_model / 2)
    filler = (d_model - constant**2 - left.square().sum(1)).sqrt()
    embedding, head = torch.zeros(2, vocab_size, d_model)
    embedding[:, :rank], embedding[:, -2], embedding[:, -1] = left, constant, filler
    head[:, :rank], head[:, -2] = right, (p_second.log() - p_second.log().mean()) / constant
    rotation = torch.linalg.qr(torch.randn(d_model, d_model)).Q
    return embedding @ rotation, head @ rotation


def _frequencies(ids: Tensor, n: Tensor, vocab_size: int) -> Tensor:
    """The frequency of each token, half an occurrence for those that never occur: (V,)."""
    counts = torch.bincount(ids, weights=n.double(), minlength=vocab_size) + 0.5
    return (counts / counts.sum()).float()
