"""`tiny-lm report` in a repository with made-up results, but real commits, experiments and cache."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dvc.cli import main as dvc

from tiny_lm.cli import main as tiny_lm
from tiny_lm.compare.revisions import LockedStage, Revision, Stages
from tiny_lm.io.params import read_yaml
from tiny_lm.report.charts import Line, line_chart
from tiny_lm.report.page import element
from tiny_lm.report.run import SAMPLES, Run
from tiny_lm.report.sections import _wrong
from tiny_lm.tools.report import main, read_run, report

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\"'&amp;"
FAKE = """
import json, sys, yaml
from pathlib import Path

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text if isinstance(text, str) else json.dumps(text))

params = yaml.safe_load(Path("params.yaml").read_text())
stage, steps, words = sys.argv[1], params["train"]["steps"], params["dataset"]["words"]
if stage == "corpus":
    write("data/corpus/train.txt", words)
    write("data/corpus/metadata.json", {})
elif stage == "tokenizer":
    write("models/tokenizer/metadata.json", {"vocab_size": 300, "pattern": "gpt2", "special_tokens": {"<eos>": 299},
                                             "examples": {"longest": [words]}})
    write("results/tokenizer/metrics.json", {"bytes_per_token": 2.125})
elif stage == "shards":
    write("data/shards/metadata.json", {"train": {"tokens": 12345, "document_tokens": {"min": 3}}})
elif stage == "train":
    for name in ("train_loss", "lr", "gradient_norm", "val_loss"):
        rows = [f"{step}\\t{5 / step}" for step in range(1, steps + 1) if name != "val_loss" or step % 5 == 0]
        write(f"results/train/plots/metrics/{name}.tsv", "\\n".join([f"step\\t{name}", *rows]) + "\\n")
    write("results/train/metrics.json", {"val_loss": 5 / steps, "step": steps})
    write("models/checkpoint/config.json", {"steps": steps})
elif stage == "evaluate":
    write("results/evaluate/plots/loss_by_position.tsv", "position\\tloss\\n0\\t2.0\\n1\\t1.0\\n")
    write("results/evaluate/metrics.json", {"loss": 0.5, "perplexity": 1.6487, "bits_per_byte": 1 / steps,
                                            "sources": {"1": {"loss": 0.4321}}})
    write("results/evaluate/samples.txt", "\\n".join(
        f"=== prompt: {p!r}\\n{p} lives in {words}\\n" for p in params["evaluate"]["prompts"]))
else:
    write("models/export/config.json", {})
