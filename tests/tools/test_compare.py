"""`tiny-lm compare` in a repository with made-up losses, but real commits, experiments, cache and remote."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.cli import main as dvc

from tiny_lm.cli import main as tiny_lm
from tiny_lm.compare import revisions
from tiny_lm.tools.compare import main, read_run

FAKE = """
import json, math, sys, yaml
from pathlib import Path

params = yaml.safe_load(Path("params.yaml").read_text())
dataset, train, model = params["dataset"], params["train"], params["model"]
texts = [f"Story {i} of {dataset['seed']}: \\x1b[31m" + "so it goes. " * (5 + i * 7 % 11) for i in range(40)]
texts = texts[: dataset["documents"]]
if sys.argv[1] == "corpus":
    from corpora import write_split

    val = write_split(Path("data/corpus"), "val", texts)
    Path("data/corpus/train.txt").write_text("text " * dataset["train"])
    Path("data/corpus/metadata.json").write_text(json.dumps({"splits": {"val": val}, "train": dataset["train"]}))
    Path("data/exam").mkdir(exist_ok=True)
    Path("data/exam/questions.jsonl").write_text(dataset["exam"])
elif sys.argv[1] == "tokenizer":
    Path("models").mkdir(exist_ok=True)
    Path("models/tokenizer").write_text(str(params["tokenizer"]["vocab_size"]))
else:
    Path("results/evaluate").mkdir(parents=True, exist_ok=True)
    rows = ["document\\ttargets\\tcharacters\\tbytes\\ttext_nats\\teos_nats"]
    for i, text in enumerate(texts):
        heads, seed, size = model["n_kv_heads"], train["seed"], len(text.encode())
        bits = 1 + 0.2 * math.sin(i) + 0.05 / heads + 0.01 * math.sin(heads * i) + 0.002 * math.sin(50 * seed + heads)
        rows.append(f"{i}\\t9\\t{len(text)}\\t{size}\\t{bits * size * math.log(2)!r}\\t1.0")
    Path("results/evaluate/documents.tsv").write_text("\\n".join(rows) + "\\n")
    answers = [f"{i}\\t{i // 3}\\t{math.sin(i) + 0.5 / model['n_kv_heads']!r}" for i in range(3 * len(texts))]
    Path("results/evaluate/exam.tsv").write_text("\\n".join(["question\\tdocument\\tmargin", *answers]) + "\\n")
"""
RUN = f"PYTHONPATH={Path(__file__).parents[2] / 'src'}:{Path(__file__).parents[1]} {sys.executable} fake.py"
PIPELINE = f"""
stages:
  corpus:
    cmd: {RUN} corpus
    params: [dataset]
    deps: [fake.py]
    outs: [data/corpus, data/exam]
  tokenizer:
    cmd: {RUN} tokenizer
    params: [tokenizer]
    outs: [models/tokenizer]
  evaluate:
    cmd: {RUN} evaluate
    params: [model, train]
    deps: [data/corpus/metadata.json, data/exam, models/tokenizer, code.py]
    outs: [results/evaluate/documents.tsv, results/evaluate/exam.tsv]
