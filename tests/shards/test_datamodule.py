import itertools
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from tiny_lm.shards import datamodule
from tiny_lm.shards.datamodule import BinTokenDataModule, MicroBatches, ReadAhead


def sampler(**changes: Any) -> MicroBatches:
    return MicroBatches(**({"windows": 37, "seed": 1, "steps": 9, "batch_size": 12, "micro_batch_size": 3} | changes))


STEPS = [list(itertools.chain(*itertools.islice(sampler(), k * 4, k * 4 + 4))) for k in range(9)]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 6, 12])
def test_a_step_reads_the_same_whatever_the_micro_batch(micro_batch_size: int) -> None:
    batches = list(sampler(micro_batch_size=micro_batch_size))
    assert {len(batch) for batch in batches} == {micro_batch_size}
    assert list(itertools.chain(*batches)) == list(itertools.chain(*STEPS))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_a_step_reads_the_same_whatever_the_number_of_devices(world_size: int) -> None:
    ranks = [list(sampler(world_size=world_size, rank=r, micro_batch_size=2)) for r in range(world_size)]
    per_step = 12 // world_size // 2
    for k, step in enumerate(STEPS):
        parts = [itertools.chain(*batches[k * per_step : (k + 1) * per_step]) for batches in ranks]
        assert list(itertools.chain(*parts)) == step


@pytest.mark.parametrize("start", [0, 1, 5, 9])
def test_a_run_goes_on_at_the_step_where_it_stopped(start: int) -> None:
    resumed = sampler(start=lambda: start)
    assert list(resumed) == list(sampler())[start * 4 :]
    assert len(resumed) == len(sampler()) == 36  # the length stays that of the whole run


def test_every_window_is_read_once_before_any_is_read_twice() -> None:
    order = list(itertools.chain(*STEPS))
    assert sorted(order[:37]) == sorted(order[37:74]) == list(range(37))
    assert order[:37] != order[37:74]


def test_the_seed_decides_the_order() -> None:
    assert list(sampler(seed=2)) != list(sampler())


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(AssertionError):
        sampler(micro_batch_size=5)
    with pytest.raises(AssertionError):
        sampler(world_size=8)


@pytest.fixture
def data(make, stories, tmp_path: Path):
    make(stories(40), stories(6))

    def data(**changes: Any) -> BinTokenDataModule:
        params = {"stride": None, "batch_size": 4, "micro_batch_size": 2, "steps": 6, "seed": 0, "val_documents": None}
        return BinTokenDataModule(tmp_path / "shards", 20, SimpleNamespace(**params | changes))

    return data


