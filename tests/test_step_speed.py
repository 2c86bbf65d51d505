"""The measuring process: its failures, and memory. Whole measurements are in tests/tools/test_find_batch_size.py."""

import sys

import pytest

from tiny_lm import step_speed
from tiny_lm.step_speed import available, peak_memory, run


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
