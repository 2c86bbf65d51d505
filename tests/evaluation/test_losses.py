import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.evaluation.losses import DocumentLosses
from tiny_lm.evaluation.predictions import predictions
from tiny_lm.io.params import load_params
from tiny_lm.model import kernels
from tiny_lm.model.registry import MODELS, build_model
from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows
from tiny_lm.training.module import CausalLMModule

SPECIALS = {"pad": 256, "eos": 257, "bos": 258, "unk": 259}
EOS, BOS, VOCABULARY = 257, 258, 260
TEXTS = ["Tom has a red kite.", "", "Ann", "Über die Brücke, über den Fluß, und dann nach Hause.", "x" * 15, "y" * 16]
CONTEXT = 16
MODEL = {
    "architecture": "llama3", "context_length": CONTEXT, "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1,
    "d_ff": 32, "rope_theta": 1e4, "norm_eps": 1e-6, "embedding_dropout": 0.1, "attention_dropout": 0.1,
    "residual_dropout": 0.1,
}  # fmt: skip


class Bigram(nn.Module):
    """A model that needs no training: log_probabilities[token], of (V, V), are those of the next token."""

    def __init__(self, log_probabilities):
        super().__init__()
        self.table = nn.Parameter(log_probabilities)
        self.lm_head = nn.Linear(*log_probabilities.shape, bias=False)
        self.lm_head.weight.data = torch.eye(len(log_probabilities))

    @torch.no_grad()
    def token_predictions(self, x, y):
        return kernels.predictions(self.table[x], self.lm_head.weight, y)  # (B, T) -> (B, T, V) -> (B, T) each


def always(probabilities):
    """The model that gives each token its probability in the list, whatever the context; 1e-30 for 0."""
    row = torch.tensor(probabilities, dtype=torch.float32).clamp(min=1e-30).log()
    return Bigram(row.expand(len(row), -1).clone())


def windows(documents, eos, width=8):
    """One batch of documents of token ids, each in a padded window that starts at <bos> (id eos + 1)."""
    x, y = torch.zeros(len(documents), width, dtype=torch.long), torch.full((len(documents), width), -100)
    for row, ids in enumerate(documents):
        x[row, : len(ids) + 1] = torch.tensor([eos + 1, *ids])
        y[row, : len(ids) + 1] = torch.tensor([*ids, eos])
    return [(x, y, torch.arange(len(documents)))]


def score(model, batches, documents, eos=EOS, precision="32", context_length=CONTEXT):
    losses = DocumentLosses(documents=documents, context_length=context_length, eos_id=eos)
    for batch in predictions(model, batches, precision=precision, progress=False):
        losses.add(batch)
    return losses


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(
        folder,
        {"train": iter(["a training text"]), "val": iter(TEXTS)},
        lambda texts: np.array([i for text in texts for i in (BOS, *text.encode(), EOS)], np.uint32),
        ShardsParams(shard_tokens=1000), vocab_size=VOCABULARY, special_ids=SPECIALS, tokenizer="ab" * 32, workers=1,
    )  # fmt: skip
    return TokenStream(folder, "val")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_model(load_params("model", MODEL, MODELS), VOCABULARY).eval()
    for parameter in model.parameters():
        parameter.data *= 3  # away from the uniform distribution of fresh weights
    return model


def batches_of(stream, rows=4):
    data = DocumentWindows(stream, CONTEXT, rows, None)
    return [data[i] for i in range(len(data))]


def test_losses_equal_the_cross_entropy_of_each_document_window_by_window(stream, model):
    losses = score(model, batches_of(stream), len(TEXTS))
    position_nats, position_targets = np.zeros(CONTEXT), np.zeros(CONTEXT)
    for number, text in enumerate(TEXTS):
        ids, nats = [BOS, *text.encode(), EOS], []
        for start in range(0, len(ids) - 1, CONTEXT):
            x, y = torch.tensor(ids[start : start + CONTEXT]), torch.tensor(ids[start + 1 : start + CONTEXT + 1])
            with torch.no_grad():
                logits = model(x[None, : len(y)])[0]
            window = F.cross_entropy(logits, y, reduction="none").double().numpy()
            position_nats[: len(window)] += window
            position_targets[: len(window)] += 1
            nats += window.tolist()
        assert losses.text_nats[number] == pytest.approx(sum(nats[:-1]), rel=1e-5), text
        assert losses.eos_nats[number] == pytest.approx(nats[-1], rel=1e-5), text
        assert losses.targets[number] == len(ids) - 1
    assert losses.position_nats == pytest.approx(position_nats, rel=1e-5)
    assert losses.position_targets.tolist() == position_targets.tolist()


def test_losses_do_not_depend_on_the_batch_size(stream, model):
    one, many = score(model, batches_of(stream, 1), len(TEXTS)), score(model, batches_of(stream, 64), len(TEXTS))
    assert one.text_nats == pytest.approx(many.text_nats, rel=1e-5)
    assert (one.targets == many.targets).all()


