"""Where a stage computes, and how its sums are rounded: threads and kernels. The same ones give the same bytes."""

import ctypes
import os
from typing import Any

import torch

from tiny_lm.io.params import check

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def uses_cuda(section: str, params: Any) -> bool:
    """Whether `accelerator` of a params section means CUDA. ValueError if this machine lacks it."""
    there, devices = torch.cuda.device_count(), getattr(params, "devices", 1)
    cuda = params.accelerator == "cuda" or (params.accelerator == "auto" and there > 0)
    check(there > 0 or not cuda, f"{section}.accelerator", params.accelerator, "auto or cpu: there is no CUDA device")
    check(devices <= there or not cuda, f"{section}.devices", devices, f"at most {there}, the CUDA devices there are")
    check(cuda or params.precision != "16-mixed", f"{section}.precision", params.precision, "32 or bf16-mixed on a CPU")
    return cuda


def set_arithmetic(threads: int, portable: bool) -> None:
    """To be called before the first operation: that is when torch and MKL choose their kernels.

    `portable` takes the kernels that every x86-64 CPU has, and MKL's branch that gives the same bits on all of them, in
    place of the fastest ones that this CPU has: the same bytes on another kind of CPU, several times slower.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else "highest")  # TF32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if portable:
        os.environ |= {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
        torch.backends.mkldnn.set_flags(False)
        assert torch.backends.cpu.get_cpu_capability() == "DEFAULT", "torch has chosen its kernels before"


def keep_memory() -> None:
    """Lets glibc keep large blocks. By itself it gives them back to the system at once, and each step faults them in
    again page by page, about 4 % of it on a CPU (docs/lab/log.md).
    """
    for limit in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):  # blocks up to it come from the heap, which may be so large
        getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)(limit, 1 << 30)
