"""The measuring process: its failures, and memory. Whole measurements are in tests/tools/test_find_batch_size.py."""

import gc
import sys

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tiny_lm import step_speed
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.step_speed import available, measure, peak_memory, run
from tiny_lm.training.params import TrainParams


def python(code):
    return run([sys.executable, "-c", code])


def test_a_killed_process_ran_out_of_memory():
    assert python("import os; os.kill(os.getpid(), 9)") is None
    assert python(f"import os; os._exit({step_speed.OVER_LIMIT})") is None


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: Out of memory",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB for an array",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_failed_allocation_is_out_of_memory(error):
    assert python(f"import sys; sys.exit({error!r})") is None


def test_any_other_failure_is_reported_by_its_last_line():
    with pytest.raises(ValueError, match="^model.d_model = 0: must be at least 1$"):
        python("import sys; sys.exit('first\\ntiny-lm find-batch-size: model.d_model = 0: must be at least 1')")
    with pytest.raises(ValueError, match="^the measuring process failed with exit code 3$"):
        python("import sys; sys.exit(3)")


def test_the_memory_limit_of_a_container_applies(tmp_path, monkeypatch):
    assert available() > 10**7
    for name, text in (("max", "1000\n"), ("used", "400\n"), ("none", "max\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(step_speed, "CGROUPS", [(tmp_path / "none", tmp_path / "used")])
    assert available() > 10**7
    monkeypatch.setattr(step_speed, "CGROUPS", [(tmp_path / "max", tmp_path / "used")])
    assert available() == 600


def test_the_peak_remains_after_memory_is_freed():
    before = peak_memory()
    held = b"x" * (before + 10**7)
    assert peak_memory() > len(held)
    del held
    assert peak_memory() > before


@pytest.mark.parametrize(("micro_batches", "sums"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 2), (16, 4)])
def test_sums_over_earlier_micro_batches_and_the_best_weights_are_in_memory(monkeypatch, micro_batches, sums):
    """As in a run, in which a step of 16 micro-batches holds the sums of 8, 4, 2 and 1 of them until it ends."""
    model = Llama3Params(d_model=6, n_layers=1, n_heads=1, n_kv_heads=1, d_ff=10, context_length=8)
    alive = []

    def count(*_):
        if alive:  # the first step is enough
            return
        found = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
        alive.append(len({x.data_ptr() for x in found if x.shape == (37, 6) and not x.is_meta}))

    monkeypatch.setattr(step_speed, "_stay_under", lambda *_: 10**12)
    monkeypatch.setattr("tiny_lm.device.set_arithmetic", lambda *_, **__: None)
    monkeypatch.setattr("tiny_lm.device.keep_memory", lambda: None)
    train = TrainParams(batch_size=micro_batches, micro_batch_size=1, accelerator="cpu", deterministic=False)
    with register_optimizer_step_pre_hook(count):
        measure(model, train, 1, 37, memory=None, seconds=0.0, parent=None)
    # embedding and head: weights, gradients, those with the lowest validation loss, and sums of gradients
    assert alive[0] == 2 * (3 + sums)