def test_equally_likely_bytes_cost_eight_bits_each(stream):
    losses = score(always([1 / 256] * 256 + [0, 0, 0, 0]), batches_of(stream), len(TEXTS))
    size, characters = sum(len(t.encode()) for t in TEXTS), sum(map(len, TEXTS))
    metrics = losses.metrics(text_bytes=size, characters=characters)
    assert metrics["bits_per_byte"] == pytest.approx(8, rel=1e-6)
    assert metrics["bits_per_char"] == pytest.approx(8 * size / characters, rel=1e-6)
    assert losses.eos_nats == pytest.approx([30 * math.log(10)] * len(TEXTS), rel=1e-5)  # counted by neither


def test_tokenizers_that_give_a_text_the_same_probability_have_equal_bits_per_byte():
    """One tokenizer has symbols of probabilities q and <eos> of 1 - Σq, the other pairs of symbols of q × q."""
    symbols, q = ["a", "b", "é"], np.array([0.5, 0.2, 0.1])
    texts = [[0, 1], [2, 2, 0, 1], [1, 0, 0, 0, 2, 0]]
    by_symbol = always([*q, 1 - q.sum(), 0])
    by_pair = always([*np.outer(q, q).ravel(), 1 - q.sum() ** 2, 0])
    pairs = [[3 * a + b for a, b in zip(text[::2], text[1::2], strict=True)] for text in texts]
    written = "".join(symbols[i] for text in texts for i in text)
    size = {"text_bytes": len(written.encode()), "characters": len(written)}
    one = score(by_symbol, windows(texts, eos=3), 3, eos=3)
    two = score(by_pair, windows(pairs, eos=9), 3, eos=9)
    assert one.targets.tolist() == [3, 5, 7]
    assert two.targets.tolist() == [2, 3, 4]
    assert one.text_nats == pytest.approx(two.text_nats, rel=1e-6)
    assert one.metrics(**size)["bits_per_byte"] == pytest.approx(two.metrics(**size)["bits_per_byte"], rel=1e-6)
    assert one.metrics(**size)["bits_per_byte"] == pytest.approx(
        -sum(np.log2(q[i]) for text in texts for i in text) / len(written.encode()), rel=1e-6
    )
    assert abs(one.metrics(**size)["loss"] - two.metrics(**size)["loss"]) > 0.3  # losses per token are not comparable


def test_the_loss_includes_eos_and_the_bits_do_not():
    texts = [[0, 1], [1]]
    losses = score(always([0.5, 0.25, 0.25, 0]), windows(texts, eos=2), 2, eos=2)
    assert losses.text_nats == pytest.approx([math.log(8), math.log(4)])
    assert losses.eos_nats == pytest.approx([math.log(4)] * 2)
    metrics = losses.metrics(text_bytes=3, characters=3)
    assert metrics["bits_per_byte"] == pytest.approx(5 / 3)
    assert metrics["loss"] == pytest.approx((3 + 2 + 2 + 2) * math.log(2) / 5)
    assert metrics["perplexity"] == pytest.approx(2 ** (9 / 5))


def test_the_perplexity_of_a_confidently_wrong_model_is_finite():
    losses = score(Bigram(torch.tensor([0.0, -1e4, -1e4, -1e4]).repeat(4, 1)), windows([[1, 1]], eos=2), 1, eos=2)
    metrics = losses.metrics(text_bytes=2, characters=2)
    assert metrics["loss"] == pytest.approx(1e4)
    assert math.isfinite(metrics["perplexity"])


def test_bfloat16_changes_the_losses_only_slightly(stream, model):
    full = score(model, batches_of(stream), len(TEXTS))
    short = score(model, batches_of(stream), len(TEXTS), precision="bf16-mixed")
    assert (full.text_nats != short.text_nats).any()
    assert full.text_nats.sum() == pytest.approx(short.text_nats.sum(), rel=0.02)
    assert full.text_nats.dtype == np.float64


def test_training_and_evaluation_have_the_same_loss_on_the_same_documents(stream, model):
    module = CausalLMModule(model, type("Params", (), {"compile": False, "steps": 1}), 0.0)
    data = SimpleNamespace(val_windows=batches_of(stream, rows=2))
    strategy = SimpleNamespace(reduce=lambda sums, reduce_op: sums)  # of one device
    module.trainer = SimpleNamespace(datamodule=data, world_size=1, global_rank=0, strategy=strategy)
    module.on_validation_epoch_start()
    with torch.inference_mode():
        for number, batch in enumerate(batches_of(stream, rows=2)):
            module.validation_step(batch, number)
    module.on_validation_epoch_end()
    losses = score(model, batches_of(stream, rows=5), len(TEXTS))
    assert module.val_loss == pytest.approx(losses.metrics(text_bytes=1, characters=1)["loss"], rel=1e-6)


def test_the_losses_of_a_document_do_not_depend_on_its_neighbors(stream, model):
    losses = score(model, batches_of(stream), len(TEXTS))
    alone = windows([list(TEXTS[2].encode())], eos=EOS)
    assert score(model, alone, 1).text_nats[0] == pytest.approx(losses.text_nats[2], rel=1e-5)
