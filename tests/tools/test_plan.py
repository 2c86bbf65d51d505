"""`tiny-lm plan`: the rule, and params.yaml as it is written. How fast this machine is does not matter."""

import json
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tiny_lm.io.params import read_yaml
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.presets import edit_params
from tiny_lm.tools import plan
from tiny_lm.tools.plan import (
    LAW,
    PASSES,
    SHAPES,
    Candidate,
    Corpus,
    Law,
    Machine,
    Speed,
    choose,
    main,
    make_plan,
    read_corpus,
    validation,
)
from tiny_lm.training.params import TrainParams

MODEL = Llama3Params()
CORPUS = Corpus(tokens=1_000_000, val_lengths=(1000,) * 50, questions=0)
SMALL, LARGE = Candidate(64, 2, 100_000, 4e6), Candidate(128, 3, 600_000, 8e6)


def planned(seconds=120.0, corpus=CORPUS, speed=10_000.0, starts=20.0, overhead=0.0):
    """The settings of a plan as a dictionary."""
    result = make_plan(corpus, MODEL, LARGE, Machine("32", speed, 3 * speed, 3 * speed, overhead, starts), seconds)
    return dict(setting.split("=") for setting in result.settings)


def test_the_law_counts_tokens_that_are_read_again_for_less_and_less():
    law = Law(size=0.5, data=1.0, data_weight=3.0, read_again=4.0)
    assert law.loss(100, 60.0, 1000) == pytest.approx(1 / 10 + 3 / 60)
    assert law.loss(100, 1000.0, 1000) == pytest.approx(1 / 10 + 3 / 1000)
    assert law.loss(100, 3000.0, 1000) == pytest.approx(1 / 10 + 3 / (1000 * (1 + 4 * (1 - math.exp(-2 / 4)))))
    assert law.loss(100, 1e9, 1000) == pytest.approx(1 / 10 + 3 / 5000)  # as good as four passes of new text, at most


def by_flops(speed):
    """The speed of a candidate on a machine that computes the FLOPs of all equally fast."""
    return lambda candidate: speed * LARGE.flops_per_token / candidate.flops_per_token


@pytest.mark.parametrize("text", [10**5, 10**6, 10**9])
@pytest.mark.parametrize("seconds", [30.0, 300.0, 3000.0, 30_000.0])
def test_the_candidate_with_the_lowest_expected_loss_is_chosen(seconds, text):
    candidates = [plan.describe(MODEL, 4096, TrainParams(), *shape) for shape in SHAPES]
    speed = by_flops(10_000.0)

    def seen(candidate):
        return min(seconds * speed(candidate), PASSES * text)

    expected = min(candidates, key=lambda each: LAW.loss(each.block_parameters, seen(each), text))
    for first in candidates:
        assert choose(candidates, first, speed, seconds, text) == (expected, pytest.approx(seen(expected)))


def test_more_time_never_gets_a_smaller_model_and_in_the_end_the_largest():
    candidates = [plan.describe(MODEL, 4096, TrainParams(), *shape) for shape in SHAPES]
    times = [10.0 * 2**i for i in range(24)]
    chosen = [choose(candidates, candidates[2], by_flops(10_000.0), each, 10**11)[0] for each in times]
    places = [candidates.index(each) for each in chosen]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, len(candidates) - 1)


def test_a_small_model_that_is_hardly_faster_is_not_chosen():
    """By its FLOPs it would be twice as fast, and the better one."""
    seconds = 100.0
    assert choose([SMALL, LARGE], LARGE, by_flops(10_000.0), seconds, 10**9)[0] == SMALL
    speeds = {SMALL: 11_000.0, LARGE: 10_000.0}
    assert choose([SMALL, LARGE], LARGE, speeds.__getitem__, seconds, 10**9) == (LARGE, seconds * 10_000.0)


def test_calls_that_take_the_same_time_in_all_steps_are_considered():
    """On such a machine the smallest looks best by FLOPs and is measured; that it is slow says little of the next."""
    candidates = [plan.describe(MODEL, 4096, TrainParams(), *shape) for shape in SHAPES[:3]]
    speeds = {each: 1 / (2e-5 + each.flops_per_token / 2e11) for each in candidates}
    expected = min(candidates, key=lambda each: LAW.loss(each.block_parameters, 85 * speeds[each], 10**9))
    assert expected == candidates[1]
    assert choose(candidates, candidates[2], speeds.__getitem__, 85.0, 10**9)[0] == expected


