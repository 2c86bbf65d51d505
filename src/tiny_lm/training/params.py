"""The `train` section of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from tiny_lm.params import check


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """Everything that can change a byte of the trained weights, except the model, the data and the kind of machine."""

    seed: int
    initialization: Literal["gpt2", "copying"]  # of the weights: see model/build.py
    steps: int  # optimizer steps
    batch_size: int  # sequences per optimizer step, over all devices and accumulated micro-batches
    micro_batch_size: int  # sequences per device and forward pass
    stride: int | None  # tokens between the starts of consecutive windows; null: context_length
    learning_rate: float
    min_learning_rate: float
    schedule: Literal["cosine", "constant", "wsd"]
    warmup: float  # fraction of the steps
    decay: float  # fraction of the steps, for `schedule: wsd`
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    gradient_clip: float  # maximum norm
    validate_every: int  # optimizer steps; the last step is always validated
    val_documents: int | None  # documents of the validation split that a validation reads; null: all
    log_every: int  # optimizer steps
    checkpoint_every: int  # optimizer steps between resume checkpoints
    keep: Literal["best", "last"]  # which weights are saved to models/checkpoint
    accelerator: Literal["auto", "cpu", "cuda"]
    devices: int
    precision: Literal["32", "bf16-mixed", "16-mixed"]
    threads: int  # CPU threads; another number rounds differently
    portable: bool  # use kernels with the same results on any x86-64 CPU, several times slower
    compile: bool  # torch.compile
    deterministic: bool  # refuse kernels whose results vary between runs; CPU kernels never vary

    def __post_init__(self) -> None:
        def must(ok: bool, key: str, allowed: str) -> None:
            check(ok, key, getattr(self, key), allowed)

        for key in ("steps", "batch_size", "micro_batch_size", "validate_every", "log_every", "checkpoint_every"):
            must(getattr(self, key) >= 1, key, "at least 1")
        must(0 <= self.seed < 2**32, "seed", "between 0 and 2^32 - 1")
        must(self.stride is None or self.stride >= 1, "stride", "at least 1, or null for the context length")
        must(0 < self.learning_rate <= 10, "learning_rate", "above 0 and at most 10")
        lower = f"between 0 and learning_rate = {self.learning_rate}"
        must(0 <= self.min_learning_rate <= self.learning_rate, "min_learning_rate", lower)
        must(0 <= self.warmup < 1, "warmup", "a fraction of the steps, at least 0 and below 1")
        most = 1 - self.warmup if self.schedule == "wsd" else 1
        must(0 <= self.decay <= most, "decay", f"a fraction of the steps, between 0 and {most:g}, which warmup leaves")
        for key in ("beta1", "beta2"):
            must(0 <= getattr(self, key) < 1, key, "at least 0 and below 1")
        must(0 < self.eps <= 1, "eps", "above 0 and at most 1")
        must(0 <= self.weight_decay <= 10, "weight_decay", "between 0 and 10")
        must(self.gradient_clip > 0, "gradient_clip", "above 0")
        must(self.val_documents is None or self.val_documents >= 1, "val_documents", "at least 1, or null for all")
        for key in ("devices", "threads"):
            must(1 <= getattr(self, key) <= 1024, key, "between 1 and 1024")
        whole = f"a multiple of micro_batch_size × devices = {self.micro_batch_size} × {self.devices}"
        must(self.batch_size % (self.micro_batch_size * self.devices) == 0, "batch_size", whole)
        plain = self.precision == "32" and self.accelerator == "cpu" and not self.compile
        must(plain or not self.portable, "portable", "false, or true with precision 32, accelerator cpu, compile false")
        fits = self.precision != "16-mixed" or self.accelerator != "cpu"
        must(fits, "precision", "32 or bf16-mixed with accelerator = cpu")

    @property
    def accumulate(self) -> int:
        """Micro-batches per optimizer step and device."""
        return self.batch_size // (self.micro_batch_size * self.devices)
