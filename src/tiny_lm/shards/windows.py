"""Windows that end where a document ends, to measure a loss: every token of every document is a target exactly once.

A document is cut into consecutive windows of `context_length`, the first from its <bos>; the targets run to its <eos>.
Windows of like length share a batch; what pads the shorter ones has the target -100, which losses ignore.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tiny_lm.shards.stream import TokenStream

IGNORE = -100
_MULTIPLE = 16  # batches are padded to a multiple of this many tokens, to have few shapes


class WindowBatch(NamedTuple):
    x: Tensor  # (B, T) inputs, padded with <pad>
    y: Tensor  # (B, T) targets, padded with -100
    document: Tensor  # (B,) the number of each row's document


class DocumentWindows(Dataset[WindowBatch]):
    """The batches of up to `rows` windows over the first `documents` documents (None: all), longest first. `lengths`
    are the tokens (with <bos> and <eos>), characters and UTF-8 bytes of each document: (documents, 3).
    """

    def __init__(self, stream: TokenStream, context_length: int, rows: int, documents: int | None) -> None:
        self.stream = stream
        self.context_length = context_length
        self.rows = rows
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
        return -(-len(self._start) // self.rows)

    def __getitem__(self, index: int) -> WindowBatch:
        rows = range(0, len(self._start), self.rows)[index]
        batch = slice(rows, rows + self.rows)
        lengths = self._length[batch, None]  # (B, 1)
        width = min(-(-int(lengths[0, 0]) // _MULTIPLE) * _MULTIPLE, self.context_length)  # the first is the longest
        tokens = self.stream.windows(self._start[batch], width + 1)  # (B, T + 1)
        inside = np.arange(width) < lengths
        x = np.where(inside, tokens[:, :-1], self.stream.metadata.pad_id)
        y = np.where(inside, tokens[:, 1:], IGNORE)
        return WindowBatch(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(self._document[batch].copy()))