def test_only_candidates_that_look_best_are_measured():
    measured = []

    def speed(candidate):
        measured.append(candidate)
        return by_flops(10_000.0)(candidate)

    candidates = [plan.describe(MODEL, 4096, TrainParams(), *shape) for shape in SHAPES]
    chosen, _ = choose(candidates, candidates[2], speed, 300.0, 10**9)
    assert measured in ([candidates[2], chosen], [candidates[2]])


@pytest.mark.parametrize("overhead", [0.0, 0.01])
@pytest.mark.parametrize("seconds", [60.0, 120.0, 1800.0])
def test_all_parts_together_take_the_time_that_was_asked_for(seconds, overhead):
    corpus = replace(CORPUS, tokens=10**7, questions=1000)
    values = planned(seconds, corpus, overhead=overhead)
    training = int(values["train.steps"]) * (2048 / 10_000 + overhead)
    documents = 50 if values["train.val_documents"] == "null" else int(values["train.val_documents"])
    times = -(-int(values["train.steps"]) // int(values["train.validate_every"]))
    validations = times * documents * 1000 / 3 / 10_000
    evaluation = 50_000 / 3 / 10_000 + 0.5
    assert 20 + training + validations + evaluation == pytest.approx(seconds, abs=1)
    assert validations <= 0.06 * training


def test_a_machine_that_is_twice_as_fast_takes_twice_the_steps():
    assert int(planned(600.0, speed=20_000.0)["train.steps"]) == pytest.approx(
        2 * int(planned(600.0)["train.steps"]), rel=0.02
    )


@pytest.mark.parametrize(("tokens", "dropout"), [(1_000_000, "0.0"), (200_000, "0.0"), (40_000, "0.1")])
def test_a_text_that_is_read_many_times_gets_dropout(tokens, dropout):
    values = planned(corpus=replace(CORPUS, tokens=tokens))  # about 950,000 tokens in training
    assert values["model.residual_dropout"] == values["model.embedding_dropout"] == dropout
    assert values["model.attention_dropout"] == "0.0"  # which rules out the fast kernel


def test_a_small_text_is_read_so_often_and_no_more():
    corpus = replace(CORPUS, tokens=40_000)
    assert (
        int(planned(600.0, corpus)["train.steps"]) == int(planned(1200.0, corpus)["train.steps"]) == 16 * 40_000 // 2048
    )
    shown = make_plan(corpus, MODEL, LARGE, Machine("32", 1e4, 3e4, 3e4, 0.0, 20.0), 600.0).reasons["steps"]
    assert re.fullmatch(r".*: 16.0 passes over the text, and no more: the run ends after 1\d % of the time", shown)


def test_validation_is_rarer_if_one_document_is_long():
    assert validation(replace(CORPUS, val_lengths=(90_000,)), 30_000.0, 10.0) == (1, 3, 3.0)
    assert validation(CORPUS, 30_000.0, 5.0)[:2] == (15, 10)  # of half a second each
    assert validation(CORPUS, 30_000.0, 1000.0)[:2] == (50, 10)


@pytest.mark.parametrize(("tokens", "rate"), [(10**7, "0.0"), (10**5, "0.1")])
def test_steps_are_measured_with_the_dropout_that_they_will_have(quick, call, monkeypatch, tokens, rate):
    measured = []
    monkeypatch.setattr(plan, "measure", lambda settings, *_: measured.append(settings) or Speed(50_000.0, 40_000.0))
    monkeypatch.setattr(plan, "read_corpus", lambda: replace(CORPUS, tokens=tokens))
    result = call(main, "--minutes", "2", "--json", "model.residual_dropout=0.3")
    assert f"model.residual_dropout={rate}" in result["settings"]
    assert measured[-1][-3:] == [
        f"model.embedding_dropout={rate}", f"model.residual_dropout={rate}", "model.attention_dropout=0.0"
    ]  # fmt: skip
    assert "model.residual_dropout=0.0" in measured[0]  # before it is known how often the text will be read


def test_too_little_time_is_an_error_that_names_enough():
    with pytest.raises(
        ValueError, match=r"--minutes 0.4: too short, .* 20 seconds to start, validation 0 and evaluation 2; take at"
    ):
        planned(24.0)
    for seconds in (25.0, 24.9, 23.1):  # the minutes are rounded up
        with pytest.raises(ValueError, match="take at least") as error:
            planned(seconds)
        planned(60 * float(str(error.value).split()[-1]))


def test_a_validation_document_that_costs_more_than_the_time_is_an_error():
    with pytest.raises(
        ValueError, match=r"too short, .* to start, validation 100 and evaluation 100; take at least 3\.[78]"
    ):
        planned(200.0, replace(CORPUS, val_lengths=(3_000_000,)))


def test_no_shards_are_an_error(project):
    (project / "data/shards/metadata.json").unlink()
    with pytest.raises(ValueError, match=r"data/shards: missing; `dvc repro shards` builds it"):
        read_corpus()


@pytest.mark.parametrize("setting", ["dataset.seed=7", "tokenizer.pattern=gpt2", "shards.shard_tokens=5000"])
def test_a_plan_for_shards_that_are_not_built_yet_is_refused(project, setting):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["dvc", "init", "-q"], check=True)
    params, stages = read_yaml(Path("params.yaml")), {"corpus": "dataset", "tokenizer": "tokenizer", "shards": "shards"}
    lock = {stage: {"params": {"params.yaml": {name: params[name]}}} for stage, name in stages.items()}
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))  # which is YAML, too
    plan.check_up_to_date(["train.steps=7", "model=gpt2-2l"])
    key = re.escape(setting.partition("=")[0])
    with pytest.raises(ValueError, match=rf"^{key}: data/shards was built with another value; set it with `tiny-lm"):
        main(["--minutes", "2", setting])
    Path("dvc.lock").unlink()  # shards that were made without DVC, so there is nothing to compare with
    plan.check_up_to_date([setting])


