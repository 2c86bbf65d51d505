"""A stage that is killed at any moment, and run again, ends with the bytes of a run that was left alone."""

import json
import signal

import pytest
from tries import ALL

from tiny_lm.io.params import read_yaml

ENDS = {signal.SIGKILL: "kill -9", signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
AT_A_TIME = "a random time"
SIZE = "model.context_length=16 model.d_model=16 model.n_layers=2 model.n_heads=4 model.d_ff=32 "
GPT2 = f"model=gpt2-2l {SIZE} model.n_kv_heads=4 "
TINY = SIZE + "train.steps=14 train.checkpoint_every=2 train.validate_every=5 train.precision=32 "
CONFIGURATIONS = {
    "llama3, float32": "",
    "llama3, bf16, best weights": "train.precision=bf16-mixed train.keep=best train.learning_rate=0.5",
    "two micro-batches, dropout": "train.micro_batch_size=2 model.residual_dropout=0.1 model.attention_dropout=0.1",
    "gpt2, last weights": GPT2 + "train.keep=last",
    "gpt2, bf16, one sequence at a time": GPT2 + "train.precision=bf16-mixed train.micro_batch_size=1",
    "states rarer than validations": "train.checkpoint_every=7 train.validate_every=2 model.embedding_dropout=0.2",
    "states and validations out of step": "train.checkpoint_every=3 train.validate_every=4 train.log_every=3",
    "no state but the last": "train.checkpoint_every=100 train.validate_every=100 train.schedule=wsd",
}


def moment(dice, alone):
    """A moment of a run like `alone`, as the server takes it, and its name. In a sample, one that comes: a random time
    may be after the end.
    """
    kill = dice.choices(list(ENDS), (8, 1, 1))[0]
    name = dice.choice([*([AT_A_TIME] if ALL else []), *alone["counts"]])
    if name == AT_A_TIME:
        return kill, name, {"kills": [[dice.uniform(0, alone["seconds"]), kill]]}
    return kill, name, {"moment": [name, dice.randint(1, alone["counts"][name]), kill]}


def kill_and_run_again(bench, stage, dice, book, alone, whole):
    """Kills a stage once, or a few times in a row, runs it to its end, and compares."""
    bench.forget(stage)
    for trial in range(dice.choice([1, 1, 2, 3])):
        kill, name, order = moment(dice, alone)
        outcome = bench.start(stage, **order)
        if outcome["code"] == 0:  # it was done before the moment came
            assert ALL or trial, order
            break
        at_once = outcome["code"] < 0 or not outcome["counts"]  # or in the first milliseconds, before the frame
        if not at_once:
            result = bench.nothing_is_lost(stage, outcome)
            assert "; run the same command to resume" in outcome["said"]
        elif dice.random() < 0.1:
            bench.restore(stage)
            result = "`tiny-lm restore` restores the previous outputs, then the same bytes"
        else:
            result = "the same bytes"
        book.note(f"{stage}: {ENDS[kill]} at {name}", result)
    else:
        outcome = bench.start(stage)
        assert outcome["code"] == 0, outcome
    assert bench.state() == whole, order


@pytest.mark.parametrize("configuration", list(CONFIGURATIONS) if ALL else list(CONFIGURATIONS)[1:4])
def test_killed_training_resumes_to_the_same_bytes(configuration, bench, dice, many, book):
    bench.preset(TINY + CONFIGURATIONS[configuration])
    alone = bench.start("train")
    assert alone["code"] == 0, alone
    whole = bench.state()
    for _ in range(many(1, 40)):
        kill_and_run_again(bench, "train", dice, book, alone, whole)


@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "shards", "evaluate", "export"])
def test_a_killed_stage_runs_again_to_the_same_bytes(stage, bench, dice, many, book):
    alone = bench.start(stage)
    assert bench.state() == bench.before
    for _ in range(many(1, 40)):
        kill_and_run_again(bench, stage, dice, book, alone, bench.before)


def test_a_killed_mixture_runs_again_to_the_same_bytes(bench, dice, many, book):
    notes = bench.path / "data/raw/notes"
    notes.mkdir(parents=True)
    for file in range(5):
        (notes / f"{file}.txt").write_text(f"note {file} " + "some words " * 40 * file)
    bench.before = bench.state()
    sources = [
        {"weight": 0.7, "source": "stories", "documents": 60, "validation_fraction": 0.2},
        {"weight": 0.3, "source": "local", "path": "data/raw/notes", "validation_fraction": 0.3, "max_epochs": 2},
    ]
    params = bench.path / "params.yaml"
    dataset = {"source": "mixture", "path": "data/raw", "sources": sources}
    params.write_text(json.dumps(read_yaml(params) | {"dataset": dataset}))  # JSON is YAML
    alone = bench.start("corpus")
    assert alone["code"] == 0, alone
    whole = bench.state()
    for _ in range(many(1, 40)):
        kill_and_run_again(bench, "corpus", dice, book, alone, whole)
