"""Evaluation windows: every token of every document is a target exactly once.

A document is cut into consecutive windows of `context_length`, from its <bos> to its <eos>. Windows of similar length
share a batch. Padding has the target -100, which losses ignore.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tiny_lm.shards.stream import TokenStream

IGNORE = -100
_MULTIPLE = 16  # batches are padded to a multiple of this many tokens, so that there are few shapes


class WindowBatch(NamedTuple):
    x: Tensor  # (B, T) inputs, padded with <pad>
    y: Tensor  # (B, T) targets, padded with -100
    document: Tensor  # (B,) index of the document


class DocumentWindows(Dataset[WindowBatch]):
    """Batches of up to `batch_size` windows of the first `documents` documents (None: all), longest windows first.

    `lengths` has the tokens (with <bos> and <eos>), characters and UTF-8 bytes of each document: (documents, 3).
    """

    def __init__(self, stream: TokenStream, context_length: int, batch_size: int, documents: int | None) -> None:
        self.stream = stream
        self.context_length = context_length
        self.batch_size = batch_size
        self.lengths = np.array(stream.lengths[:documents], np.int64)
        starts = stream.document_starts(documents)[:-1]
        targets = self.lengths[:, 0] - 1
        counts = -(-targets // context_length)  # windows of each document
        document = np.repeat(np.arange(len(starts)), counts)
        offset = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * context_length
        length = np.minimum(targets[document] - offset, context_length)
        order = np.argsort(-length, kind="stable")
        self._document, self._length = document[order], length[order]
        self._start = (starts[document] + offset)[order]

    def __len__(self) -> int:
        return -(-len(self._start) // self.batch_size)

    def __getitem__(self, index: int) -> WindowBatch:
        first = range(0, len(self._start), self.batch_size)[index]
        batch = slice(first, first + self.batch_size)
        lengths = self._length[batch, None]  # (B, 1)
        width = min(-(-int(lengths[0, 0]) // _MULTIPLE) * _MULTIPLE, self.context_length)  # the first is the longest
        tokens = self.stream.windows(self._start[batch], width + 1)  # (B, T + 1)
        inside = np.arange(width) < lengths
        x = np.where(inside, tokens[:, :-1], self.stream.metadata.pad_id)
        y = np.where(inside, tokens[:, 1:], IGNORE)
        return WindowBatch(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(self._document[batch].copy()))
