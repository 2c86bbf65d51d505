"""The contenders of `learning.py`: a model, an optimizer and a schedule each, as their projects have them.

`learning.py` starts this file once per run, and reads one line of JSON from it:

    python benchmarks/contenders.py '{"contender": "hf-llama", "seconds": 100, …}'

All read windows of the same shards, in the same order. A run trains until its CPU time is used up: after each step, the
number of steps that fit is estimated anew from those so far, so every schedule ends when the time does. Code of nanoGPT
and nanochat is imported from a checkout, and litgpt from the environment that runs this file.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import litgpt_model, transformers_model
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_lm.device import keep_memory, set_arithmetic
from tiny_lm.evaluation.losses import DocumentLosses
from tiny_lm.evaluation.predictions import predictions
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows
from tiny_lm.step_speed import random_tokens
from tiny_lm.tools import plan
from tiny_lm.training.bigrams import start_from_bigrams
from tiny_lm.training.dataset import BinTokenDataset
from tiny_lm.training.module import seed_micro_batch
from tiny_lm.training.optimizer import build_optimizer
from tiny_lm.training.order import window_order
from tiny_lm.training.params import TrainParams
from tiny_lm.training.schedule import multiplier

SEED = 1
SHAPE: dict[str, Any] = {  # of our default model, for transformers and litgpt
    "context_length": 256, "d_model": 128, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "dropout": 0.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a contender."""

    contender: str
    shards: str  # a folder
    seconds: float  # of CPU time
    factor: float = 1.0  # its learning rates are multiplied by it
    threads: int = 1
    checkout: str = ""  # of nanoGPT or nanochat