"""
RUN = f"{sys.executable} fake.py"
EVALUATED = ["results/evaluate/metrics.json", "results/evaluate/samples.txt", "results/evaluate/plots"]
STAGES = {
    "corpus": (["dataset"], ["data/raw", "src/tiny_lm/code.py"], ["data/corpus"]),
    "tokenizer": (["tokenizer"], ["data/corpus"], ["models/tokenizer", "results/tokenizer/metrics.json"]),
    "shards": (["shards"], ["data/corpus", "models/tokenizer"], ["data/shards"]),
    "train": (
        ["model", "train"],
        ["data/shards"],
        ["models/checkpoint", "results/train/metrics.json", "results/train/plots"],
    ),
    "evaluate": (["evaluate"], ["data/corpus/metadata.json", "data/shards", "models/checkpoint"], EVALUATED),
    "export": (["export"], ["models/checkpoint"], ["models/export"]),
}
PARAMS = {
    "dataset": {"words": HOSTILE, "seed": 0},
    "tokenizer": {"vocab_size": 300},
    "shards": {"shard_tokens": 50},
    "model": {"architecture": "llama3", "n_layers": 3, "d_model": 128, "n_kv_heads": 2},
    "train": {"steps": 40, "learning_rate": 1e-3},
    "evaluate": {"prompts": ["", "Once <b>upon</b>"]},
    "export": {"dtype": "float32"},
    "runtime": {"workers": 0},
}


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def plan():
    stages = {}
    for name, (params, deps, outs) in STAGES.items():
        metrics = [{out: {"cache": False}} for out in outs if out.endswith(("metrics.json", "plots"))]
        cached = [out for out in outs if {out: {"cache": False}} not in metrics]
        stages[name] = {
            "cmd": f"{RUN} {name}", "params": params, "deps": ["fake.py", *deps], "outs": cached, "metrics": metrics,
        }  # fmt: skip
    return {"stages": stages}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """main, the experiment `short` with fewer steps, and the tags `unbuilt` and `corpus-only`."""
    folder, home = tmp_path_factory.mktemp("repo"), Path.cwd()
    os.chdir(folder)
    try:
        git("init", "-q", "-b", "main")
        git("config", "user.email", "a@b.c")
        git("config", "user.name", "a")
        assert dvc(["init", "-q"]) == 0
        for path in ("data/raw/text.txt", "src/tiny_lm/code.py"):
            Path(path).parent.mkdir(parents=True)
            Path(path).write_text("1\n")
        Path("fake.py").write_text(FAKE)
        Path("dvc.yaml").write_text(json.dumps(plan()))
        Path("params.yaml").write_text(json.dumps(PARAMS))
        git("add", ".")
        git("commit", "-qm", "before any stage ran")
        git("tag", "unbuilt")
        assert dvc(["repro", "-q", "corpus"]) == 0
        git("add", ".")
        git("commit", "-qm", "a corpus")
        git("tag", "corpus-only")
        assert dvc(["repro", "-q"]) == 0
        git("add", ".")
        git("commit", "-qm", "built")
        assert dvc(["exp", "run", "-q", "-n", "short", "-S", "train.steps=20"]) == 0
        git("checkout", "-qf", "main")
        assert dvc(["checkout", "-q"]) == 0
    finally:
        os.chdir(home)
    return folder


@pytest.fixture(autouse=True)
def workspace(built, tmp_path, monkeypatch):
    shutil.copytree(built, tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(tmp_path / "repo")


class Page(HTMLParser):
    """Parses a page as a browser would: (tag, attributes) of its elements, table cells, and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.cells, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "path", "line"):
            self.open.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in ("path", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
            if {"th", "td"} & set(self.open):
                self.cells[-1] += data

    def tags(self):
        return {tag for tag, _ in self.elements}


def make(*argv):
    main([*argv, "--output", "out/report.html"])
    return Page(Path("out/report.html").read_text(encoding="utf-8"))


def test_a_page_loads_no_resources_and_runs_no_scripts():
    page = make("main", "short")
    text = Path("out/report.html").read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe", "object", "embed", "use", "image", "base"} & page.tags()
    for tag, attributes in page.elements:
        assert not {"src", "href", "xlink:href", "srcset", "data", "action"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert "url(" not in style
    assert "@import" not in style
    assert len(text) < 500_000


def test_data_is_escaped():
    page = make()
    assert page.text.count(HOSTILE) >= 3  # a param and both samples
    assert HOSTILE.replace(" ", "␣") in page.text  # a token
    assert "Once <b>upon</b> lives in" in page.text
    git("branch", "a<b>&c", "main")
    assert "tiny-lm: a<b>&c" in make("a<b>&c").text


def test_the_losses_of_each_source_of_a_mixture_are_shown():
    cells = make().cells
    assert cells[cells.index("source 1: loss") + 1] == "0.4321"


def test_every_param_is_shown_and_differences_are_marked():
    page = make("main", "short")
    for section, values in PARAMS.items():
        if section != "runtime":  # not recorded, since it cannot change a result
            for key, value in values.items():
                label = page.cells.index(key, page.cells.index("dataset"))
                shown = value if isinstance(value, str) else json.dumps(value)
                assert page.cells[label + 1] == shown, key
    steps = page.cells.index("steps")
    assert page.cells[steps + 1 : steps + 3] == ["40", "20"]
    text = Path("out/report.html").read_text(encoding="utf-8")
    marked = re.findall(r'<tr class="differs"><th scope="row">(.*?)</th>', text)
    assert "steps" in marked
    assert "writes models/checkpoint" in marked
    assert "learning_rate" not in marked
    assert "writes data/shards" not in marked


def test_curves_show_all_points_of_all_runs():
    one, two = make("main"), make("main", "short")
    assert len([1 for tag, _ in one.elements if tag == "svg"]) == 4

    def lines(page, color):
        """The number of points of each line in this color."""
        paths = [a for tag, a in page.elements if tag == "path" and a.get("stroke") == f"var(--{color})"]
        return sorted(len(re.findall(r"[ML]", path["d"])) for path in paths)

    assert lines(one, "run0") == [2, 8, 40, 40, 40]  # loss by position, validation, and three of training
    assert lines(one, "run1") == []
    assert lines(two, "run0") == [2, 8, 40, 40, 40]
    assert lines(two, "run1") == [2, 4, 20, 20, 20]
    assert one.text.count("5: 1") >= 1  # tooltip of the validation at step 5


def test_predictions_are_shown_of_the_runs_that_have_them():
    assert "Copying" not in make().text
    calibration = {"accuracy": 0.5, "confidence": 0.625, "ece": 0.125}
    copying = {"accuracy": 0.75, "low": 0.3, "high": 0.95, "first_mention": 0.02, "words": 1234}
    texts = {
        "results/evaluate/metrics.json": json.dumps({"loss": 1.0, "calibration": calibration, "copying": copying}),
        "results/evaluate/calibration.tsv": "confidence\taccuracy\ttargets\n0.25\t0.5\t7\n0.75\t0.5\t9\n",
        "results/evaluate/copying_by_distance.tsv": "distance\taccuracy\twords\n2.5\t1.0\t3\n5.0\t0.5\t20\n",
        "results/evaluate/loss_by_frequency.tsv": "per_million\tloss\ttargets\n0.1\t9.0\t3\n100.0\t2.0\t9\n",
    }
    old = read_run("workspace")
    new = replace(old, name="new", texts=old.texts | texts)
    page = Page(report([old, new]))
    for label, shown in (
        ("predicts a rare word again (95 % interval)", "75.0 % (30.0 % to 95.0 %) of 1,234"),
        ("the same words at first mention", "2.0 %"), ("most probable token is right", "50.0 %"),
        ("mean probability of it", "62.5 %"), ("expected calibration error", "12.5 %"),
    ):  # fmt: skip
        at = page.cells.index(label)
        assert page.cells[at + 1 : at + 3] == ["–", shown]
    assert "calibration" not in page.cells  # among the other metrics
    assert len([1 for tag, _ in page.elements if tag == "svg"]) == 4 + 3
    bare = {"results/evaluate/metrics.json": json.dumps({"calibration": calibration})}
    empty = {"results/evaluate/copying_by_distance.tsv": "distance\taccuracy\twords\n"}
    page = Page(report([replace(new, texts=new.texts | bare | empty)]))
    assert "Copying by distance" not in page.text
    assert "Expected calibration error" not in page.text
    assert page.cells[page.cells.index("expected calibration error") + 1] == "12.5 %"


def test_points_are_drawn_at_their_values():
    svg = line_chart([Line([(0, 0), (5, 10), (10, 5)], "red")], label="a", x="x", y="y")
    (path,) = re.findall(r'd="(M[^"]*)" stroke="red"', svg)
    assert path == "M0,220L185,0L370,110"
    logs = line_chart([Line([(0, 1), (5, 10), (10, 100)], "red")], label="a", x="x", y="y", log=True)
    assert 'd="M0,220L185,110L370,0" stroke="red"' in logs
    assert "y, log scale" in logs
    assert "log scale" not in line_chart([Line([(0, 0), (5, 10)], "red")], label="a", x="x", y="y", log=True)
    logs = line_chart([Line([(1, 0), (10, 10), (100, 5)], "red")], label="a", x="x", y="y", log_x=True)
    assert 'd="M0,220L185,0L370,110" stroke="red"' in logs
    assert "x, log scale" in logs


def test_a_line_with_one_point_is_drawn_as_a_point():
    for style in ("plain", "faint", "marked"):
        svg = line_chart([Line([(3, 1.5)], "red", style)], label="a", x="x", y="y")
        assert re.search(r'<path [^>]* fill="red"[^>]*><title>3: 1.5</title>', svg)


def test_the_lineage_shows_the_hashes_of_dvc_lock_and_the_inputs_of_each_stage():
    page = make()
    hashes = {attributes["title"] for tag, attributes in page.elements if tag == "code"}
    lock = read_yaml(Path("dvc.lock"))["stages"]
    assert set(lock) == set(STAGES)
    for stage in lock.values():
        for entry in stage["outs"] + [dep for dep in stage["deps"] if dep["path"] != "fake.py"]:
            assert entry["md5"] in hashes, entry
    assert re.search(r"shards\s*from corpus, fake.py, tokenizer", page.text)
    assert re.search(r"evaluate\s*from corpus, shards, fake.py, train", page.text)
    assert "src/" not in page.text
    assert "code.py" in page.text


def test_metrics_of_runs_are_shown_side_by_side():
    page = make("main", "short")
    at = page.cells.index("bits per byte")
    assert page.cells[at + 1 : at + 3] == ["0.025", "0.05"]
    assert "train.steps=20" in page.text  # the change in the second run
    assert page.cells.count("12,345 tokens") == 0
    assert "12,345 tokens" in page.text
    assert "2.125" in page.cells


def test_the_same_runs_give_the_same_bytes():
    make("main", "short")
    first = Path("out/report.html").read_bytes()
    make("main", "short")
    assert Path("out/report.html").read_bytes() == first
    assert [path.name for path in Path("out").iterdir()] == ["report.html"]


def test_a_commit_is_shown_as_built_whatever_the_workspace_contains():
    before = make("main").text
    Path("params.yaml").write_text("{}")
    Path("results/evaluate/samples.txt").unlink()
    assert make("main").text == before
    shutil.rmtree(".dvc/cache")
    page = make("main")  # metrics and plots are in Git
    assert "Not in the cache: run `dvc fetch`." in page.text


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        ("=== prompt: 'a'\na b\n\n=== prompt: 'c'\nc d\n\ne\n", [("a", " b"), ("c", " d\n\ne")]),
        (
            "=== prompt: 'a'\na says: === prompt: 'c'\n\n=== prompt: 'c'\nc\n",
            [("a", " says: === prompt: 'c'"), ("c", "")],
        ),
        ("something else", [("", "something else")]),
    ],
)
def test_samples_are_split_at_the_prompts_of_the_run(text, samples):
    stages = Stages({"evaluate": LockedStage({"evaluate.prompts": ["a", "c"]}, {}, {})})
    assert Run("a", stages, {SAMPLES: text}).samples() == samples
    assert Run("a", stages, {SAMPLES: None}).samples() == []
    assert Run("a", Stages(), {SAMPLES: None}).samples() == []


