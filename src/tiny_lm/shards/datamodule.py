"""The loaders of a training run.

Which sequences a step reads depends on the seed and the step alone: a run can go on from any step, and reads the same
with any number of workers and devices and any size of micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from tiny_lm.shards.dataset import BinTokenDataset
from tiny_lm.shards.order import window_order
from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows


class MicroBatches(Sampler[list[int]]):
    """The windows of each micro-batch that one device reads, from the step that `start` returns to the last.

    Step k reads sequences k·batch_size … (k+1)·batch_size - 1 of the run. Each device takes an equal share of them, in
    order, and each of its micro-batches the next micro_batch_size. `len` is that of the whole run, from step 0.
    """

    def __init__(
        self,
        windows: int,
        *,
        seed: int,
        steps: int,
        batch_size: int,
        micro_batch_size: int,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % (micro_batch_size * world_size):
            raise ValueError(
                f"train.batch_size = {batch_size}: must be a multiple of micro_batch_size × devices = "
                f"{micro_batch_size} × {world_size}"
            )
        self.windows, self.seed, self.steps = windows, seed, steps
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.start, self.rank = start, rank
        self.share = batch_size // world_size

    def __len__(self) -> int:
        return self.steps * (self.share // self.micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start(), self.steps):
            first = step * self.batch_size + self.rank * self.share
            order = window_order(np.arange(first, first + self.share), self.windows, self.seed).tolist()
            for i in range(0, self.share, self.micro_batch_size):
                yield order[i : i + self.micro_batch_size]


class BinTokenDataModule(pl.LightningDataModule):
    """Training windows in the order of the run, and the validation documents, which every device reads whole.

    One epoch of the training loader is the whole run, and it starts at `trainer.global_step`; the trainer needs
    `use_distributed_sampler=False`. `workers` processes read ahead; gathering is so cheap that 0 is rarely slower.
    """

    def __init__(
        self,
        folder: Path,
        *,
        context_length: int,
        stride: int | None,
        batch_size: int,
        micro_batch_size: int,
        steps: int,
        seed: int,
        val_documents: int | None,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.workers = workers
        self.dataset = BinTokenDataset(TokenStream(folder, "train"), context_length, stride)
        self.metadata = self.dataset.stream.metadata
        self.val_windows = DocumentWindows(TokenStream(folder, "val"), context_length, micro_batch_size, val_documents)
        self._run: dict[str, Any] = {
            "seed": seed, "steps": steps, "batch_size": batch_size, "micro_batch_size": micro_batch_size
        }  # fmt: skip

    def train_dataloader(self) -> DataLoader[Any]:
        """(x, y) of each micro-batch, (micro_batch_size, context_length) int64 each."""
        here: dict[str, Any] = {}
        if self.trainer:
            trainer = self.trainer
            here = {"start": lambda: trainer.global_step, "rank": trainer.global_rank, "world_size": trainer.world_size}
        sampler = MicroBatches(len(self.dataset), **self._run, **here)
        return DataLoader(self.dataset, batch_sampler=sampler, collate_fn=_as_is, **self._loading(self.workers))

    def val_dataloader(self) -> DataLoader[Any]:
        """`WindowBatch`es; see `windows.py`."""
        return DataLoader(self.val_windows, batch_size=None, collate_fn=_as_is, **self._loading(0))

    def _loading(self, workers: int) -> dict[str, Any]:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "prefetch_factor": 4 if workers else None,
            "pin_memory": on_cuda,
            "generator": torch.Generator(),  # else each iter() would draw from the global one, and change the run
        }


def _as_is(batch: Any) -> Any:
    return batch
