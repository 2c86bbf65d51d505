"""The loaders of a training run.

Which sequences a step reads depends on the seed and the step alone: a run can go on from any step, and reads the same
with any number of devices and any size of micro-batch.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_convert

from tiny_lm.shards.dataset import BinTokenDataset
from tiny_lm.shards.order import window_order
from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows


@dataclass(eq=False)
class MicroBatches(Sampler[list[int]]):
    """The windows of each micro-batch that one device reads, from the step that `start` returns to the last. Step k
    reads sequences k·batch_size … (k+1)·batch_size - 1 of the run. Each device takes an equal share of them, in order,
    and each of its micro-batches the next micro_batch_size. `len` is that of the whole run, from step 0.
    """

    windows: int
    seed: int
    steps: int
    batch_size: int
    micro_batch_size: int
    start: Callable[[], int] = lambda: 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        assert self.batch_size % (self.micro_batch_size * self.world_size) == 0
        self.share = self.batch_size // self.world_size

    def __len__(self) -> int:
        return self.steps * (self.share // self.micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start(), self.steps):
            first = step * self.batch_size + self.rank * self.share
            order = window_order(np.arange(first, first + self.share), self.windows, self.seed).tolist()
            for i in range(0, self.share, self.micro_batch_size):
                yield order[i : i + self.micro_batch_size]


class ReadAhead(DataLoader[Any]):
    """A loader whose batches a thread makes, eight ahead: a step waits neither for the gathering nor for the disk."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        with ThreadPoolExecutor(1) as thread:
            ahead = deque(thread.submit(next, batches, None) for _ in range(8))
            while (batch := ahead.popleft().result()) is not None:
                ahead.append(thread.submit(next, batches, None))
                yield batch


class BinTokenDataModule(pl.LightningDataModule):
    """Training windows in the order of the run, one epoch that starts at `trainer.global_step`, and the validation
    documents, which every device reads whole. The trainer needs `use_distributed_sampler=False`.
    """

    def __init__(self, folder: Path, context_length: int, params: Any) -> None:
        super().__init__()
        train, val = TokenStream(folder, "train"), TokenStream(folder, "val")
        self.dataset = BinTokenDataset(train, context_length, params.stride)
        self.val_windows = DocumentWindows(val, context_length, params.micro_batch_size, params.val_documents)
        order = params.seed, params.steps, params.batch_size, params.micro_batch_size
        self.batches = MicroBatches(len(self.dataset), *order)

    def train_dataloader(self) -> DataLoader[Any]:
        """(x, y) of each micro-batch, (micro_batch_size, context_length) int64 each."""
        batches, trainer = self.batches, self.trainer
        if trainer:
            here = {"rank": trainer.global_rank, "world_size": trainer.world_size}
            batches = replace(batches, start=lambda: trainer.global_step, **here)
        return self._loader(self.dataset, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[Any]:
        """`WindowBatch`es; see `windows.py`."""
        return self._loader(self.val_windows, batch_size=None)

    def _loader(self, dataset: Dataset[Any], **batching: Any) -> DataLoader[Any]:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return (ReadAhead if on_cuda else DataLoader)(
            dataset, pin_memory=on_cuda, collate_fn=default_convert, **batching,  # batches come whole
            generator=torch.Generator(),  # else each iter() would draw from the global one, and change the run
        )  # fmt: skip