@pytest.fixture
def quick(project, monkeypatch):
    """A project with more text, in which measuring takes no time."""
    monkeypatch.setattr(plan, "IMPORTS", "pass")
    monkeypatch.setattr(plan, "read_corpus", lambda: CORPUS)
    monkeypatch.setattr(plan, "measure", lambda *_: Speed(50_000.0, 40_000.0))
    return project


def test_the_plan_is_written_and_comments_stay(quick, call):
    before = Path("params.yaml").read_text()
    shown = call(main, "--minutes", "2")
    after = read_yaml(Path("params.yaml"))
    assert (after["model"]["d_model"], after["model"]["n_heads"]) == (128, 4)
    assert after["train"]["batch_size"] == after["train"]["micro_batch_size"] == 2048 // 16
    assert f"{after['train']['steps']:,} of 128 × 16 tokens" in shown
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert all(comment in Path("params.yaml").read_text() for comment in comments)


def test_less_time_than_the_stages_take_to_start_is_an_error(quick):
    with pytest.raises(ValueError, match=r"^--minutes 0.0001: too short, because stages take \d+ seconds to start"):
        main(["--minutes", "0.0001"])


def test_a_dry_run_writes_nothing_and_settings_come_first(quick, call):
    before = Path("params.yaml").read_text()
    result = call(main, "--minutes", "2", "--dry-run", "--json", "model.context_length=32")
    assert "train.batch_size=64" in result["settings"]
    assert set(result["reasons"]) == {
        "machine", "corpus", "model", "steps", "dropout", "validation", "time"
    }  # fmt: skip
    assert Path("params.yaml").read_text() == before


@pytest.mark.parametrize(
    ("bf16", "settings", "precision"),
    [
        (60_000.0, [], "bf16-mixed"),
        (54_000.0, [], "32"),  # hardly faster
        (60_000.0, ["train.precision=32"], "32"),
        (60_000.0, ["train.portable=true", "train.accelerator=cpu"], "32"),
        (20_000.0, ["train.precision=bf16-mixed"], "bf16-mixed"),
    ],
)
def test_bf16_is_chosen_where_it_is_faster_and_nobody_asked_for_another(
    quick, call, monkeypatch, bf16, settings, precision
):
    speeds = {"bf16-mixed": bf16, "32": 50_000.0}
    monkeypatch.setattr(plan, "measure", lambda *arguments: Speed(speeds[arguments[-1]], speeds[arguments[-1]]))
    call(main, "--minutes", "2", *settings)
    assert read_yaml(Path("params.yaml"))["train"]["precision"] == precision


@pytest.mark.parametrize("architecture", ["model=gpt2-2l", "model=qwen3-tiny"])
def test_other_architectures_keep_their_params(quick, call, architecture):
    call(main, "--minutes", "60", architecture)
    model = read_yaml(Path("params.yaml"))["model"]
    assert model["architecture"] in architecture
    assert model["d_ff"] == model["d_model"] * (4 if "gpt2" in architecture else 3)