def test_a_run_without_prompts_has_no_samples():
    Path("params.yaml").write_text(json.dumps(PARAMS | {"evaluate": {"prompts": []}}))
    assert dvc(["repro", "-q"]) == 0
    page = make()
    assert "0.025" in page.cells
    assert "Not evaluated yet" not in page.text


@pytest.mark.parametrize("earlier", [True, False], ids=["an earlier model", "no model"])
def test_a_model_that_is_not_evaluated_is_shown_without_the_results_of_another(earlier):
    if not earlier:
        git("checkout", "-qf", "unbuilt")
    Path("params.yaml").write_text(json.dumps(PARAMS | {"train": {"steps": 10, "learning_rate": 1e-3}}))
    assert dvc(["repro", "-q", "train"]) == 0
    assert ("evaluate" in read_yaml(Path("dvc.lock"))["stages"]) == earlier
    page = make()
    assert "Not evaluated yet: run `dvc repro`." in page.text
    assert "validation loss, not evaluated yet0.5" in page.text
    assert "0.025" not in page.cells
    assert "lives in" not in page.text
    page = make("main", "workspace")
    assert "train.steps=10" in page.text
    assert "evaluate.prompts" not in page.text
    assert dvc(["repro", "-q"]) == 0
    assert "Not evaluated yet" not in make().text


