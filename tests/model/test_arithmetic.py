"""`portable` takes the same kernels whatever this CPU could do, and the default does not; memory is kept on demand."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from tiny_lm.model.arithmetic import set_arithmetic

CODE = """
import hashlib, sys
import torch
from tiny_lm.model.arithmetic import set_arithmetic

set_arithmetic(1, sys.argv[1] == "portable")
torch.manual_seed(0)
x = torch.randn(64, 256, requires_grad=True)
(torch.nn.functional.silu(x @ torch.randn(256, 96)).softmax(-1) ** 2).sum().backward()
print(torch.backends.cpu.get_cpu_capability(), hashlib.sha256(x.grad.numpy().tobytes()).hexdigest())
"""


def run(mode: str, **limits: str) -> list[str]:
    """The kernels that torch took, and the hash of what they computed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ATEN_", "MKL_", "ONEDNN_"))}
    command = [sys.executable, "-c", CODE, mode]
    path = {"PYTHONPATH": os.pathsep.join(["src", *sys.path])}
    done = subprocess.run(command, env=environment | path | limits, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="has no wider kernels")
def test_portable_gives_the_bytes_of_the_plain_kernels_where_the_default_gives_those_of_this_cpu() -> None:
    here, portable = run("native"), run("portable")
    assert here[0] == torch.backends.cpu.get_cpu_capability()
    assert portable[0] == "DEFAULT"
    assert portable[1] != here[1]
    held = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert run("portable", **held) == portable  # as on a CPU that can do less


def test_threads_are_set_and_products_on_cuda_may_be_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        for number in (2, 3):
            torch.set_float32_matmul_precision("highest")
            set_arithmetic(number, False)
            assert torch.get_num_threads() == number
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


FAULTS = """
import resource, sys
import torch
from tiny_lm.model.arithmetic import keep_memory

if sys.argv[1] == "keep":
    keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(40):
    if step == 35:
        before = faults()
    torch.ones(2**24)  # 64 MB
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's own")
def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    def faults(mode: str) -> int:
        path = {"PYTHONPATH": os.pathsep.join(["src", *sys.path])}
        command = [sys.executable, "-c", FAULTS, mode]
        return int(subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=True).stdout)

    assert faults("plain") > 50_000
    assert faults("keep") < 100
