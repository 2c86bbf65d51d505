"""How the loss depends on a model's size and on what it reads: the sweep that the rule of `tiny-lm plan` is fitted on.

    python benchmarks/shapes.py --text stories --runs runs.json    # half an hour, two runs side by side
    python benchmarks/shapes.py --runs runs.json                   # only fits

Each of four shapes of `plan` trains on each text with the default recipe, once for each number of tokens, in a plain
loop with one thread, in bf16 and with the dropout that `plan` would set. To the bits per byte of all runs it fits the
law of `plan`, whose scale and lowest value may differ from text to text.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import learning
import numpy as np
import torch
from contenders import Ours, Run, bits_per_byte, take_step
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from torch import Tensor

from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.shards.stream import TokenStream
from tiny_lm.tools import plan
from tiny_lm.training.dataset import BinTokenDataset
from tiny_lm.training.params import TrainParams

Array = NDArray[np.float64]
SHAPES = plan.SHAPES[:4]
TOKENS = (500_000, 1_500_000, 4_500_000)
FEWEST = 0.75  # tokens for each parameter of the blocks; runs with fewer take long, and no plan would choose them


@dataclass(frozen=True)
class Result:
    text: str
    text_tokens: int
    d_model: int
    n_layers: int
    parameters: int  # of the blocks
    tokens: int
    seconds: float
    bits_per_byte: float


class Shaped(Ours):
    """The default recipe in bf16, with a given model."""

    def __init__(self, run: Run, vocab_size: int, model: Llama3Params) -> None:
        self.given = model
        super().__init__(run, vocab_size)

    def model_params(self, seconds: float, vocab_size: int) -> Llama3Params:
        return self.given

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().loss(x, y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="stories, a file or a folder")
    parser.add_argument("--separator", help="divides text files into documents, for example $'\\n\\n'")
    parser.add_argument("--glob", default="**/*", help="files of a folder, for example '**/*.py'")
    parser.add_argument("--tail", action="store_true", help="validate on the last tenth; default: on random documents")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--runs", type=Path, required=True, help="a JSON file to which the runs are added")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side; default: %(default)s")
    args = parser.parse_args()
    results = [Result(**each) for each in json.loads(args.runs.read_bytes())] if args.runs.exists() else []
    if args.text:
        with tempfile.TemporaryDirectory() as folder:
            learning.prepare(Path(folder), args.text, args)
            for result in sweep(args.text, Path(folder, "data/shards"), args.jobs):
                print(result, flush=True)
                results.append(result)
                args.runs.write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n", encoding="utf-8")
    fit(results)


def sweep(text: str, shards: Path, jobs: int) -> Iterator[Result]:
    """All runs on one text, in the order in which they end."""
    metadata = TokenStream(shards, "train").metadata
    shapes = [plan.describe(Llama3Params(), metadata.vocab_size, TrainParams(), *shape) for shape in SHAPES]
    pairs = [(shape, tokens) for tokens in TOKENS for shape in shapes if tokens > FEWEST * shape.block_parameters]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        runs = [pool.submit(train, text, shards, metadata.train.tokens, *pair) for pair in pairs]
        for each in as_completed(runs):
            yield each.result()


def train(text: str, shards: Path, text_tokens: int, shape: plan.Candidate, tokens: int) -> Result:
    """One run, in a process of its own."""
    torch.set_num_threads(1)
    rate = plan.dropout(tokens / text_tokens)
    default = Llama3Params(embedding_dropout=rate, residual_dropout=rate)
    model = replace(default, **plan.shape(default, shape.d_model, shape.n_layers))
    stream = TokenStream(shards, "train")
    ours = Shaped(Run(contender="ours", shards=str(shards), seconds=0), stream.metadata.vocab_size, model)
    windows = BinTokenDataset(stream, ours.context_length, None)
    steps = tokens // (ours.batch_size * ours.context_length)
    start = time.process_time()
    ours.train()
    for step in range(steps):
        take_step(ours, windows, step, steps)
    seconds = time.process_time() - start
    return Result(
        text, text_tokens, shape.d_model, shape.n_layers, shape.block_parameters, tokens, seconds,
        bits_per_byte(ours, TokenStream(shards, "val")),
    )  # fmt: skip


def fit(results: list[Result]) -> None:
    """Prints the law with the smallest squared errors, and what it predicts for each run."""
    start = np.log([plan.LAW.size, plan.LAW.data, plan.LAW.data_weight, plan.LAW.read_again])

    def law(logarithms: Array) -> plan.Law:
        return plan.Law(*np.exp(logarithms).tolist())

    found = law(minimize(lambda x: float(np.sum(errors(law(x), results) ** 2)), start, method="Nelder-Mead").x)
    print(f"\n{found}\n\n| text | shape | tokens | passes | bits per byte | predicted |\n|---|---|---|---|---|---|")
    for each, error in zip(results, errors(found, results), strict=True):
        passes, predicted = each.tokens / each.text_tokens, each.bits_per_byte * (1 + error)
        print(
            f"| {Path(each.text).name} | {each.d_model} × {each.n_layers} | {each.tokens:,} | {passes:.1f} "
            f"| {each.bits_per_byte:.4f} | {predicted:.4f} |"
        )


def errors(law: plan.Law, results: list[Result]) -> Array:
    """By how much the law's bits per byte are above those of each run, as a fraction, with the best scale and lowest
    value for each text.
    """
    errors = np.zeros(len(results))
    for text in {each.text for each in results}:
        places = [i for i, each in enumerate(results) if each.text == text]
        runs = [results[i] for i in places]
        losses = [law.loss(each.parameters, each.tokens, each.text_tokens) for each in runs]
        terms = np.array([[1, loss] for loss in losses]) / [[each.bits_per_byte] for each in runs]
        errors[places] = terms @ nnls(terms, np.ones(len(runs)))[0] - 1
    return errors


if __name__ == "__main__":
    main()
