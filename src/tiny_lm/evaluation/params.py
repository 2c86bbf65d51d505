"""The `evaluate` section of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from tiny_lm.generation.sampling import check_sampling
from tiny_lm.io.params import check


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """How a model is scored and how samples are drawn."""

    batch_size: int = 32  # windows of the context length per forward pass
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA if available, else the CPU
    precision: Literal["32", "bf16-mixed"] = "32"
    threads: int = 2  # CPU threads; the same number gives the same bytes
    portable: bool = False  # kernels that give the same bytes on any x86-64 CPU, several times slower
    prompts: tuple[str, ...] = ("", "Once upon a time,", "One day, Lily")  # one sample for each
    max_new_tokens: int = 200
    temperature: float = 0.5  # 0: always the most likely token
    top_k: int | None = None  # sample from the k most likely tokens only; null: no limit
    top_p: float | None = 0.95  # sample from the most likely tokens that together reach this probability
    seed: int = 1

    def __post_init__(self) -> None:
        check(1 <= self.batch_size <= 65536, "batch_size", self.batch_size, "between 1 and 65536")
        check(1 <= self.threads <= 1024, "threads", self.threads, "between 1 and 1024")
        plain = self.precision == "32" and self.accelerator == "cpu"
        check(plain or not self.portable, "portable", True, "false, or true with precision 32 and accelerator cpu")
        check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        check_sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
        last = 2**32 - max(1, len(self.prompts))  # each prompt has its own seed, counting up
        check(0 <= self.seed <= last, "seed", self.seed, f"between 0 and {last}")
