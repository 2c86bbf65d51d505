"""The sampled softmax against torch's cross-entropy over the same tokens."""

import pytest
import torch
from torch.nn import functional as F

from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.model.sampled_softmax import sample_vocabulary

VOCABULARY = 300


@pytest.fixture
def targets() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randint(20, 60, (2, 16)).masked_fill(torch.arange(16) % 5 == 0, -100)


def test_a_sample_has_all_targets_and_a_fraction_of_the_other_tokens(targets):
    wanted = targets[targets != -100].unique()
    sizes = []
    for _ in range(50):
        sample = sample_vocabulary(targets, VOCABULARY, 0.2)
        assert torch.equal(sample.ids, sample.ids.unique())
        assert torch.isin(wanted, sample.ids).all()
        assert torch.equal((sample.targets == -100), (targets == -100))
        assert torch.equal(sample.ids[sample.targets.clamp(min=0)][targets != -100], targets[targets != -100])
        sizes.append(len(sample.ids) - len(wanted))
    assert sum(sizes) / len(sizes) == pytest.approx(0.2 * (VOCABULARY - len(wanted)), rel=0.1)
    assert len({*sizes}) > 1


def test_only_the_sampled_tokens_compete(targets):
    model = build_model(Llama3Params(context_length=16, d_model=32, n_layers=1), VOCABULARY).eval()
    tokens = torch.randint(0, VOCABULARY, targets.shape)
    torch.manual_seed(4)
    sample = sample_vocabulary(targets, VOCABULARY, 0.1)
    left_out = torch.ones(VOCABULARY, dtype=torch.bool).index_fill_(0, sample.ids, False)
    logits = model(tokens).masked_fill(left_out, -torch.inf)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.manual_seed(4)
    loss = model.summed_loss(tokens, targets, 0.1)
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, [*model.parameters()])
    torch.testing.assert_close(torch.autograd.grad(loss, [*model.parameters()]), wanted)


def test_the_whole_vocabulary_is_the_exact_loss(targets):
    model = build_model(Llama3Params(context_length=16, d_model=32, n_layers=1), VOCABULARY).eval()
    tokens = torch.randint(0, VOCABULARY, targets.shape)
    sample = sample_vocabulary(targets, VOCABULARY, 1.0)
    torch.testing.assert_close(
        model.loss_of_embedded(model.embed(tokens), targets, sample), model.summed_loss(tokens, targets)
    )