class Contender(nn.Module):
    """A model with `optimizer`, whose groups have their learning rate at the peak as `initial_lr`."""

    learning_rate: float  # the default, at the peak
    lowest = 0  # exponent of the lowest learning rate to try, see learning.py
    batch_size = 8
    context_length = 256
    max_norm: float | None = 1.0  # of gradients
    prepared = 0.0  # seconds of CPU time before the first step that count as training
    optimizer: torch.optim.Optimizer

    def __init__(self, run: Run, vocab_size: int) -> None:
        super().__init__()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean over the targets."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """(B, T) → (B, T, V)"""
        raise NotImplementedError

    def multiplier(self, step: int, steps: int) -> float:
        """What learning rates are multiplied by at step `step`, 0 to steps - 1."""
        raise NotImplementedError

    def set_rates(self, step: int, steps: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.multiplier(step, steps)

    def use(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes an optimizer that was built with the learning rates at the peak."""
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    @torch.no_grad()
    def token_predictions(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Transformer.token_predictions`."""
        logits = self.logits(x).float()
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y)
        return losses, *logits.softmax(-1).max(-1)


class Ours(Contender):
    """The default recipe, in a plain loop with the arithmetic of the train stage."""

    def __init__(self, run: Run, vocab_size: int) -> None:
        super().__init__(run, vocab_size)
        self.params = TrainParams(threads=run.threads)
        self.batch_size, self.context_length = self.params.batch_size, Llama3Params().context_length
        self.max_norm, self.learning_rate = self.params.gradient_clip, self.params.learning_rate
        assert run.factor == 1, "runs with its defaults only"
        keep_memory()
        set_arithmetic(run.threads, self.params.portable)
        torch.use_deterministic_algorithms(self.params.deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        text = TokenStream(Path(run.shards), "train")
        self.tokens = text.metadata.train.tokens
        params = self.model_params(run.seconds, vocab_size)
        torch.manual_seed(SEED)
        self.model = build_model(params, vocab_size, self.params.initialization)
        start = time.process_time()
        start_from_bigrams(self.model, text)
        self.prepared = time.process_time() - start
        self.optimizer = build_optimizer(self.model, self.params, weight_decay=1.0)
        self.decaying = [group for group in self.optimizer.param_groups if group["weight_decay"]]
        self.step, self.vocabulary = 0, self.params.vocabulary_at(0)

    def model_params(self, seconds: float, vocab_size: int) -> Llama3Params:
        return Llama3Params()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        seed_micro_batch(SEED, self.step, 0)
        return self.model.summed_loss(x, y, self.vocabulary) / y.numel()

    def multiplier(self, step: int, steps: int) -> float:
        return multiplier(step, replace(self.params, steps=steps))

    def set_rates(self, step: int, steps: int) -> None:
        super().set_rates(step, steps)
        params = replace(self.params, steps=steps)
        self.step, self.vocabulary = step + 1, params.vocabulary_at(step + 1)
        decay = params.weight_decay_for(self.tokens, self.context_length)
        for group in self.decaying:
            group["weight_decay"] = decay

    def token_predictions(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.token_predictions(x, y)


class Planned(Ours):
    """The same with the size of model and the dropout that `tiny-lm plan` chooses for the time. As there, the steps
    that measure the machine are not a part of it.
    """

    def model_params(self, seconds: float, vocab_size: int) -> Llama3Params:
        default = Llama3Params()
        sizes = {
            plan.describe(default, vocab_size, self.params, *shape): replace(default, **plan.shape(default, *shape))
            for shape in plan.SHAPES
        }
        first = list(sizes)[2]
        chosen, tokens = plan.choose(
            list(sizes), first, lambda each: self.tokens_per_second(sizes[each], vocab_size), seconds, self.tokens
        )
        dropout = plan.dropout(passes=tokens / self.tokens)
        return replace(sizes[chosen], embedding_dropout=dropout, residual_dropout=dropout)

    def tokens_per_second(self, params: Llama3Params, vocab_size: int) -> float:
        """Of CPU time, in training steps on random tokens: the mean over a run."""
        model = build_model(params, vocab_size)
        optimizer = build_optimizer(model, self.params, weight_decay=0.0)
        tokens = random_tokens(vocab_size, (self.batch_size, self.context_length), "cpu")

        def seconds(vocabulary: float) -> float:
            for step in range(8):
                if step == 3:
                    start = time.process_time()
                (model.summed_loss(tokens, tokens, vocabulary) / tokens.numel()).backward()
                optimizer.step()
                optimizer.zero_grad()
            return (time.process_time() - start) / 5

        return tokens.numel() / sum(steps * seconds(each) for each, steps in self.params.vocabularies.items())


class HFLlama(Contender):
    """transformers' model with the defaults of its Trainer, which `run_clm.py` uses: AdamW without weight decay, and a
    linear decay to 0. Its learning rate is meant for fine-tuning, so larger ones are tried.
    """

    learning_rate = 5e-5
    lowest = 2
    shape = SHAPE | {"architecture": "llama3", "d_ff": 384}

    def __init__(self, run: Run, vocab_size: int) -> None:
        super().__init__(run, vocab_size)
        self.model, self.shifted_loss = transformers_model(self.shape | {"vocab_size": vocab_size})
        rate = self.learning_rate * run.factor
        self.use(
            torch.optim.AdamW(
                self.model.parameters(), lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, fused=True
            )
        )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.shifted_loss(x, y)

    def logits(self, x: Tensor) -> Tensor:
        return self.model(input_ids=x).logits

    def multiplier(self, step: int, steps: int) -> float:
        return (steps - step) / steps


class HFGPT2(HFLlama):
    shape = SHAPE | {"architecture": "gpt2", "d_ff": 512}


class LitGPT(Contender):
    """litgpt's model and initialization, with its config_hub/pretrain/tinystories.yaml: AdamW, and a cosine to 0 after
    a warm-up of 1,000 of 74,000 steps.
    """

    learning_rate = 5e-4
    shape = SHAPE | {"d_ff": 384}

    def __init__(self, run: Run, vocab_size: int) -> None:
        from types import SimpleNamespace

        from litgpt.pretrain import initialize_weights

        super().__init__(run, vocab_size)
        self.model, self.mean_loss = litgpt_model(self.shape | {"vocab_size": vocab_size})
        initialize_weights(
            SimpleNamespace(strategy=None), self.model, n_layer=self.shape["n_layers"], n_embd=self.shape["d_model"]
        )
        rate = self.learning_rate * run.factor
        self.use(torch.optim.AdamW(self.model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=False))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.mean_loss(x, y)

    def logits(self, x: Tensor) -> Tensor:
        return self.model(x)

    def multiplier(self, step: int, steps: int) -> float:
        return cosine(step, steps, warmup=steps * 1000 // 74_000, minimum=0.0)


class NanoGPT(Contender):
    """What nanoGPT's README trains on a CPU, with the optimizer of its config/train_shakespeare_char.py."""

    learning_rate = 1e-3
    lowest = -1
    batch_size = 12
    context_length = 64

    def __init__(self, run: Run, vocab_size: int) -> None:
        sys.path.insert(0, run.checkout)
        from model import GPT, GPTConfig

        super().__init__(run, vocab_size)
        self.model = GPT(
            GPTConfig(block_size=64, vocab_size=vocab_size, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False)
        )
        rate = self.learning_rate * run.factor
        self.use(self.model.configure_optimizers(0.1, rate, (0.9, 0.99), "cpu"))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.model(x, y)[1]

    def logits(self, x: Tensor) -> Tensor:
        return self.model(x, x)[0]  # without targets it computes those of the last token only

    def multiplier(self, step: int, steps: int) -> float:
        return cosine(step, steps, warmup=min(100, steps // 20), minimum=0.1)


class Nanochat(Contender):
    """nanochat's model and optimizer, with the heads and full attention of its runs/runcpu.sh, and the schedules and
    scaling rules of its scripts/base_train.py.
    """

    learning_rate = 0.02 * (8 * 256 / 2**19) ** 0.5  # of matrices; its rule for other batches than 2^19 tokens
    lowest = 1
    max_norm = None

    def __init__(self, run: Run, vocab_size: int) -> None:
        sys.path.insert(0, run.checkout)
        from nanochat.gpt import GPT, GPTConfig

        def build(depth: int, width: int) -> Any:
            with torch.device("meta"):
                return GPT(
                    GPTConfig(
                        sequence_len=256, vocab_size=vocab_size, n_layer=depth, n_head=width // 64,
                        n_kv_head=width // 64, n_embd=width, window_pattern="L",
                    )
                )  # fmt: skip

        def size(model: Any) -> int:
            counts = model.num_scaling_params()
            return counts["transformer_matrices"] + counts["lm_head"]

        super().__init__(run, vocab_size)
        self.model = build(3, 128)
        self.model.to_empty(device="cpu")
        self.model.init_weights()
        batch = (8 * 256 / 2**19) ** 0.5
        self.weight_decay = 0.28 * batch * size(build(12, 768)) / size(self.model)
        self.optimizer = self.model.setup_optimizer(
            unembedding_lr=0.008 * batch * run.factor, embedding_lr=0.3 * batch * run.factor,
            scalar_lr=0.5 * batch * run.factor, matrix_lr=self.learning_rate * run.factor,
            weight_decay=self.weight_decay,
        )  # fmt: skip

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.model(x, y)

    def logits(self, x: Tensor) -> Tensor:
        return self.model(x)

    def multiplier(self, step: int, steps: int) -> float:
        if step < 40:
            return (step + 1) / 40
        left = min(1.0, (steps - step) / (0.65 * steps))
        return left + (1 - left) * 0.05

    def set_rates(self, step: int, steps: int) -> None:
        super().set_rates(step, steps)
        done = max(0.0, 1 - (steps - step) / (0.65 * steps))  # of the decay
        momentum = 0.85 + 0.12 * step / 400 if step < 400 else 0.97 - 0.07 * done
        decay = self.weight_decay * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in self.optimizer.param_groups:
            if group["kind"] == "muon":
                group["momentum"], group["weight_decay"] = momentum, decay


CONTENDERS: dict[str, type[Contender]] = {
    "ours": Ours, "planned": Planned, "hf-llama": HFLlama, "hf-gpt2": HFGPT2, "litgpt": LitGPT, "nanogpt": NanoGPT,
    "nanochat": Nanochat,
}  # fmt: skip


def cosine(step: int, steps: int, *, warmup: int, minimum: float) -> float:
    """Linear warm-up, then half a period of a cosine from 1 to `minimum`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return minimum + (1 - minimum) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def compute_gradients(contender: Contender, windows: BinTokenDataset, step: int) -> None:
    first = step * contender.batch_size
    order = window_order(np.arange(first, first + contender.batch_size), len(windows), SEED)
    contender.loss(*windows.__getitems__(order.tolist())).backward()


def take_step(contender: Contender, windows: BinTokenDataset, step: int, steps: int) -> None:
    compute_gradients(contender, windows, step)
    if contender.max_norm is not None:
        nn.utils.clip_grad_norm_(contender.parameters(), contender.max_norm)
    contender.set_rates(step, steps)
    contender.optimizer.step()
    contender.zero_grad(set_to_none=True)


def train(contender: Contender, windows: BinTokenDataset, seconds: float) -> tuple[int, float]:
    """Trains for `seconds` of CPU time. Returns the number of steps, and the seconds in fact."""

    contender.train()
    for _ in range(2):  # not counted, since libraries are loaded on the way; the second is a first estimate
        start = time.process_time()
        compute_gradients(contender, windows, 0)
        contender.zero_grad(set_to_none=True)
        steps = max(1, round(seconds / (time.process_time() - start)))
    step, start = 0, time.process_time() - contender.prepared
    while step < steps:
        take_step(contender, windows, step, steps)
        step += 1
        spent = time.process_time() - start
        steps = round(step * seconds / spent)
    return step, spent


def bits_per_byte(contender: Contender, stream: TokenStream) -> float:
    """Of all documents, each in windows of the contender's own context length."""
    windows = DocumentWindows(stream, contender.context_length, 32, None)
    losses = DocumentLosses(
        documents=len(windows.lengths), context_length=contender.context_length, eos_id=stream.metadata.eos_id
    )
    read = (windows[i] for i in range(len(windows)))
    scorer: Any = contender.eval()  # needs parameters and token_predictions only
    for batch in predictions(scorer, read, precision="32", progress=False):
        losses.add(batch)
    _, characters, size = windows.lengths.sum(0).tolist()
    return losses.metrics(text_bytes=size, characters=characters)["bits_per_byte"]


def result(run: Run) -> dict[str, Any]:
    torch.set_num_threads(run.threads)
    torch.manual_seed(SEED)
    stream = TokenStream(Path(run.shards), "train")
    contender = CONTENDERS[run.contender](run, stream.metadata.vocab_size)
    steps, seconds = train(contender, BinTokenDataset(stream, contender.context_length, None), run.seconds)
    return {
        "contender": run.contender, "factor": run.factor, "learning_rate": contender.learning_rate * run.factor,
        "parameters": sum(p.numel() for p in contender.parameters()), "steps": steps,
        "tokens": steps * contender.batch_size * contender.context_length, "seconds": seconds,
        "bits_per_byte": bits_per_byte(contender, TokenStream(Path(run.shards), "val")),
    }  # fmt: skip


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):  # others print as well
        line = json.dumps(result(Run(**json.loads(sys.argv[1]))))
    print(line)


if __name__ == "__main__":
    main()