"""
PARAMS = """
dataset: {seed: 0, documents: 40, train: 5, exam: easy}
tokenizer: {vocab_size: 4096}
model: {n_kv_heads: 4, d_ff: 32}
train: {seed: 1, learning_rate: 0.001}
"""
# branch: its change
BRANCHES = {
    "same-val": "dataset.train=6",
    "other-texts": "dataset.seed=1",
    "one": "dataset.documents=1",
    "vocabulary": "tokenizer.vocab_size=8192",
    "other-exam": "dataset.exam=hard",
}


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """main (4 KV heads, seed 1), experiments kv4-s2, kv2-s1, kv2-s2, and the branches."""
    folder, home = tmp_path_factory.mktemp("repo"), Path.cwd()
    os.chdir(folder)
    try:
        git("init", "-q", "-b", "main")
        git("config", "user.email", "a@b.c")
        git("config", "user.name", "a")
        assert dvc(["init", "-q"]) == 0
        for name, text in {"fake.py": FAKE, "code.py": "1", "dvc.yaml": PIPELINE, "params.yaml": PARAMS}.items():
            Path(name).write_text(text)
        git("add", ".")
        git("commit", "-qm", "before any stage ran")
        git("tag", "unbuilt")
        assert dvc(["repro", "-q"]) == 0
        git("add", ".")
        git("commit", "-qm", "built")
        for name, heads, seed in (("kv4-s2", 4, 2), ("kv2-s1", 2, 1), ("kv2-s2", 2, 2)):
            sets = ["-S", f"model.n_kv_heads={heads}", "-S", f"train.seed={seed}"]
            assert dvc(["exp", "run", "-q", "-n", name, *sets]) == 0
            git("checkout", "-qf", "main")
        for branch, sets in BRANCHES.items():
            git("checkout", "-qfb", branch, "main")
            params = yaml.safe_load(PARAMS)
            key, value = sets.split("=")
            section, name = key.split(".")
            params[section][name] = yaml.safe_load(value)
            Path("params.yaml").write_text(yaml.safe_dump(params))
            assert dvc(["repro", "-q"]) == 0
            git("commit", "-qam", branch)
        git("checkout", "-qf", "main")
        assert dvc(["checkout", "-q"]) == 0
    finally:
        os.chdir(home)
    return folder


@pytest.fixture(autouse=True)
def workspace(repo, tmp_path, monkeypatch):
    """A copy that a test may change."""
    shutil.copytree(repo, tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(tmp_path / "repo")


@pytest.fixture
def compare(capsys):
    def compare(*argv):
        main([*argv, "--json"])
        return json.loads(capsys.readouterr().out)

    return compare


def test_a_commit_is_compared_with_an_experiment(capsys):
    main(["main", "kv2-s1"])
    out = capsys.readouterr().out
    assert "main                                 1     1.0" in out
    assert "model.n_kv_heads=2 is worse than main by 0.0" in out
    assert "(95 % interval 0.0" in out
    assert "but not of seeds" in out
    assert "Documents that lost most for their length: main → model.n_kv_heads=2" in out
    assert "Story 2" in out
    assert "\x1b" not in out  # no escape sequences from a text
    assert max(map(len, out.splitlines())) <= 110


def test_the_numbers_follow_from_the_losses(compare):
    result = compare("main", "kv2-s1")
    runs = [read_run("main"), read_run("kv2-s1")]
    sizes = runs[0].lengths[:, 1]
    per_byte = [run.bits.sum() / sizes.sum() for run in runs]
    variant = result["variants"][0]
    assert (result["documents"], result["bytes"]) == (40, sizes.sum())
    assert result["baseline"]["bits_per_byte"] == pytest.approx(per_byte[0])
    assert variant["difference"] == pytest.approx(per_byte[1] - per_byte[0])
    assert variant["interval"][0] < variant["difference"] < variant["interval"][1]
    assert variant["params"] == {"model.n_kv_heads": [4, 2]}
    change = (runs[1].bits - runs[0].bits) / sizes**0.5
    assert [d["document"] for d in variant["lost"]] == change.argsort()[::-1][:3].tolist()
    assert [d["document"] for d in variant["gained"]] == change.argsort()[:3].tolist()
    lost = variant["lost"][0]
    assert lost["after"] - lost["before"] == pytest.approx(change.max() / lost["bytes"] ** 0.5)


def test_runs_that_differ_only_in_the_seed_are_one_variant(compare, capsys):
    result = compare("main", "kv2-s1", "kv4-s2", "kv2-s2")
    assert result["baseline"]["revs"] == ["main", "kv4-s2"]
    (variant,) = result["variants"]
    assert (variant["revs"], variant["seeds"]) == (["kv2-s1", "kv2-s2"], [1, 2])
    assert variant["covers"] == ["documents", "seeds"]
    main(["main", "kv2-s1", "kv4-s2", "kv2-s2"])
    out = capsys.readouterr().out
    assert "accounts for the choice of documents and seeds" in out
    assert "kv2-s1, kv2-s2" in out


def test_if_all_runs_differ_only_in_the_seed_each_is_a_variant(compare):
    (variant,) = compare("main", "kv4-s2")["variants"]
    assert variant["name"] == "train.seed=2"


def test_several_variants_are_compared_with_the_baseline_in_wider_intervals(compare, capsys):
    alone, both = compare("main", "kv2-s1"), compare("main", "kv2-s1", "vocabulary")
    assert [v["name"] for v in both["variants"]] == ["model.n_kv_heads=2", "tokenizer.vocab_size=8192"]
    width = [v["interval"][1] - v["interval"][0] for v in (alone["variants"][0], both["variants"][0])]
    assert width[0] < width[1]
    bonferroni = compare("main", "kv2-s1", "--confidence", "0.975")["variants"][0]
    assert both["variants"][0]["interval"] == pytest.approx(bonferroni["interval"])
    main(["main", "kv2-s1", "vocabulary"])
    assert "all 2 hold at once (Bonferroni)" in capsys.readouterr().out


def test_higher_confidence_widens_the_interval(compare):
    ends = [compare("main", "kv2-s1", "--confidence", c)["variants"][0]["interval"] for c in ("0.9", "0.99")]
    assert ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1]


def test_a_revision_equals_itself(capsys):
    main(["main", "HEAD"])
    assert "HEAD is the same as main: every document has the same loss." in capsys.readouterr().out


def test_a_run_named_twice_counts_once(compare, capsys):
    alone, again = compare("main", "kv2-s1"), compare("main", "HEAD", "kv2-s1")
    assert compare("main", "kv2-s1", "main", "kv2-s1") == alone
    assert again["repeats"] == {"HEAD": "main"}
    assert again | {"repeats": {}} == alone
    main(["main", "HEAD", "kv2-s1"])
    assert "HEAD is the same run as main; it counts once." in capsys.readouterr().out


def test_the_workspace_is_the_last_run_whatever_params_yaml_contains(compare):
    Path("params.yaml").write_text(PARAMS.replace("n_kv_heads: 4", "n_kv_heads: 2"))
    assert compare("main", "workspace")["variants"][0]["identical"]  # edited, but not run yet
    assert dvc(["repro", "-q"]) == 0
    result = compare("main", "workspace")
    assert result["variants"][0]["params"] == {"model.n_kv_heads": [4, 2]}
    assert result["variants"][0]["difference"] == pytest.approx(compare("main", "kv2-s1")["variants"][0]["difference"])


def test_losses_of_an_earlier_model_are_refused(compare):
    Path("params.yaml").write_text(PARAMS.replace("4096", "8192"))
    assert dvc(["repro", "-q", "tokenizer"]) == 0
    with pytest.raises(
        ValueError, match=r"^workspace: evaluate has not run since models/tokenizer changed; run `dvc repro`$"
    ):
        main(["main", "workspace"])
    assert dvc(["repro", "-q"]) == 0
    assert compare("main", "workspace")["variants"][0]["name"] == "tokenizer.vocab_size=8192"


def test_exams_are_compared_only_if_they_have_the_same_questions(compare):
    exam = compare("main", "kv2-s1")["variants"][0]["exam"]
    assert exam["questions"] == 120
    assert exam["after"] > exam["before"]
    assert compare("main", "other-exam")["variants"][0]["exam"] is None


def test_different_code_is_another_variant_and_is_named(compare):
    Path("code.py").write_text("2")
    assert dvc(["repro", "-q"]) == 0
    (variant,) = compare("main", "workspace")["variants"]
    assert (variant["name"], variant["files"]) == ("other code.py", ["code.py"])


def test_a_variant_is_named_as_one_types_its_params(compare):
    Path("params.yaml").write_text(PARAMS.replace("0.001", "null"))
    assert dvc(["repro", "-q"]) == 0
    (variant,) = compare("main", "workspace")["variants"]
    assert variant["name"] == "train.learning_rate=null"


def test_different_tokenizers_are_compared_in_bits_per_byte(compare, capsys):
    assert not compare("main", "kv2-s1")["tokenizers_differ"]
    main(["main", "vocabulary"])
    assert "The tokenizers differ: bits per byte are comparable" in capsys.readouterr().out


def test_different_training_documents_are_comparable(compare):
    (variant,) = compare("main", "same-val")["variants"]
    assert (variant["name"], variant["params"]) == ("dataset.train=6", {"dataset.train": [5, 6]})
    assert variant["files"] == []  # data/corpus/metadata.json differs, but a stage wrote it


@pytest.mark.parametrize(
    ("rev", "reason"), [("one", "40 vs. 1 of them"), ("other-texts", "other texts of the same lengths")]
)
def test_different_validation_documents_are_refused(rev, reason):
    with pytest.raises(ValueError, match=f"main and {rev} were scored on different validation documents .{reason}"):
        main(["main", rev])


def test_texts_are_shown_only_if_they_are_those_that_were_scored(compare):
    def texts():
        return [d["text"] for d in compare("main", "kv2-s1")["variants"][0]["lost"]]

    assert all(text.startswith("Story ") for text in texts())
    git("checkout", "-qf", "one")
    assert dvc(["checkout", "-q"]) == 0
    assert texts() == [None] * 3
    shutil.rmtree("data/corpus")
    assert texts() == [None] * 3


def test_a_clone_reads_losses_from_the_remote_or_names_the_remedy(tmp_path, compare, monkeypatch):
    here = compare("main", "vocabulary")["variants"][0]["difference"]
    remote = tmp_path / "remote"
    for branch in ("main", "vocabulary"):
        git("checkout", "-qf", branch)
        assert dvc(["remote", "add", "-q", "-f", "--local", "-d", "r", str(remote)]) == 0
        assert dvc(["push", "-q", "-a"]) == 0
    git("clone", "-q", str(tmp_path / "repo"), str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(
        ValueError,
        match=r"^origin/main: results/evaluate/documents.tsv is not in the cache; get it with `dvc fetch",
    ):
        main(["origin/main", "origin/vocabulary"])
    assert dvc(["remote", "add", "-q", "--local", "-d", "r", str(remote)]) == 0
    assert compare("origin/main", "origin/vocabulary")["variants"][0]["difference"] == pytest.approx(here)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["main"], "main: nothing to compare it with; name two or more revisions"),
        (["main", "main"], "main: nothing to compare it with; name two or more revisions"),
        (["main", "nowhere"], "nowhere: no such commit, branch, tag or experiment; `dvc exp show` lists experiments"),
        (["main", ""], ": no such commit"),
        (["main", "unbuilt"], "unbuilt: dvc.lock is missing, so no stage has run there; run `dvc repro`"),
        (["main", "kv2-s1", "--confidence", "95"], "--confidence 95: must be at least 0.5 and below 1"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, argv, message):
    monkeypatch.setattr(sys, "argv", ["tiny-lm", "compare", *argv])
    with pytest.raises(SystemExit) as end:
        tiny_lm()
    assert end.value.code.startswith(f"tiny-lm compare: {message}")
    assert "\n" not in end.value.code


def test_losses_that_do_not_match_dvc_lock_are_refused():
    path = Path("results/evaluate/documents.tsv")
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("\t9\t", "\t8\t", 1))
    with pytest.raises(ValueError, match=r"workspace: results/evaluate/documents.tsv does not match dvc.lock"):
        main(["main", "workspace"])


@pytest.mark.parametrize("bad", ["document\n", "\x00", "document\ttargets\n0\t1\n", math.nan])
def test_a_damaged_table_is_refused(bad):
    """As left by a broken stage, or by someone with access to the remote."""
    path = Path("results/evaluate/documents.tsv")
    text = bad if isinstance(bad, str) else path.read_text().replace("\t1.0\n", f"\t{bad}\n", 1)
    path.unlink()
    path.write_text(text)
    assert dvc(["commit", "-qf", "evaluate"]) == 0
    with pytest.raises(ValueError, match=r"^workspace: results/evaluate/documents.tsv is not a table of losses"):
        main(["main", "workspace"])


def test_a_lock_file_with_merge_conflicts_is_refused():
    Path("dvc.lock").write_text("<<<<<<< HEAD\nstages: {}\n")
    with pytest.raises(ValueError, match=r"^workspace: dvc.lock is damaged"):
        main(["main", "workspace"])


def test_a_project_may_be_a_subfolder_of_a_repository(tmp_path, compare, monkeypatch):
    here = compare("main", "vocabulary")
    git("clone", "-q", ".", str(tmp_path / "larger"))
    monkeypatch.chdir(tmp_path / "larger")
    git("config", "user.email", "a@b.c")
    git("config", "user.name", "a")
    for branch in ("vocabulary", "main"):
        git("checkout", "-q", branch)
        git("read-tree", "--empty")
        git("read-tree", "--prefix=projects/lm/", branch)
        git("commit", "-qm", "in a folder")
        git("clean", "-qfdx")
        git("reset", "-q", "--hard")
    monkeypatch.chdir("projects/lm")
    assert dvc(["cache", "dir", "-q", "--local", str(tmp_path / "repo/.dvc/cache")]) == 0
    assert compare("main", "vocabulary") == here


@pytest.mark.parametrize("branch", ["vocabulary", "main"])
def test_a_damaged_git_repository_is_reported_in_the_words_of_git(branch):
    commit = Path(".git/refs/heads", branch).read_text().strip()
    Path(".git/objects", commit[:2], commit[2:]).unlink()
    with pytest.raises(ValueError, match=rf"^`git log .*` failed: fatal: bad object (HEAD|{branch})$"):
        main([branch, "one"])


def test_a_repository_of_another_user_and_a_missing_git_are_reported(monkeypatch):
    def refuse(name):
        raise OSError("not owned by current user")

    monkeypatch.setattr(revisions, "Repo", refuse)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(ValueError, match=r"failed: fatal: detected dubious ownership .* safe\.directory"):
        read_run("main")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="^git is not installed$"):
        read_run("main")


def test_a_file_system_error_is_not_reported_as_a_missing_file(monkeypatch):
    def fail(self, path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(revisions.DVCFileSystem, "read_bytes", fail)
    with pytest.raises(ValueError, match=r"^workspace: dvc.lock: .*Permission denied") as error:
        read_run("workspace")
    assert not isinstance(error.value, revisions.MissingFile)
