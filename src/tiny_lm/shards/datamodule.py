"""The loaders of a training run, which can go on from any step.

Which sequences a step reads depends on the seed and the step alone: not on workers, devices or the micro-batch.
"""

from collections.abc import Callable, Iterator
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


class BinTokenDataModule(pl.LightningDataModule):
    """Training windows in the order of the run, one epoch that starts at `trainer.global_step`, and the validation
    documents, which every device reads whole. The trainer needs `use_distributed_sampler=False`.
    """

    def __init__(self, folder: Path, context_length: int, params: Any, workers: int = 0) -> None:
        super().__init__()
        self.workers = workers
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
        return self._loader(self.dataset, self.workers, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[Any]:
        """`WindowBatch`es; see `windows.py`."""
        return self._loader(self.val_windows, 0, batch_size=None)

    def _loader(self, dataset: Dataset[Any], workers: int, **batching: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset, num_workers=workers, persistent_workers=workers > 0, prefetch_factor=4 if workers else None,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            collate_fn=default_convert,  # batches come whole
            generator=torch.Generator(),  # else each iter() would draw from the global one, and change the run
            **batching,
        )  # fmt: skip
