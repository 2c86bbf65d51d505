"""Data loaders of a training run.

The sequences of a step depend only on the seed and the step. So a run can resume at any step, and reads the same
sequences with any number of devices and any micro-batch size.
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
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_convert

from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows, WindowBatch
from tiny_lm.training.dataset import BinTokenDataset
from tiny_lm.training.order import window_order
from tiny_lm.training.params import TrainParams


@dataclass(eq=False)
class MicroBatches(Sampler[list[int]]):
    """The windows of each micro-batch on one device, from step `start()` to the last.

    Step k reads sequences k·batch_size … (k+1)·batch_size - 1 of the run. Each device takes an equal part of them, in
    order, and each micro-batch the next micro_batch_size of that part. `len` counts the whole run, from step 0.
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
        self.per_device = self.batch_size // self.world_size  # sequences per step

    def __len__(self) -> int:
        return self.steps * (self.per_device // self.micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start(), self.steps):
            first = step * self.batch_size + self.rank * self.per_device
            order = window_order(np.arange(first, first + self.per_device), self.windows, self.seed).tolist()
            for i in range(0, self.per_device, self.micro_batch_size):
                yield order[i : i + self.micro_batch_size]


class ReadAhead(DataLoader[Any]):
    """A loader that prepares eight batches ahead in a thread, so that a step never waits for gathering or the disk."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        with ThreadPoolExecutor(1) as thread:
            ahead = deque(thread.submit(next, batches, None) for _ in range(8))
            while (batch := ahead.popleft().result()) is not None:
                ahead.append(thread.submit(next, batches, None))
                yield batch


class BinTokenDataModule(pl.LightningDataModule):
    """Training windows in the order of the run, and the validation documents, whose batches are dealt to the devices.

    The run is one epoch that starts at `trainer.global_step`. The trainer needs `use_distributed_sampler=False`.
    """

    def __init__(self, folder: Path, context_length: int, params: TrainParams) -> None:
        super().__init__()
        train, val = TokenStream(folder, "train"), TokenStream(folder, "val")
        self.dataset = BinTokenDataset(train, context_length, params.stride)
        self.val_windows = DocumentWindows(val, context_length, params.micro_batch_size, params.val_documents)
        self.batches = MicroBatches(
            len(self.dataset), params.seed, params.steps, params.batch_size, params.micro_batch_size
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """(x, y) of each micro-batch, both (micro_batch_size, context_length) int64."""
        batches, trainer = self.batches, self.trainer
        if trainer:
            batches = replace(
                batches, start=lambda: trainer.global_step, rank=trainer.global_rank, world_size=trainer.world_size
            )
        return self._loader(self.dataset, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[WindowBatch]:
        """Batches r, r + n, … on device r of n. All devices get equally many, so some get the last one again."""
        rank, devices = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        count = len(self.val_windows)
        rounds = -(-count // devices)
        mine = [min(rank + i * devices, count - 1) for i in range(rounds)]
        return self._loader(self.val_windows, batch_size=None, sampler=mine)

    def _loader(self, dataset: Dataset[Any], **batching: Any) -> DataLoader[Any]:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return (ReadAhead if on_cuda else DataLoader)(
            dataset, pin_memory=on_cuda, collate_fn=default_convert, **batching,  # batches come whole
            generator=torch.Generator(),  # otherwise each iter() draws from the global one and changes the run
        )  # fmt: skip
