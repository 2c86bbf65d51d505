"""Experiments: run, compared, reverted, queued, run elsewhere. The commands of docs/experiments.md."""

import csv
import io
import re
import shlex

import yaml

SCORES, COURSE = "results/evaluate/metrics.json", "results/train/metrics.json"


def rows(repository, *arguments):
    """The table of `dvc exp show`: {name of the experiment or revision: {column: value}}."""
    table = csv.DictReader(io.StringIO(repository.dvc("exp", "show", "--csv", *arguments)))
    return {row["Experiment"] or row["rev"]: row for row in table}


def samples(repository, revision):
    """The MD5 of the samples that dvc.lock has in a commit."""
    evaluate = yaml.safe_load(repository.git("show", f"{revision}:dvc.lock"))["stages"]["evaluate"]
    return next(out["md5"] for out in evaluate["outs"] if out["path"] == "results/evaluate/samples.txt")


def readable_table(repository):
    """What `make experiments` shows on a screen of 120 columns; the set-up that it begins with is not a test's."""
    makefile = (repository.path / "Makefile").read_text()
    drop = re.search(r"^DROP := (.*)$", makefile, re.M)[1].replace("$$", "$")
    command = re.search(r"^experiments:.*\n\t(.*)$", makefile, re.M)[1].replace("$(DROP)", drop)
    return repository.run("env", "COLUMNS=120", *shlex.split(command))


def test_an_experiment_is_run_compared_reverted_and_kept(repository):
    original = repository.hashes()
    output = repository.dvc("exp", "run", "--name", "mqa", "-S", "model.n_kv_heads=1")
    assert repository.ran(output) == ["train", "evaluate", "export"]
    assert output.count("didn't change, skipping") == 3
    variant = repository.hashes()

    # Compare. Metrics and plots are in Git, so it knows of the change as well.
    changed = repository.git("diff", "--stat=200")
    for path in (SCORES, COURSE, "results/train/plots/metrics/val_loss.tsv", "dvc.lock", "params.yaml"):
        assert f" {path} " in changed
    table = rows(repository)
    assert [table[name]["model.n_kv_heads"] for name in ("main", "mqa")] == ["2", "1"]
    assert table["main"]["loss"] != table["mqa"]["loss"]
    assert table["main"]["train_loss"] != table["mqa"]["train_loss"]
    shown = readable_table(repository)
    for text in ("Experiment", "mqa", "tokens_per_second", "loss", "bits_per_byte", "model.n_kv_heads"):
        assert text in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 120
    metrics = repository.json("dvc", "metrics", "diff", "main", "mqa", "--json")
    assert metrics[SCORES]["loss"]["old"] != metrics[SCORES]["loss"]["new"]
    assert "best_val_loss" in metrics[COURSE]
    params = repository.json("dvc", "params", "diff", "main", "mqa", "--json")
    assert params == {"params.yaml": {"model.n_kv_heads": {"old": 2, "new": 1, "diff": -1}}}
    plot = repository.json("dvc", "plots", "diff", "main", "mqa", "--json")["data"]["loss"][0]
    assert sorted(plot["revisions"]) == ["main", "mqa"]
    points = plot["content"]["data"]["values"]
    for loss in ("train_loss", "val_loss"):
        for rev in ("main", "mqa"):
            assert any(loss in point and point["rev"] == rev for point in points)
    repository.dvc("plots", "diff", "main", "mqa")
    page = (repository.path / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert "train_loss" in page
    assert "val_loss" in page
    assert "model.n_kv_heads=1" in repository.tiny_lm("compare", "main", "mqa")
    assert "loss" in repository.tiny_lm("plots", "main", "mqa")

    # Back to what is committed, and to the variant again: weights and metrics together.
    repository.git("checkout", "-q", ".")
    repository.dvc("checkout")
    assert repository.hashes() == original
    assert repository.is_clean()
    repository.dvc("exp", "apply", "mqa")
    assert repository.hashes() == variant
    assert repository.ran(repository.dvc("repro")) == []

    # A mistake in the next variant brings the weights back, and the metrics that belong to them.
    output = repository.fails("dvc", "exp", "run", "-S", "model.n_kv_heads=3")
    assert "train: model.n_kv_heads = 3: must be a divisor of n_heads = 4. The previous outputs are restored" in output
    assert repository.hashes() == variant

    # What has run before is not run again.
    repository.git("checkout", "-q", ".")
    repository.dvc("checkout")
    output = repository.dvc("exp", "run", "--name", "again", "-S", "model.n_kv_heads=1")
    assert repository.ran(output) == []
    assert output.count("is cached - skipping run") == 3
    assert repository.hashes() == variant

    # Keep one as a branch, forget the other.
    repository.dvc("exp", "apply", "mqa")
    repository.dvc("exp", "branch", "mqa", "try-mqa")
    repository.dvc("exp", "remove", "mqa", "again")
    assert repository.dvc("exp", "list").strip() == ""
    assert "would be overwritten" in repository.fails("git", "checkout", "try-mqa")
    repository.git("checkout", "-q", ".")
    repository.git("checkout", "-q", "try-mqa")
    repository.dvc("checkout")
    assert repository.hashes() == variant
    assert repository.is_clean()
    assert {"main", "try-mqa"} <= rows(repository, "-A").keys()


def test_queued_and_temporary_runs_use_the_code_of_their_experiment(repository):
    before = repository.hashes()
    output = repository.dvc("exp", "run", "--queue", "-S", "evaluate.seed=2,3")  # other samples, but the same scores
    assert output.count("Queued experiment") == 2
    assert not repository.git("status", "--short")
    repository.edit(
        "src/tiny_lm/stages/evaluate.py", "params = stage.section(", 'stage.say("edited")\n    params = stage.section('
    )
    repository.dvc("queue", "start", "--jobs", "2")

    def ended():
        tasks = [
            line.split() for line in repository.dvc("queue", "status").splitlines() if "PM" in line or "AM" in line
        ]
        return len(tasks) == 2 and all(task[-1] in ("Success", "Failed") for task in tasks) and tasks

    experiments = repository.path / ".git/refs/exps"  # looking there is cheaper than asking DVC
    repository.wait_for(lambda: len([*experiments.glob("??/*/*")]) == 2 or repository.is_left_alone())
    tasks = repository.wait_for(ended, pause=1)
    for _, name, *_, state in tasks:
        logs = repository.dvc("queue", "logs", name)
        assert state == "Success", logs
        assert "evaluate: loss" in logs
        assert "edited" not in logs
    table = rows(repository)
    assert sorted(table[name]["evaluate.seed"] for _, name, *_ in tasks) == ["2", "3"]
    refs = repository.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    done_refs = [ref for ref in refs if ref.rpartition("/")[2] in {task[1] for task in tasks}]
    assert len({samples(repository, revision) for revision in ("main", *done_refs)}) == 3
    assert repository.hashes() == before

    # A temporary run takes the workspace as it is, in a folder of its own.
    output = repository.dvc("exp", "run", "--temp", "--name", "elsewhere", "-S", "evaluate.temperature=0")
    assert repository.ran(output) == ["evaluate"]  # the export is not stale
    assert "evaluate: edited" in output
    assert rows(repository)["elsewhere"]["evaluate.temperature"] == "0"
    assert repository.hashes() == before
    assert repository.git("status", "--short").split() == ["M", "src/tiny_lm/stages/evaluate.py"]
