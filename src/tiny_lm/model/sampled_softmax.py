"""Sampled softmax: a training loss over a part of the vocabulary (Jean et al. 2015, arXiv 1412.2007).

In a small model, half of a training step or more is the head, which computes a logit for each token of the vocabulary
at each position. Most of these tokens are improbable there, and teach little. So for most of a run, the tokens that
compete are the targets of the micro-batch, and a few others at random. What the head has not learned by then, which is
mainly the sum of all that is improbable, it learns in the last steps, from the whole vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tiny_lm.model.kernels import IGNORED


class VocabularySample(NamedTuple):
    ids: Tensor  # (S,), ascending
    targets: Tensor  # (B, T), indices into ids; -100 is ignored


def sample_vocabulary(targets: Tensor, vocab_size: int, fraction: float) -> VocabularySample:
    """All targets (B, T), and each other token of the vocabulary with a probability of `fraction`.

    Draws from torch's global generator, on the device of the targets.
    """
    sampled = torch.rand(vocab_size, device=targets.device) < fraction
    sampled.index_fill_(0, targets[targets != IGNORED], True)
    ids = sampled.nonzero()[:, 0]
    return VocabularySample(ids, torch.searchsorted(ids, targets).masked_fill_(targets == IGNORED, IGNORED))
