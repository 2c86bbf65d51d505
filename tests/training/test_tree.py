"""Any number of devices gives the same bytes as one."""

import multiprocessing
import os
from itertools import accumulate
from operator import add

import pytest
import torch
from torch.distributed import TCPStore
from training.conftest import TRAIN

from tiny_lm.stages import train as stage_file
from tiny_lm.training import fit
from tiny_lm.training.module import CausalLMModule
from tiny_lm.training.params import TrainParams
from tiny_lm.training.tree import GradientTree, add_rows


def tree(leaves):
    """The sum by the definition: of two halves, the left one the largest power of two that leaves something."""
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return tree(leaves[:left]) + tree(leaves[left:])


def leaves(count):
    torch.manual_seed(count)
    return torch.randn(count, 1000)


@pytest.mark.parametrize("count", range(1, 18))
def test_rows_and_micro_batches_are_added_as_the_same_tree(count):
    numbers = leaves(count)
    expected = tree(list(numbers))
    assert torch.equal(add_rows(numbers.clone()), expected)

    model = torch.nn.Linear(1000, 1, bias=False)
    gradients = GradientTree()
    for row in numbers:
        model.weight.grad = row[None].clone()
        if row is not numbers[-1] and not torch.equal(row, numbers[-1]):
            gradients.take(model)
            assert model.weight.grad is None
    gradients.add_to({model.weight: model.weight.grad})
    assert torch.equal(model.weight.grad[0], expected)


def test_another_order_gives_other_bits():
    numbers = leaves(8)
    assert not torch.equal(list(accumulate(numbers, add))[-1], tree(list(numbers)))


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_with_whole_subtrees_add_the_same_tree(devices):
    numbers = leaves(16)
    each = 16 // devices
    subtrees = torch.stack([tree(list(numbers[i : i + each])) for i in range(0, 16, each)])
    assert torch.equal(add_rows(subtrees), tree(list(numbers)))


@pytest.mark.parametrize(
    ("micro_batches", "devices", "fits"),
    [(1, 1, True), (3, 1, True), (8, 4, True), (8, 8, True), (12, 3, True), (6, 6, True), (12, 2, False), (8, 3, False),
     (1, 2, False), (4, 8, False)],
)  # fmt: skip
def test_devices_must_share_the_tree_evenly(micro_batches, devices, fits):
    params = TrainParams(batch_size=micro_batches, micro_batch_size=1)
    if fits:
        assert params.micro_batches_per_device(devices) == micro_batches // devices
    else:
        with pytest.raises(ValueError, match=rf"^runtime\.devices = {devices}: must be 1, or .* = {micro_batches} div"):
            params.micro_batches_per_device(devices)


@pytest.fixture
def together(train, monkeypatch):
    """together(devices, folder, …) is `train` in so many processes; fails with what the first that failed raised."""

    def process(rank, devices, port, failures, folder, options):
        here = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": devices, "MASTER_PORT": port,
                "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": True}  # fmt: skip
        os.environ |= {key: str(value) for key, value in here.items()}
        stage_file.WORKER = fit.WORKER = True
        fit.FIRST = rank == 0
        try:
            train(folder, runtime={"launcher": "torchrun", "devices": devices}, read=False, **options)
        except BaseException as error:
            failures.put(error)
            os._exit(1)
        os._exit(0)  # this process is a copy of pytest's

    def run(devices, folder, **options):
        context = multiprocessing.get_context("fork")  # everything is imported already
        failures = context.SimpleQueue()
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent has one
        common = (devices, store.port, failures, folder, options)
        processes = [context.Process(target=process, args=(rank, *common)) for rank in range(devices)]
        for each in processes:
            each.start()
        for each in processes:
            each.join()
        if any(each.exitcode for each in processes):
            raise failures.get()
        return train(folder, **options)  # finished, so this only reads the results

    return run


BATCH = {"batch_size": 8, "micro_batch_size": 1, "val_documents": 7, "steps": 8}


@pytest.fixture
def in_a_step(monkeypatch):
    """`in_a_step(function)` calls it with the module and the batch before each micro-batch, which it may replace."""
    original = CausalLMModule.training_step

    def arm(function):
        def step(self, batch, batch_idx):
            return original(self, function(self, batch) or batch, batch_idx)

        monkeypatch.setattr(CausalLMModule, "training_step", step)

    return arm


def test_1_2_4_and_8_devices_give_the_same_weights_rows_and_validation(train, together):
    alone = train("1", **BATCH)
    assert len(set(alone.rows("val_loss").values())) > 1
    for devices in (2, 4, 8):
        assert together(devices, str(devices), **BATCH).files == alone.files


def test_devices_give_the_same_bytes_with_other_options_and_ignored_targets(train, together, in_a_step):
    options = {
        "optimizer": "adamw", "precision": "bf16-mixed", "keep": "best", "gradient_clip": 0.05, "vocabulary_sample": 0.2
    }  # fmt: skip
    usual = train("usual", **BATCH, **options)
    in_a_step(lambda _, batch: (batch[0], batch[1].masked_fill(torch.isin(batch[1], torch.tensor([*b"ae. T"])), -100)))
    alone = train("1", **BATCH, **options)
    assert alone.weights != usual.weights
    assert together(2, "2", **BATCH, **options).files == alone.files


def test_a_run_killed_on_4_and_on_1_and_finished_on_2_gives_the_same_bytes(train, together, in_a_step, tmp_path):
    alone = train("alone", **BATCH)
    until = 3

    def dies(module, batch):
        if module.global_step == until:
            raise RuntimeError("killed")

    in_a_step(dies)
    with pytest.raises(RuntimeError, match="killed"):
        together(4, "killed", **BATCH)
    assert torch.load(tmp_path / "killed/work/last.ckpt", weights_only=True)["global_step"] == 2
    until = 7
    with pytest.raises(RuntimeError, match="killed"):
        train("killed", **BATCH)
    assert TRAIN["validate_every"] == 5  # before the next checkpoint, and after it
    until = 100
    assert together(2, "killed", **BATCH).files == alone.files