def test_a_model_of_earlier_data_is_refused():
    Path("params.yaml").write_text(json.dumps(PARAMS | {"tokenizer": {"vocab_size": 301}}))
    Path("fake.py").write_text(FAKE.replace("2.125", "2.25").replace('"vocab_size": 300', '"vocab_size": 301'))
    assert dvc(["repro", "-q", "tokenizer"]) == 0
    with pytest.raises(
        ValueError, match=r"^workspace: shards has not run since models/tokenizer changed; run `dvc repro`$"
    ):
        make()


def test_a_card_names_the_differences_from_the_first_run():
    main_ = read_run("main")

    def about(**change):
        train = main_.stages["train"]
        stages = Stages(main_.stages | {"train": replace(train, **change)})
        page = Page(report([main_, replace(main_, name="other", stages=stages)]))
        return page.text[page.text.index("other", page.text.index("nats per token")) :][:100]

    train = main_.stages["train"]
    assert about().startswith("othersame params, code and data as the first run")
    assert about(outs=train.outs | {"results/train/plots": "0" * 32}).startswith("othersame params, code and data as")
    assert about(deps=train.deps | {"other.py": "0" * 32}).startswith("othersame params as the first run, other code")
    fewer = {key: value for key, value in train.params.items() if key != "train.steps"}
    assert about(params=fewer | {"train.learning_rate": None}).startswith(
        "otherno train.steps, train.learning_rate=null"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "nowhere: no such commit, branch, tag or experiment; `dvc exp show` lists experiments"),
        (["unbuilt"], "unbuilt: dvc.lock is missing, so no stage has run there; run `dvc repro`"),
        (["main", "corpus-only"], "corpus-only: no model was trained there; run `dvc repro`"),
        ([f"main~{i}" for i in range(9)], "9 runs: a report shows at most 8"),
    ],
)
def test_a_mistake_is_one_line_and_writes_no_file(monkeypatch, argv, message):
    monkeypatch.setattr(sys, "argv", ["tiny-lm", "report", *argv, "--output", "out/report.html"])
    with pytest.raises(SystemExit) as end:
        tiny_lm()
    assert end.value.code.startswith(f"tiny-lm report: {message}")
    assert "\n" not in end.value.code
    assert not Path("out").exists()