@pytest.fixture
def reading_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loaders of a CUDA run, but for pinned memory."""
    monkeypatch.setattr(datamodule, "DataLoader", ReadAhead)


def inputs(module: BinTokenDataModule) -> list[list[list[int]]]:
    return [x.tolist() for x, _ in module.train_dataloader()]


def test_batches_are_the_windows_in_the_order_of_the_run(data) -> None:
    module = data()
    order = list(MicroBatches(len(module.dataset), seed=0, steps=6, batch_size=4, micro_batch_size=2))
    batches = list(module.train_dataloader())
    assert len(batches) == len(module.train_dataloader()) == 12
    for (x, y), indices in zip(batches, order, strict=True):
        assert x.shape == y.shape == (2, 20)
        assert torch.equal(x, torch.stack([module.dataset[i][0] for i in indices]))
        assert torch.equal(y, torch.stack([module.dataset[i][1] for i in indices]))


def test_reading_ahead_changes_nothing(data, request: pytest.FixtureRequest) -> None:
    expected = inputs(data())
    request.getfixturevalue("reading_ahead")
    loader = data().train_dataloader()
    assert isinstance(loader, ReadAhead)
    assert [x.tolist() for x, _ in loader] == expected
    assert len(loader) == 12


def test_batches_are_made_before_they_are_asked_for_but_not_all_of_them(data, reading_ahead) -> None:
    module, made, enough = data(steps=50), [], threading.Event()
    gather = module.dataset.__getitems__

    def counted(indices: Any) -> Any:
        made.append(threading.current_thread())
        if len(made) == 9:
            enough.set()
        return gather(indices)

    module.dataset.__getitems__ = counted
    batches = iter(module.train_dataloader())
    for _ in range(2):
        next(batches)
    assert enough.wait(10)
    assert len(made) <= 10
    assert threading.main_thread() not in made
    batches.close()
    assert not any(thread.is_alive() for thread in made)


def test_an_error_of_the_thread_reaches_the_trainer(data, reading_ahead, tmp_path: Path) -> None:
    module = data()
    module.dataset.__getitems__ = lambda indices: 1 // 0
    with pytest.raises(ZeroDivisionError):
        fit(module, SaveAt(-1, tmp_path / "state.ckpt"))


@pytest.mark.parametrize("step", [0, 3, 5])
def test_the_token_ids_of_a_step_are_the_same_under_every_division_of_the_work(data, step: int) -> None:
    """Micro-batches and devices: each prints the tokens that it gives the model at this step."""

    def tokens(micro_batch_size: int, devices: int) -> list[list[int]]:
        seen = []
        for rank in range(devices):
            module = data(micro_batch_size=micro_batch_size)
            module.batches = replace(module.batches, rank=rank, world_size=devices)
            per_step = 4 // devices // micro_batch_size
            batches = list(module.train_dataloader())[step * per_step : (step + 1) * per_step]
            seen += [row for x, _ in batches for row in x.tolist()]
        print(f"step {step}, micro-batch {micro_batch_size}, {devices} devices: {seen}")
        return seen

    divisions = [(4, 1), (1, 1), (2, 1), (2, 2), (1, 2), (1, 4)]
    first, *others = [tokens(*division) for division in divisions]
    assert len(first) == 4
    assert all(other == first for other in others)


@pytest.mark.parametrize(("device", "on_cuda"), [("cuda", True), ("cuda:1", True), ("cpu", False), (None, False)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_on_cuda_batches_are_read_ahead_into_pinned_memory(data, split: str, device: str | None, on_cuda: bool) -> None:
    module = data()
    if device:
        strategy = SimpleNamespace(root_device=torch.device(device))
        module.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1, global_step=0)
    loader = getattr(module, f"{split}_dataloader")()
    assert loader.pin_memory == on_cuda
    assert isinstance(loader, ReadAhead) == on_cuda


def test_stride_and_seed_change_the_windows(data) -> None:
    assert len(data(stride=5).dataset) > 3 * len(data().dataset)
    assert inputs(data(seed=1)) != inputs(data())


def test_loading_leaves_the_global_random_state_alone(data) -> None:
    module = data()
    before = torch.random.get_rng_state()
    list(module.train_dataloader())
    list(module.val_dataloader())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_validation_reads_the_documents_that_are_asked_for(data) -> None:
    assert {int(d) for batch in data(val_documents=2).val_dataloader() for d in batch.document} == {0, 1}
    assert {int(d) for batch in data().val_dataloader() for d in batch.document} == set(range(6))


class Recorder(pl.LightningModule):
    """Writes down what it is trained and validated on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[list[int]]] = []
        self.validated = 0

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.seen.append(batch[0].tolist())
        return self.weight * batch[0].float().mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated += int((batch.y != -100).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class SaveAt(pl.Callback):
    """Saves a resume checkpoint after an optimizer step, as training does."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *rest: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def fit(module: BinTokenDataModule, save: SaveAt, resume: Path | None = None) -> Recorder:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=6, max_epochs=1, accumulate_grad_batches=2, val_check_interval=6, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, callbacks=[save],
    )  # fmt: skip
    trainer.fit(recorder, module, ckpt_path=resume, weights_only=True)
    assert trainer.global_step == 6
    return recorder


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_trainer_that_resumes_sees_what_one_that_goes_through_sees(
    data, tmp_path: Path, step: int, ahead: bool, request: pytest.FixtureRequest
) -> None:
    save = SaveAt(step, tmp_path / "state.ckpt")
    whole = fit(data(), save)
    assert whole.seen == inputs(data())
    assert whole.validated == 2 * (data().val_windows.stream.split.tokens - data().val_windows.stream.split.documents)

    if ahead:
        request.getfixturevalue("reading_ahead")
    resumed = fit(data(), save, save.path)
    assert resumed.seen == whole.seen[2 * step :]