def test_speed_is_measured_with_real_steps(project, call, monkeypatch):
    monkeypatch.setattr(plan, "IMPORTS", "pass")
    monkeypatch.setattr(plan, "MEASURE_SECONDS", 0.05)
    monkeypatch.setattr(plan, "SHAPES", plan.SHAPES[:2])
    result = call(main, "--minutes", "1", "--json", "train.threads=1", "train.precision=32")
    assert "tokens per second" in result["reasons"]["machine"]
    assert int(read_yaml(Path("params.yaml"))["train"]["steps"]) > 1


def test_heads_have_32_dimensions_in_any_architecture(quick, call):
    call(main, "--minutes", "2", "model=qwen3-tiny", "model.head_dim=64")
    model = read_yaml(Path("params.yaml"))["model"]
    assert model["head_dim"] * model["n_heads"] == 32 * model["n_heads"] == model["d_model"]


def test_a_plan_for_several_processes_is_refused(quick):
    with pytest.raises(ValueError, match=r"^runtime.devices = 2: must be 1: a plan is for one process$"):
        main(["--minutes", "2", "runtime.launcher=torchrun", "runtime.devices=2"])


def test_on_a_machine_with_a_gpu_a_plan_is_for_the_cpu_or_refused(quick, call, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    before = Path("params.yaml").read_text()
    with pytest.raises(ValueError, match=r"^train\.accelerator: plan can only plan runs on a CPU; pass .*=cpu, or"):
        main(["--minutes", "2"])
    assert Path("params.yaml").read_text() == before
    call(main, "--minutes", "2", "train.accelerator=cpu")
    assert read_yaml(Path("params.yaml"))["train"]["accelerator"] == "cpu"


def test_the_page_lists_the_shapes():
    page = " ".join((Path(__file__).parents[2] / "docs/plan.md").read_text(encoding="utf-8").split())
    listed = re.search(r"Shapes are, as width and layers: ([\d× ,]+), with heads of (\d+) dimensions", page)
    assert re.findall(r"(\d+) × (\d+)", listed[1]) == [(str(width), str(layers)) for width, layers in plan.SHAPES]
    assert int(listed[2]) == plan.HEAD_DIM


def test_the_page_states_the_law():
    page = " ".join((Path(__file__).parents[2] / "docs/plan.md").read_text(encoding="utf-8").split())
    size, weight, data = re.search(r"`N\^-([\d.]+) \+ ([\d.]+) T\^-([\d.]+)`", page).groups()
    (again,) = re.search(r"at most as much as ([\d.]+) passes over new text", page).groups()
    assert Law(*map(float, (size, data, weight, again))) == LAW


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "1e9"])
def test_times_that_make_no_sense_are_refused(project, minutes):
    with pytest.raises(ValueError, match=r"--minutes .*: must be above 0 and at most a year"):
        main(["--minutes", minutes])


@pytest.mark.parametrize(("precision", "seconds"), [("32", 40), ("bf16-mixed", 20)])
def test_evaluation_is_as_fast_as_a_forward_pass_over_the_whole_vocabulary_in_its_precision(
    quick, call, monkeypatch, precision, seconds
):
    speeds = {"32": Speed(30_000.0, 25_000.0), "bf16-mixed": Speed(60_000.0, 50_000.0)}
    monkeypatch.setattr(plan, "measure", lambda *arguments: speeds[arguments[-1]])
    monkeypatch.setattr(plan, "read_corpus", lambda: Corpus(10**6, (30_000,) * 100, questions=0))  # 3 M tokens
    result = call(main, "--minutes", "10", "--json", f"evaluate.precision={precision}")
    assert "train.precision=bf16-mixed" in result["settings"]
    assert f"{seconds} s of evaluation" in result["reasons"]["time"]


def test_a_step_that_leaves_most_of_the_vocabulary_out_has_fewer_flops():
    whole, sampled = (
        plan.describe(MODEL, 4096, TrainParams(vocabulary_sample=fraction), 128, 3) for fraction in (1.0, 0.1)
    )
    assert whole.flops_per_token - sampled.flops_per_token == pytest.approx(6 * 4096 * 128 * 0.7 * 0.9)
    assert whole.block_parameters == sampled.block_parameters


def test_the_benchmark_compares_a_plan_with_eight_different_ones(quick, call, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from plan import Alternative, alternatives

    planned = call(main, "--minutes", "2", "--json")["settings"]
    first, *others = alternatives(planned)
    assert first == Alternative("the plan", (128, 3))
    texts = {edit_params([*planned, *each.before, *each.after]) + str(each.shape) for each in others}
    assert len(texts - {edit_params(planned) + str(first.shape)}) == 8