def test_outside_of_a_repository_it_fails_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="workspace: dvc.lock is missing, so no stage has run there"):
        main([])


def test_results_that_do_not_match_dvc_lock_are_refused():
    for name, text in (("results/train/metrics.json", '{"val_loss": 0.001}'), ("results/evaluate/metrics.json", "")):
        path = Path(name)
        content = path.read_text()
        path.unlink()
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"^workspace: {name} does not match dvc.lock"):
            read_run("workspace")
        path.write_text(content)


def test_an_unreadable_result_is_not_reported_as_missing(monkeypatch):
    read = Revision.read

    def fail(revision, path, remedy):
        if path == SAMPLES:
            raise ValueError(f"{revision.name}: {path}: Permission denied")
        return read(revision, path, remedy)

    monkeypatch.setattr(Revision, "read", fail)
    with pytest.raises(ValueError, match=r"^main: results/evaluate/samples.txt: Permission denied$"):
        make("main")


def test_results_in_another_format_are_one_line_without_traceback():
    for path in (Path("results/train/plots/metrics/lr.tsv"), Path("models/tokenizer/metadata.json")):
        git("checkout", "-qf", "main")
        assert dvc(["checkout", "-qf"]) == 0
        path.unlink()
        path.write_text('["not", "ours"]\n["not"]\n')
        assert dvc(["commit", "-qf"]) == 0
        with pytest.raises(ValueError, match="not in the format that the stages write"):
            make()


def test_an_element_escapes_text_but_not_html():
    inner = element("b", "a < b")
    assert element("td", inner, " & c", title='"<') == '<td title="&quot;&lt;"><b>a &lt; b</b> &amp; c</td>'


@pytest.mark.parametrize(
    ("choices", "margin", "shown"),
    [
        ([' now?"\n\n"Alan', ' now?"\n\n"Viola'], -3.0, "Right: Viola. Wrong: Alan, 20 times as probable."),
        ([" Vic", " Ann", " Viola"], -30.0, "Vic / Ann, the most probable of them more than a million times"),
    ],
    ids=["two", "several"],
)
def test_a_wrong_answer_shows_the_words_in_which_the_choices_differ(choices, margin, shown):
    text = _wrong({"context": 'Then Nan asked, "Who has it', "choices": choices}, margin)
    assert shown in text
    assert text.startswith('<div class="sample">Then Nan asked, ')
    text = _wrong({"context": f"{'Long ago. ' * 31}Who has it", "choices": choices}, margin)
    assert text.startswith('<div class="sample">… ago. Long')
