"""The device, threads and kernels of a computation. The same ones give the same bytes."""

import ctypes
import os

import torch

from tiny_lm.io.params import check

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def uses_cuda(section: str, accelerator: str, precision: str, devices: int = 1, nodes: int = 1) -> bool:
    """Whether these values of a params section mean CUDA. ValueError if this machine cannot do what they ask for."""
    available = torch.cuda.device_count()
    cuda = accelerator == "cuda" or (accelerator == "auto" and available > 0)
    check(available > 0 or not cuda, f"{section}.accelerator", accelerator, "auto or cpu: there is no CUDA device")
    most = f"at most {available * nodes}, the CUDA devices of {'all nodes' if nodes > 1 else 'this machine'}"
    check(devices <= available * nodes or not cuda, "runtime.devices", devices, most)
    check(cuda or precision != "16-mixed", f"{section}.precision", precision, "32 or bf16-mixed on a CPU")
    return cuda


def set_arithmetic(threads: int, portable: bool, *, cuda: bool = False) -> None:
    """Must be called before the first operation, because that is when torch and MKL choose their kernels.

    `portable` selects kernels that every x86-64 CPU has, and MKL's code path that gives the same bits on all of them,
    instead of the fastest ones for this CPU: the same bytes on another kind of CPU, several times slower.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if cuda else "highest")  # TF32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if portable:
        os.environ |= {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
        torch.backends.mkldnn.set_flags(False)
        assert torch.backends.cpu.get_cpu_capability() == "DEFAULT", "torch has already chosen its kernels"


def keep_memory() -> None:
    """Makes glibc keep large blocks. By default it returns them to the system at once, and each step faults them in
    again page by page, which takes about 4 % of a step on a CPU (docs/lab/log.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    # Smaller blocks come from the heap, whose free end stays. Old versions of glibc allow at most 32 MB.
    if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25):
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
