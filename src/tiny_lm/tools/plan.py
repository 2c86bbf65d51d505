"""Plan a run for a given time, and write it to params.yaml: size of the model, precision, regularization, steps,
validation.

The time is that of `dvc repro` once data/shards is up to date: training, evaluation and export. A small text may need
less. The tool measures real training steps on this machine, looks at the shards, and gives a reason for each choice;
docs/plan.md explains the rule. Settings are applied first, as in `tiny-lm preset`, and the plan then sets what it has
chosen.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiny_lm.io.params import check, flat, parse_yaml
from tiny_lm.presets import PARAMS, SHARDS, edit_params, params_with, vocabulary, write_params
from tiny_lm.step_speed import CODE, run
from tiny_lm.terminal import Parser

if TYPE_CHECKING:
    from tiny_lm.model.transformer import TransformerParams
    from tiny_lm.training.params import TrainParams

SHAPES = ((64, 2), (96, 2), (128, 3), (192, 4), (256, 4), (384, 6), (512, 8))  # (d_model, n_layers), smallest first
HEAD_DIM = 32
BATCH_TOKENS = 2048
PASSES = 16  # over a text, at most: with more a model learns it by heart, also with dropout
DROPOUT, DROPOUT_PASSES = 0.1, 10  # for a text that is read more often; weight decay alone is better before
VALIDATIONS = 10
VALIDATION_FRACTION = 0.05  # of the training time, at most
FORWARD = 1 / 3  # of the time of a training step
IMPORTS = "import pytorch_lightning, transformers"
STARTS = 3.4  # the three stages take this many times as long as IMPORTS, in addition to their work
STEP_OVERHEAD = 0.0014  # of IMPORTS: what Lightning, logging and loading add to a step, Python's work like that
QUESTION_SECONDS = 0.0005  # of the exam
BF16_GAIN = 1.1  # how many times as fast bf16-mixed must be, to be worth its coarser arithmetic
LEAST_SECONDS = 5.0  # of training
MEASURE_SECONDS = 4.0


@dataclass(frozen=True)
class Law:
    """The loss of Hoffmann et al. (2022), for the parameters of the blocks, without what is the same for all models of
    a text. Tokens that are read again count less each time, as Muennighoff et al. (2023) found.
    """

    size: float  # the exponents
    data: float
    data_weight: float
    read_again: float  # passes after the first that count, at most

    def loss(self, parameters: int, tokens: float, text: int) -> float:
        """In a unit that differs from text to text, which has `text` tokens."""
        again = max(0.0, tokens / text - 1)
        worth = min(tokens, text) + text * self.read_again * (1 - math.exp(-again / self.read_again))
        return float(parameters**-self.size + self.data_weight * worth**-self.data)


LAW = Law(size=0.4, data=0.4, data_weight=8.0, read_again=3.0)  # fitted by benchmarks/shapes.py, and rounded


@dataclass(frozen=True)
class Corpus:
    """What the rule considers of data/shards and data/exam."""

    tokens: int  # to train on
    val_lengths: tuple[int, ...]  # tokens of each validation document
    questions: int  # of the exam


@dataclass(frozen=True)
class Candidate:
    """A model of one of the SHAPES."""

    d_model: int
    n_layers: int
    block_parameters: int
    flops_per_token: float  # mean over a run, of which most steps sample the vocabulary


@dataclass(frozen=True)
class Speed:
    """Tokens per second of a model in bare training steps."""

    run: float  # mean over a run
    whole_vocabulary: float  # in steps whose loss is over the whole vocabulary, as in validation


@dataclass(frozen=True)
class Machine:
    """What was measured on this machine, for the chosen model."""

    precision: str
    tokens_per_second: float  # in bare steps
    validation_speed: float  # tokens per second
    evaluation_speed: float  # tokens per second
    step_overhead: float  # seconds that a step takes in addition
    start: float  # seconds to start all stages


@dataclass(frozen=True)
class Plan:
    settings: list[str]
    reasons: dict[str, str]


def main(argv: list[str]) -> None:
    parser = Parser("plan", __doc__, "--minutes 10")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--minutes", type=float, required=True, help="time for training, evaluation and export")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, and leave params.yaml as it is")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if not 0 < args.minutes <= 60 * 24 * 365:
        raise ValueError(f"--minutes {args.minutes:g}: must be above 0 and at most a year")
    plan = plan_run(args.settings, 60 * args.minutes, SHAPES)
    text = edit_params([*args.settings, *plan.settings])
    if not args.dry_run:
        write_params(text)
    if args.json:
        print(json.dumps({"settings": plan.settings, "reasons": plan.reasons}, indent=2))
        return
    print("\n".join(f"{name:<12}{reason}" for name, reason in plan.reasons.items()))
    print("\nparams.yaml is unchanged" if args.dry_run else "\nparams.yaml: written; run `dvc repro`")


def plan_run(settings: list[str], seconds: float, shapes: Sequence[tuple[int, int]]) -> Plan:
    """Measures this machine and applies the rule. ValueError if there is too little time to train at all."""
    from tiny_lm.device import uses_cuda

    model, train, evaluate, runtime = params_with(settings, "model", "train", "evaluate", "runtime")
    check(runtime.devices == 1, "runtime.devices", runtime.devices, "1: a plan is for one process")
    if uses_cuda("train", train.accelerator, train.precision):
        raise ValueError(
            "train.accelerator: plan can only plan runs on a CPU; pass train.accelerator=cpu, or for a GPU use a "
            "preset, such as experiment=tinystories-gpt2-muon"
        )
    corpus = read_corpus()
    check_up_to_date(settings)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True)
    imports = time.perf_counter() - started
    starts = STARTS * imports

    vocab_size, _ = vocabulary(settings)
    candidates = [describe(model, vocab_size, train, *shape) for shape in shapes]
    first = candidates[:3][-1]
    asked = train.portable or any(each.startswith("train.precision=") for each in settings)
    precisions = [train.precision] if asked else ["32", "bf16-mixed"]
    plain = [*settings, *dropout_settings(0.0)]
    by_precision = {precision: measure(plain, model, first, precision) for precision in precisions}
    precision = fastest(by_precision)
    speeds = {first: by_precision[precision]}

    def measured(candidate: Candidate) -> float:
        if candidate not in speeds:
            speeds[candidate] = measure(plain, model, candidate, precision)
        step_tokens = batch_size(model) * model.context_length
        return step_tokens / (step_tokens / speeds[candidate].run + STEP_OVERHEAD * imports)

    training = max(LEAST_SECONDS, seconds - starts)  # if there is less, `make_plan` refuses
    chosen, tokens = choose(candidates, first, measured, training, corpus.tokens)
    rate = dropout(tokens / corpus.tokens)
    speed = measure([*settings, *dropout_settings(rate)], model, chosen, precision) if rate else speeds[chosen]
    validation_speed = speed.whole_vocabulary / FORWARD
    other = by_precision.get(evaluate.precision, by_precision[precision])
    evaluation_speed = validation_speed * other.whole_vocabulary / by_precision[precision].whole_vocabulary
    machine = Machine(precision, speed.run, validation_speed, evaluation_speed, STEP_OVERHEAD * imports, starts)
    return make_plan(corpus, model, chosen, machine, seconds)


def fastest(speeds: dict[str, Speed]) -> str:
    """The precision of the highest speed; bf16-mixed only if the gain is worth its coarser arithmetic."""
    return max(speeds, key=lambda precision: speeds[precision].run / (BF16_GAIN if precision == "bf16-mixed" else 1))


def read_corpus() -> Corpus:
    from tiny_lm.exam import Exam
    from tiny_lm.shards.stream import TokenStream

    if not (SHARDS / "metadata.json").exists():
        raise ValueError(f"{SHARDS}: missing; `dvc repro shards` builds it, then plan again")
    stream, exam = TokenStream(SHARDS, "val"), Path("data/exam")
    questions = len(Exam.load(exam).questions) if exam.exists() else 0
    return Corpus(stream.metadata.train.tokens, tuple(stream.lengths[:, 0].tolist()), questions)


def check_up_to_date(settings: list[str]) -> None:
    """ValueError if dvc.lock records that data/shards was built with other params: a plan for another text."""
    from tiny_lm.compare.revisions import Revision

    if not Path("dvc.lock").exists():
        return
    recorded = Revision("workspace").stages().only(("corpus", "tokenizer", "shards")).params
    params = dict(flat(parse_yaml(edit_params(settings), PARAMS)))
    wanted = {key: params[key] for key in params if key.startswith(("dataset.", "tokenizer.", "shards."))}
    for key in sorted(recorded.keys() | wanted.keys()):
        if recorded.get(key) != wanted.get(key):
            raise ValueError(
                f"{key}: data/shards was built with another value; set it with `tiny-lm preset`, run "
                "`dvc repro shards`, and plan again"
            )


def shape(model: TransformerParams, d_model: int, n_layers: int) -> dict[str, Any]:
    """The values of the params section `model` that a shape stands for."""
    heads = d_model // HEAD_DIM
    d_ff = d_model * (4 if model.architecture == "gpt2" else 3)
    values = {"d_model": d_model, "n_layers": n_layers, "n_heads": heads, "n_kv_heads": heads, "d_ff": d_ff}
    return values | ({"head_dim": HEAD_DIM} if model.architecture == "qwen3" else {})


def shape_settings(model: TransformerParams, candidate: Candidate) -> list[str]:
    values = shape(model, candidate.d_model, candidate.n_layers)
    return [f"model.{key}={value}" for key, value in values.items()]


def describe(model: TransformerParams, vocab_size: int, train: TrainParams, d_model: int, n_layers: int) -> Candidate:
    from tiny_lm.model.registry import meta_model

    built = meta_model(replace(model, **shape(model, d_model, n_layers)), vocab_size)
    count = sum(matrix.numel() for some in built.hidden_matrices().values() for matrix in some)
    flops = sum(steps * built.flops_per_token(vocabulary) for vocabulary, steps in train.vocabularies.items())
    return Candidate(d_model, n_layers, count, flops)


def batch_size(model: TransformerParams) -> int:
    return max(1, BATCH_TOKENS // model.context_length)


def measure(settings: list[str], model: TransformerParams, candidate: Candidate, precision: str) -> Speed:
    """Measured in a separate process, as for find-batch-size."""
    batch = batch_size(model)
    sizes = shape_settings(model, candidate)
    settings = [*settings, *sizes, f"train.batch_size={batch}", f"train.precision={precision}"]
    command = [sys.executable, "-c", CODE, "find-batch-size", *settings]
    measured = run([*command, f"--measure={batch}", f"--parent={os.getpid()}", f"--seconds={MEASURE_SECONDS}"])
    if measured is None:
        raise ValueError("a training step does not fit in memory; free memory, or set a smaller model.context_length")
    return Speed(measured["tokens_per_second"], measured["whole_vocabulary_tokens_per_second"])


def choose(
    candidates: Sequence[Candidate], first: Candidate, speed: Callable[[Candidate], float], seconds: float, text: int
) -> tuple[Candidate, float]:
    """The candidate with the lowest loss to expect after so many seconds, and the tokens that it then sees of a text of
    so many. `speed` measures the tokens per second of the first, and then of each that looks best, until that one has
    been measured.
    """
    speeds = {first: speed(first)}

    def tokens(candidate: Candidate) -> float:
        known = sorted((each.flops_per_token, 1 / speeds[each]) for each in speeds)
        flops, times = zip((0.0, 0.0), *known, strict=True)
        # Linear between those that were measured: calls of torch take a part of the time that does not depend on FLOPs.
        time = float(np.interp(candidate.flops_per_token, flops, times))
        time *= max(1.0, candidate.flops_per_token / flops[-1])
        return min(seconds / time, PASSES * text)

    def loss(candidate: Candidate) -> float:
        return LAW.loss(candidate.block_parameters, tokens(candidate), text)

    while (best := min(candidates, key=loss)) not in speeds:
        speeds[best] = speed(best)
    return best, tokens(best)


def dropout(passes: float) -> float:
    """On embeddings and residuals, of a run that reads its text so many times."""
    return DROPOUT if passes > DROPOUT_PASSES else 0.0


def dropout_settings(rate: float) -> list[str]:
    """Not on attention, which would rule out the fast kernel."""
    rates = {"embedding": rate, "residual": rate, "attention": 0.0}
    return [f"model.{part}_dropout={value}" for part, value in rates.items()]


def make_plan(corpus: Corpus, model: TransformerParams, chosen: Candidate, machine: Machine, seconds: float) -> Plan:
    """Divides the time among start, training, validation, evaluation and export."""
    speed = machine.tokens_per_second
    evaluation = sum(corpus.val_lengths) / machine.evaluation_speed + QUESTION_SECONDS * corpus.questions
    left = seconds - machine.start - evaluation
    documents, validations, each = validation(corpus, machine.validation_speed, VALIDATION_FRACTION * left)
    left -= validations * each
    if left < LEAST_SECONDS:
        raise ValueError(
            f"--minutes {seconds / 60:g}: too short, because stages take {machine.start:.0f} seconds to start, "
            f"validation {validations * each:.0f} and evaluation {evaluation:.0f}; take at least "
            f"{math.ceil((seconds - left + LEAST_SECONDS) / 6) / 10}"
        )
    batch = batch_size(model)
    step = batch * model.context_length / speed + machine.step_overhead
    in_time = max(1, round(left / step))
    steps = min(in_time, max(1, round(PASSES * corpus.tokens / (batch * model.context_length))))
    tokens = steps * batch * model.context_length
    passes = tokens / corpus.tokens
    limit = "" if steps == in_time else f", and no more: the run ends after {100 * steps / in_time:.0f} % of the time"
    rate = dropout(passes)
    settings = [
        *shape_settings(model, chosen),
        *dropout_settings(rate), f"train.precision={machine.precision}",
        f"train.steps={steps}", f"train.batch_size={batch}",
        f"train.micro_batch_size={batch}", f"train.validate_every={-(-steps // validations)}",
        f"train.checkpoint_every={-(-steps // VALIDATIONS)}", f"train.log_every={max(1, steps // 100)}",
        f"train.val_documents={'null' if documents == len(corpus.val_lengths) else documents}",
    ]  # fmt: skip
    return Plan(settings, {
        "machine": f"trains {batch * model.context_length / step:,.0f} tokens per second in "
        f"{machine.precision}, and takes {machine.start:.0f} s to start all stages",
        "corpus": f"{corpus.tokens:,} tokens to train on, {sum(corpus.val_lengths):,} to validate on",
        "model": f"{chosen.n_layers} layers of {chosen.d_model}: {tokens / chosen.block_parameters:.1f} tokens for "
        f"each of the {chosen.block_parameters:,} parameters in the blocks",
        "steps": f"{steps:,} of {batch} × {model.context_length} tokens: {passes:.1f} passes over the text{limit}",
        "dropout": f"{rate:g}, because the text is read {'' if rate else 'only '}{passes:.1f} times",
        "validation": f"{validations} times on {documents:,} documents, {validations * each:.0f} s in all",
        "time": f"{machine.start:.0f} s to start, {steps * step:.0f} s of training steps, {validations * each:.0f} s "
        f"of validation, {evaluation:.0f} s of evaluation",
    })  # fmt: skip


def validation(corpus: Corpus, tokens_per_second: float, seconds: float) -> tuple[int, int, float]:
    """How many documents to validate on, how often, and the seconds of each time, for about so many seconds in all."""
    cost = [tokens / tokens_per_second for tokens in accumulate(corpus.val_lengths)]  # of the first n + 1
    documents = max(1, sum(each <= seconds / VALIDATIONS for each in cost))
    each = cost[documents - 1]
    return documents, max(1, min(VALIDATIONS, int(seconds / each))), each
