"""Runs the Python blocks of docs/guide.md in order and compares their output with the page.

If a line varies with the machine, numbers may differ by some percent, and words altogether.
"""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

GUIDE = (Path(__file__).parents[1] / "docs/guide.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", GUIDE, re.M | re.S)
FIGURES = re.compile(r"\b\d+\.\d+\b")
VARIES = "# varies with the machine"


def run(blocks):
    """The output of each block; all of them share one session."""
    session = {}
    for code, _ in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "guide.md", "exec"), session)
        yield printed.getvalue()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    threads, home = torch.get_num_threads(), tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(home))
        outputs = list(run(BLOCKS))
    torch.set_num_threads(threads)
    return outputs


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_prints_the_output_on_the_page(printed, number):
    code, shown = BLOCKS[number]
    if VARIES not in code:
        assert printed[number] == shown
    else:
        assert len(printed[number].splitlines()) >= len(shown.splitlines()) > 0
        for now, then in zip(FIGURES.findall(printed[number]), FIGURES.findall(shown), strict=True):
            assert float(now) == pytest.approx(float(then), rel=0.15, abs=0.02 if float(then) >= 0.1 else 0.002)


def test_the_model_of_the_guide_learns(printed):
    losses = [float(loss) for loss in re.findall(r"step \d+: (.*)", "".join(printed))]
    (unseen,) = re.findall(r"held-out stories: (.*)", "".join(printed))
    assert losses == sorted(losses, reverse=True)
    assert float(unseen) < losses[0] / 2


def test_files_that_the_guide_names_exist():
    names = re.findall(r"\[`([^`]+\.py)`\]\(\.\./src/tiny_lm/([^)]+)\)", GUIDE)
    assert len(names) >= 10
    assert all(label == path for label, path in names)
