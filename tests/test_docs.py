"""Every command in the docs is parsed by its program with the current params, and every link leads to a file and to a
heading in it.
"""

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from dvc.cli import parse_args
from pipeline.closure import listed_lines

from tiny_lm.cli import TOOLS
from tiny_lm.exam import SKILLS
from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.presets import apply, check_params
from tiny_lm.runner.pipelines import read_plans
from tiny_lm.training.params import TrainParams

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "data/raw/README.md"]


def commands(page):
    """The command lines of the page's bash blocks and indented blocks, without comments."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    for block in [*blocks, *re.findall(r"^    ((?:dvc|tiny-lm) .*)$", outside_of_blocks(text), re.M)]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def outside_of_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def mentions():
    """The names of commands in sentences: without arguments, which are often left out, and once each."""
    texts = [outside_of_blocks(page.read_text(encoding="utf-8")) for page in PAGES]
    names = re.compile(r"`((?:dvc|tiny-lm)(?:\s+[a-z][a-z-]*)+)(?=[\s`])")
    return sorted({" ".join(name.split()) for text in texts for name in names.findall(text)})


ALL = [(page.relative_to(ROOT), words) for page in PAGES for words in commands(page)]


def of(program):
    return [pytest.param(words, id=f"{page}: {' '.join(words)}"[:90]) for page, words in ALL if words[0] == program]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("words", of("dvc"))
def test_dvc_knows_the_command_and_params_the_keys_it_sets(words):
    args = parse_args(words[1:])
    settings = []
    for setting in getattr(args, "set_param", None) or []:
        key, _, value = setting.partition("=")
        settings.append(f"{key}={value.split(',')[0]}" if getattr(args, "queue", False) else setting)
    check_params(apply((ROOT / "params.yaml").read_text(), settings))


@pytest.mark.parametrize("words", of("tiny-lm"))
def test_tiny_lm_knows_the_command(words, capsys):
    assert words[1] in TOOLS
    if words[1] == "preset":
        check_params(apply((ROOT / "params.yaml").read_text(), [w for w in words[2:] if not w.startswith("-")]))
    else:
        with pytest.raises(SystemExit) as done:
            importlib.import_module(f"tiny_lm.tools.{words[1].replace('-', '_')}").main([*words[2:], "--help"])
        assert done.value.code == 0


@pytest.mark.parametrize("mention", mentions())
def test_a_command_in_a_sentence_exists(mention, capsys):
    program, name, *rest = mention.split()
    if program == "tiny-lm":
        assert name in TOOLS
        return
    with pytest.raises(SystemExit) as done:
        parse_args([name, *rest, "--help"])
    assert done.value.code == 0


@pytest.mark.parametrize("words", of("make"))
def test_make_knows_the_target(words):
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("words", [case for case in of("python") if len(case.values[0]) > 1])
def test_a_benchmark_is_there_and_has_the_options(words):
    script = (ROOT / words[1]).read_text(encoding="utf-8")
    for option in words[2:]:
        if option.startswith("--"):
            assert f'add_argument("{option}"' in script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
        if anchor:
            assert anchor in anchors(page.parent / link if link else page), f"{link}#{anchor}"


def anchors(page):
    """As GitHub makes them of headings, the first time each."""
    headings = re.findall(r"^#+ (.*)$", outside_of_blocks(page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_that_code_refers_to_exist():
    files = [path for folder in ("src", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in [*files, ROOT / "Makefile", ROOT / "CHANGELOG.md"]:
        for page in re.findall(r"\bdocs/[\w/]+\.md\b", path.read_text(encoding="utf-8")):
            assert (ROOT / page).exists(), f"{path.relative_to(ROOT)}: {page}"


def test_the_staleness_table_names_the_sections_that_stages_list():
    table = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    stages = read_plans()
    names = list(stages)
    for stage, plan in stages.items():
        for section in plan["params"]:
            (row,) = [
                line
                for line in table.splitlines()
                if line.startswith("| `") and f"`{section}.*`" in line and "●" in line
            ]
            cells = [cell.strip() == "●" for cell in row.split("|")[2:-1]]
            assert cells.index(True) == names.index(stage)
            assert all(cells[names.index(stage) :])


def test_make_repro_installs_what_running_needs_and_the_other_targets_the_rest(tmp_path):
    def installs(target):
        command = ["make", "--dry-run", "--always-make", target, f"VENV={tmp_path}"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return re.findall(r"--editable '?(\S+?)'?$", done.stdout, re.M)

    assert installs("repro") == installs("verify") == installs("experiments") == ["."]
    assert installs("test") == installs("check") == installs("proof") == installs("format") == [".", ".[dev]"]


def test_the_readme_has_the_scores_of_the_default_run():
    """Up to what another kind of CPU changes."""
    values = read_yaml(ROOT / "params.yaml")
    if values["dataset"]["source"] != "stories" or load_params("train", values["train"], TrainParams) != TrainParams():
        pytest.skip("params.yaml is not that of the default run")
    scores = json.loads((ROOT / "results/evaluate/metrics.json").read_text(encoding="utf-8"))
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert float(re.search(r"scores   loss ([\d.]+),", page)[1]) == pytest.approx(scores["loss"], rel=0.05)
    exam = scores["exam"]
    columns = [exam, *(exam[name.replace(" ", "_")] for name in SKILLS.values())]
    assert " | ".join(["| | all", *SKILLS.values()]) in page
    for row, key, tolerance in (("default model", "accuracy", 4), ("by chance", "chance", 0.5)):
        stated = re.search(rf"^\| {row} \| (.*) \|$", page, re.M)[1].split(" | ")
        assert [float(cell) for cell in stated] == pytest.approx([100 * part[key] for part in columns], abs=tolerance)


def test_the_readme_states_the_size_of_the_training_stage():
    stated = re.search(r"about ([\d,]+) lines of\s+this package", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert int(stated[1].replace(",", "")) == round(listed_lines("train"), -2)
