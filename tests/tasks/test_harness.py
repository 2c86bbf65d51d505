"""Tasks of lm-evaluation-harness, with data from a hub on loopback. A process of its own runs them all, because the
libraries read their environment when they are imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub import Hub, Repository
from tiny import LLAMA3

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.corpus.exam import questions
from tiny_lm.evaluation.exam import take_exam
from tiny_lm.exam import HARNESS_TASK, Exam, Question
from tiny_lm.export.write import write_export
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer
from tiny_lm.stories.generator import story
from tiny_lm.tasks.harness import EWOK as EWOK_TASKS
from tiny_lm.tasks.harness import INSTALL, Score, _score, run_tasks
from tiny_lm.tasks.params import TasksParams
from tiny_lm.tokenizer.encode import Tokenizer

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 3600
STORIES = [story(3, index) for index in range(60)]
THINGS = ["a ball", "a boat", "the kite", "the red box", "cake"]
ARC = [  # as in ARC: the number of choices varies
    {
        "id": str(i),
        "question": f"Where did {name} put it?",
        "choices": {"text": THINGS[: 3 + i % 3], "label": list("ABCDE")[: 3 + i % 3]},
        "answerKey": "ABC"[i % 3],
    }
    for i, name in enumerate(["Tim", "Sue", "Ben", "Lily", "Mom", "Dad", "Rosa", "Adam", "John", "Amy"])
]
EWOK = [
    {
        "Domain": "social-relations",
        "Context1": f"{name} gave the {thing} to Sue.",
        "Context2": f"Sue gave the {thing} to {name}.",
        "Target1": f"Sue has the {thing}.",
        "Target2": f"{name} has the {thing}.",
    }
    for name, thing in [("Tim", "ball"), ("Ben", "kite"), ("Lily", "boat"), ("Mom", "cake"), ("Adam", "box")]
]


def repository(configs: dict[str, list[dict[str, Any]]]) -> Repository:
    """A data set of several configurations, each with the splits train, validation and test, of which tests use one."""
    splits = ("train", "validation", "test")
    card = {
        "configs": [
            {"config_name": name, "data_files": [{"split": split, "path": f"{name}/{split}.jsonl"} for split in splits]}
            for name in configs
        ]
    }
    files = {"README.md": f"---\n{yaml.safe_dump(card)}---\n".encode()}
    for name, rows in configs.items():
        for split in splits:
            lines = [json.dumps(row) + "\n" for row in (rows if split == "test" else rows[:1])]
            files[f"{name}/{split}.jsonl"] = "".join(lines).encode()
    return Repository({"a" * 40: files}, {"main": "a" * 40})


def own_task(name: str, **changes: Any) -> str:
    """A task in a file, on the questions of the exam."""
    return yaml.safe_dump(yaml.safe_load(HARNESS_TASK) | {"task": name} | changes)


SCENARIOS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {  # state of the hub, params; in this order
    "down": ({"down": 1}, {"names": ["arc_easy"]}),
    "no data set": ({}, {"names": ["piqa"]}),
    "unknown": ({}, {"names": ["arc_easy", "arc_eazy"]}),
    "unlike any": ({}, {"names": ["xyzzyplugh"]}),
    "exam": ({}, {"names": ["tiny_lm_exam"]}),
    "arc": ({}, {"names": ["arc_easy"]}),
    "limit": ({}, {"names": ["arc_easy"], "limit": 3}),
    "one": ({}, {"names": ["arc_easy"], "limit": 1}),
    "batch": ({}, {"names": ["arc_easy"], "batch_size": 2}),
    "tag": ({}, {"names": ["ai2_arc"]}),
    "two": ({}, {"names": ["arc_challenge", "tiny_lm_exam"], "limit": 5}),
    "twice": ({}, {"names": ["arc_easy", "pair"]}),
    "group": ({}, {"names": ["pair"]}),
    "ewok": ({}, {"names": ["ewok"]}),
    "no mean": ({}, {"names": ["loose"]}),
    "generates": ({}, {"names": ["writes"], "limit": 1}),
    "cached": ({"down": 1}, {"names": ["arc_easy"]}),
}
SCRIPT = """
import dataclasses, json, os, sys, time, urllib.request
from pathlib import Path
from tiny_lm.io.params import load_params
from tiny_lm.tasks.harness import run_tasks
from tiny_lm.tasks.params import TasksParams
time.sleep = lambda _: None
results = {}
for name, (state, values) in json.load(sys.stdin).items():
    for key, value in ({"down": 0} | state).items():
        urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/control/{key}/{value}").close()
    try:
        params = load_params("tasks", values, TasksParams)
        scores, report = run_tasks(Path("export"), Path("exam"), params, "cpu", progress=name == "arc")
        config = {key: report["config"][key] for key in ("device", "batch_size", "limit")}
        results[name] = {"scores": [dataclasses.asdict(score) for score in scores], "config": config}
        results[name]["results"] = report["results"]
    except ValueError as error:
        results[name] = {"error": str(error)}
