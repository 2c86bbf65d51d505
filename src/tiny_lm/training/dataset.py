"""Training windows: `context_length` tokens of the stream as inputs x, and the same shifted by one as targets y."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tiny_lm.shards.stream import TokenStream


class BinTokenDataset(Dataset[tuple[Tensor, Tensor]]):
    """Window i is tokens i·stride … i·stride + context_length of the stream, across files and documents.

    Tokens after the last whole window are not used. ValueError if the stream is shorter than one window.
    """

    def __init__(self, stream: TokenStream, context_length: int, stride: int | None) -> None:
        self.stream = stream
        self.context_length = context_length
        self.stride = stride or context_length
        if len(stream) < context_length + 1:
            raise ValueError(
                f"model.context_length = {context_length}: {stream.folder / stream.name} has only {len(stream)} "
                f"tokens, under one window of {context_length + 1}; choose at most {len(stream) - 1}, or add more text"
            )

    def __len__(self) -> int:
        return (len(self.stream) - self.context_length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """x and y, each (context_length,) int64."""
        x, y = self.__getitems__([range(len(self))[index]])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """x and y of several windows, each (len(indices), context_length) int64."""
        starts = np.asarray(indices, np.int64) * self.stride
        tokens = torch.from_numpy(self.stream.windows(starts, self.context_length + 1))  # (B, T + 1)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
