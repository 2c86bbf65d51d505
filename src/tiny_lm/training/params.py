"""The `train` section of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from tiny_lm.io.params import check

# By how much `weight_decay: null` shrinks matrices at the peak of the learning rate. Over a run with the default
# schedule it is two thirds of that, so 1.5 is a factor of e per pass.
SHRINKAGE_PER_PASS = 1.5
MAX_SHRINKAGE = 0.02  # per step, however small the text
EMBEDDING_SHRINKAGE = 1.5  # with Muon, embeddings and head may shrink this many times as much as the blocks' matrices
SAMPLED = 0.7  # the fraction of the steps whose loss is a sampled softmax


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """Everything that can change a byte of the trained weights, except the model, the data and the kind of machine."""

    seed: int = 1
    initialization: Literal["bigrams", "gpt2", "zero", "copying"] = "bigrams"  # see model/init.py
    steps: int = 2400  # optimizer steps
    batch_size: int = 8  # sequences per optimizer step, over all devices
    micro_batch_size: int = 8  # sequences per forward pass; must divide batch_size and fit in memory
    stride: int | None = None  # tokens between neighboring windows; null: the context length
    optimizer: Literal["muon", "adamw"] = "muon"  # muon: for the blocks' matrices, with adamw for the rest
    learning_rate: float = 0.004  # of adamw; with muon: of norms and biases only
    embedding_learning_rate: float = 0.03  # of adamw, with muon: of embeddings and head
    matrix_learning_rate: float = 0.02  # of muon
    min_learning_rate: float = 0.0  # at the last step of a decay; the others decay by the same factor
    vocabulary_sample: float = 0.1  # fraction of the vocabulary sampled for the loss in the first 70 % of steps; 1: all
    schedule: Literal["cosine", "constant", "wsd", "wsd-sqrt"] = "wsd"  # wsd: warm-up, stable, decay: linear or 1 - √
    warmup: float = 0.0  # fraction of the steps
    decay: float = 0.65  # fraction of the steps, for wsd and wsd-sqrt
    momentum: float = 0.85  # of muon
    beta1: float = 0.9
    beta2: float = 0.995
    eps: float = 1e-8
    weight_decay: float | None = None  # on matrices; null: grows with the fraction of text that is read again, from 0
    gradient_clip: float = 1.0  # maximum norm
    validate_every: int = 200  # steps; the last step is always validated
    val_documents: int | None = 200  # from the validation split, during training; null: all
    log_every: int = 20  # steps
    checkpoint_every: int = 200  # steps; a killed run loses no more than this
    keep: Literal["best", "last"] = "best"  # best: by validation loss
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA if available, else the CPU
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"  # bf16-mixed is slow without hardware support
    threads: int = 2  # CPU threads; the same number gives the same bytes
    portable: bool = False  # kernels that give the same bytes on any x86-64 CPU, several times slower
    compile: bool = False  # torch.compile
    deterministic: bool = True  # refuse GPU kernels whose results vary from run to run

    def __post_init__(self) -> None:
        def must(ok: bool, key: str, allowed: str) -> None:
            check(ok, key, getattr(self, key), allowed)

        for key in ("steps", "batch_size", "micro_batch_size", "validate_every", "log_every", "checkpoint_every"):
            must(getattr(self, key) >= 1, key, "at least 1")
        must(0 <= self.seed < 2**32, "seed", "between 0 and 2^32 - 1")
        must(self.stride is None or self.stride >= 1, "stride", "at least 1, or null for the context length")
        for key in ("learning_rate", "embedding_learning_rate", "matrix_learning_rate"):
            must(0 < getattr(self, key) <= 10, key, "more than 0 and at most 10")
        lower = f"between 0 and learning_rate = {self.learning_rate}"
        must(0 <= self.min_learning_rate <= self.learning_rate, "min_learning_rate", lower)
        must(0 <= self.warmup < 1, "warmup", "a fraction of the steps, at least 0 and less than 1")
        most = 1 - self.warmup if self.schedule.startswith("wsd") else 1
        must(0 <= self.decay <= most + 1e-9, "decay", f"a fraction of the steps, between 0 and {most:g}")
        for key in ("momentum", "beta1", "beta2"):
            must(0 <= getattr(self, key) < 1, key, "at least 0 and less than 1")
        must(0 < self.eps <= 1, "eps", "more than 0 and at most 1")
        decay = self.weight_decay
        must(decay is None or 0 <= decay <= 10, "weight_decay", "between 0 and 10, or null for what suits the text")
        must(0 < self.vocabulary_sample <= 1, "vocabulary_sample", "more than 0 and at most 1")
        must(self.gradient_clip > 0, "gradient_clip", "more than 0")
        must(self.val_documents is None or self.val_documents >= 1, "val_documents", "at least 1, or null for all")
        must(1 <= self.threads <= 1024, "threads", "between 1 and 1024")
        whole = f"a multiple of micro_batch_size = {self.micro_batch_size}"
        must(self.batch_size % self.micro_batch_size == 0, "batch_size", whole)
        plain = self.precision == "32" and self.accelerator == "cpu" and not self.compile
        must(plain or not self.portable, "portable", "false, or true with precision 32, accelerator cpu, compile false")
        fits = self.precision != "16-mixed" or self.accelerator != "cpu"
        must(fits, "precision", "32 or bf16-mixed with accelerator = cpu")

    def weight_decay_for(self, tokens: int, context_length: int) -> float:
        """The weight decay of a run on a text of so many tokens.

        With `weight_decay: null`, 0 for a run that reads no text twice. The more of a run is text that it has read
        before, the closer the weights come to an average over one pass, whose time constant in passes is what stays
        the same for texts of any size (Wang & Aitchison 2024, arXiv 2405.13698). docs/lab/log.md has the runs.
        All matrices have the same weight decay: with Muon, embeddings limit it if their learning rate is much higher.
        """
        if self.weight_decay is not None:
            return self.weight_decay
        learning_rate = self.learning_rate
        if self.optimizer == "muon":
            learning_rate = max(self.matrix_learning_rate, self.embedding_learning_rate / EMBEDDING_SHRINKAGE)
        steps_per_pass = tokens / (self.batch_size * context_length)
        read_again = max(0.0, 1 - steps_per_pass / self.steps)  # fraction of the tokens of the run
        return min(read_again * SHRINKAGE_PER_PASS / steps_per_pass, MAX_SHRINKAGE) / learning_rate

    def vocabulary_at(self, step: int) -> float:
        """The fraction of the vocabulary that competes in the loss of a step, 0 to steps - 1; all of it in the last."""
        return self.vocabulary_sample if step < int(SAMPLED * self.steps) else 1.0

    @property
    def vocabularies(self) -> dict[float, float]:
        """The fractions of the vocabulary that compete during a run, each with its fraction of the steps."""
        return {1.0: 1.0} if self.vocabulary_sample == 1 else {1.0: 1 - SAMPLED, self.vocabulary_sample: SAMPLED}

    @property
    def micro_batches(self) -> int:
        """Micro-batches per optimizer step, over all devices."""
        return self.batch_size // self.micro_batch_size

    def micro_batches_per_device(self, devices: int) -> int:
        """ValueError unless each device sums whole subtrees, which gives the same bytes as one device: see tree.py."""
        fits = divides_into_subtrees(self.micro_batches, devices)
        of = f"train.batch_size / train.micro_batch_size = {self.micro_batches}"
        check(fits, "runtime.devices", devices, f"1, or {of} divided by a power of two")
        return self.micro_batches // devices


def divides_into_subtrees(micro_batches: int, devices: int) -> bool:
    """Whether each device has all leaves of a subtree of the sum over the micro-batches of a step."""
    each, rest = divmod(micro_batches, devices)
    return devices == 1 or (rest == 0 and each.bit_count() == 1)