Path("results.json").write_text(json.dumps(results, default=str))
"""


@dataclass
class Run:
    results: dict[str, Any]
    said: str
    model: Transformer
    tokenizer: Tokenizer

    def accuracy(self, asked: list[Question]) -> float:
        """By our own exam, whose right choice is the last."""
        answers = take_exam(self.model, self.tokenizer, asked, 32)
        return sum(answer.right for answer in answers) / len(answers)


def exam_questions() -> list[Question]:
    return [question for number, text in enumerate(STORIES[:8]) for question in questions(text, number)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("lm_eval", reason=INSTALL)
    folder = tmp_path_factory.mktemp("tasks")
    tokenizer = train_tokenizer(iter(STORIES), TokenizerParams(vocab_size=400), False)
    torch.manual_seed(0)
    model = build_model(LLAMA3, tokenizer.vocab_size).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_export(folder / "export", model, tokenizer, dtype="float32", card="")
    Exam(None, exam_questions()).save(folder / "exam")
    data = {"dataset_kwargs": {"data_files": {"test": str(folder / "exam/questions.jsonl")}}}
    groups = {"pair": [{"metric": "acc", "weight_by_size": False}], "loose": None}
    for name, means in groups.items():
        group = {"group": name, "task": ["arc_easy", "arc_challenge"]} | (
            {"aggregate_metric_list": means} if means else {}
        )
        (folder / f"exam/{name}.yaml").write_text(yaml.safe_dump(group))
    generating = {"output_type": "generate_until", "generation_kwargs": {"until": ["."], "max_gen_toks": 64}}
    metric = {"metric_list": [{"metric": "exact_match"}], "doc_to_choice": None, "doc_to_target": "{{choices[-1]}}"}
    (folder / "exam/writes.yaml").write_text(own_task("writes", **data, **generating, **metric))
    sets = {"allenai/ai2_arc": repository({"ARC-Easy": ARC, "ARC-Challenge": ARC[::-1][:6]})}
    sets["ewok-core/ewok-core-1.0"] = repository({"default": EWOK})
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    with Hub(sets) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT / "src")}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=json.dumps(SCENARIOS), capture_output=True, text=True, cwd=folder,
            env=kept | environment, timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Run(json.loads((folder / "results.json").read_text()), done.stderr, model, tokenizer)


def scores(run: Run, scenario: str) -> list[Score]:
    assert "scores" in run.results[scenario], run.results[scenario]
    return [Score(**score) for score in run.results[scenario]["scores"]]


def test_the_exam_has_the_accuracy_that_our_own_evaluation_finds(run: Run) -> None:
    (score,) = scores(run, "exam")
    asked = exam_questions()
    assert (score.task, score.metric, score.questions) == ("tiny_lm_exam", "acc", len(asked))
    assert score.value == pytest.approx(run.accuracy(asked))
    assert score.stderr == pytest.approx((score.value * (1 - score.value) / (len(asked) - 1)) ** 0.5)


def test_a_task_is_scored_on_its_data_from_the_hub(run: Run) -> None:
    (score,) = scores(run, "arc")
    assert (score.task, score.metric, score.questions) == ("arc_easy", "acc_norm", len(ARC))
    asked = []
    for row in ARC:
        choices = [f" {choice}" for choice in row["choices"]["text"]]
        choices.append(choices.pop("ABCDE".index(row["answerKey"])))
        context = f"Question: {row['question']}\nAnswer:"
        asked.append(Question(document=0, skill="has", context=context, choices=tuple(choices), fact=0, handovers=0))
    found = run.results["arc"]["results"]["arc_easy"]
    assert found["acc,none"] == pytest.approx(run.accuracy(asked))
    assert score.value == found["acc_norm,none"]


def test_ewok_asks_after_which_context_a_target_is_likelier(run: Run) -> None:
    @torch.no_grad()
    def likelihood(context: str, target: str) -> float:
        last = run.tokenizer.encode(f" {target}").tolist()
        ids = [*run.tokenizer.encode(context).tolist(), *last][-LLAMA3.context_length - 1 :]
        log_probs = run.model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[-len(last) :]  # (T, V)
        return float(log_probs.gather(1, torch.tensor(last)[:, None]).sum())

    points = 0
    for row in EWOK:
        for mine, other in (("1", "2"), ("2", "1")):
            target = row[f"Target{mine}"]
            points += likelihood(row[f"Context{mine}"], target) > likelihood(row[f"Context{other}"], target)
    (score,) = scores(run, "ewok")
    assert (score.task, score.metric, score.questions) == ("ewok", "acc", 2 * len(EWOK))
    assert score.value == points / (2 * len(EWOK))
    assert 0 < points < 2 * len(EWOK)  # so that another reading of the data would score differently


def test_limit_asks_the_first_questions_of_each_task(run: Run) -> None:
    assert [(score.task, score.questions) for score in scores(run, "limit")] == [("arc_easy", 3)]
    assert [score.questions for score in scores(run, "two")] == [5, 5]
    (one,) = scores(run, "one")
    assert (one.questions, one.stderr) == (1, None)


def test_the_batch_size_reaches_the_model_and_changes_no_score(run: Run) -> None:
    assert run.results["batch"]["config"]["batch_size"] == 2
    assert run.results["arc"]["config"]["batch_size"] == 32
    assert scores(run, "batch") == scores(run, "arc")


def test_a_tag_is_all_of_its_tasks(run: Run) -> None:
    assert {score.task: score.questions for score in scores(run, "tag")} == {"arc_easy": 10, "arc_challenge": 6}


def test_a_group_is_its_mean_or_its_tasks_if_it_has_none(run: Run) -> None:
    (mean,) = scores(run, "group")
    easy, challenge = (run.results["group"]["results"][name]["acc,none"] for name in ("arc_easy", "arc_challenge"))
    assert (mean.task, mean.metric, mean.questions) == ("pair", "acc", 16)
    assert mean.value == pytest.approx((easy + challenge) / 2)
    assert [score.task for score in scores(run, "no mean")] == ["arc_easy", "arc_challenge"]


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ("down", "tasks.names: arc_easy: its data could not be loaded: "),
        ("no data set", "tasks.names: piqa: its data could not be loaded: DatasetNotFoundError: "),
        (
            "unknown",
            "tasks.names: 'arc_eazy': no such task, group or tag in lm-evaluation-harness; similar: arc_easy, ",
        ),
        ("unlike any", "tasks.names: 'xyzzyplugh': no such task, group or tag in lm-evaluation-harness; `lm_eval ls"),
        ("twice", "tasks.names = ['arc_easy', 'pair']: lm-evaluation-harness: Duplicate task 'arc_easy'"),
        ("generates", "tasks.names = ['writes']: lm-evaluation-harness: Invalid configuration: requested max tokens"),
    ],
)
def test_a_mistake_is_explained_in_one_line(run: Run, scenario: str, message: str) -> None:
    error = run.results[scenario]["error"]
    assert error.startswith(message)
    assert "\n" not in error


def test_without_the_hub_the_cache_serves(run: Run) -> None:
    assert scores(run, "cached") == scores(run, "arc")


def test_bars_are_drawn_with_progress_only(run: Run) -> None:
    assert run.said.count("Running loglikelihood requests: 100%") == 1
    assert "longer than" not in run.said
    assert "Truncating" not in run.said


def test_the_presets_name_tasks_that_the_harness_has() -> None:
    pytest.importorskip("lm_eval", reason=INSTALL)
    from lm_eval.tasks import TaskManager

    known = {*TaskManager(include_path=str(EWOK_TASKS)).all_tasks, "tiny_lm_exam"}
    for path in (ROOT / "configs/tasks").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())["tasks"].get("names", [])) <= known


def test_an_exam_without_questions_is_named(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason=INSTALL)
    Exam(None).save(tmp_path)
    with pytest.raises(
        ValueError, match=r"^tasks.names: tiny_lm_exam: .* has no questions; only dataset.source: stories"
    ):
        run_tasks(tmp_path, tmp_path, TasksParams(), "cpu", progress=True)


def test_without_the_harness_one_line_has_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"is not installed .*; run `pip install -c constraints.txt -e '.\[tasks\]'`$"):
        run_tasks(tmp_path, tmp_path, TasksParams(), "cpu", progress=True)
    assert '\ntasks = ["accelerate==' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("metrics", "metric", "value"),
    [
        ({"acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.7, "acc_norm_stderr,none": 0.2}, "acc_norm", 0.7),
        ({"perplexity,none": 9.0, "perplexity_stderr,none": 0.1, "acc,none": 0.5, "acc_stderr,none": 0.1}, "acc", 0.5),
        ({"byte_perplexity,none": 9, "bits_per_byte,none": 3.2, "bits_per_byte_stderr,none": ""}, "bits_per_byte", 3.2),
        ({"exact_match,strict": 0.1, "exact_match,flexible": 0.2}, "exact_match", 0.1),
        ({"mcc,none": 0.3, "mcc_stderr,none": 0.1, "other,none": 0.2}, "mcc", 0.3),
    ],
)  # fmt: skip
def test_the_main_metric_is_the_usual_one_of_a_task(metrics: dict[str, Any], metric: str, value: float) -> None:
    score = _score("a", {"alias": "a", "sample_len": 4} | metrics)
    assert (score.metric, score.value, score.questions) == (metric, value, 4)
