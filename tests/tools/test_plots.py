"""`tiny-lm plots` with what DVC reports; tests/pipeline has real plots."""

import json

import pytest

from tiny_lm.tools import plots

PLOT = {"loss": [{"content": {"mark": "line"}}]}


@pytest.fixture
def answer(monkeypatch):
    """Sets what `dvc plots` prints."""
    monkeypatch.setattr(plots, "git", lambda *_: "")
    return lambda **values: monkeypatch.setattr(plots, "dvc", lambda *_: json.dumps(values))


def test_a_revision_that_dvc_cannot_read_is_not_one_without_plots(answer):
    answer(errors=[{"rev": "workspace", "type": "YAMLSyntaxError", "msg": "unable to read: 'dvc.lock'"}])
    with pytest.raises(ValueError, match=r"^workspace: unable to read: 'dvc.lock'$"):
        plots.read_plots([])
    answer()
    with pytest.raises(ValueError, match="there are no plots yet; run `dvc repro`"):
        plots.read_plots([])


def test_a_file_that_dvc_cannot_read_is_named(answer, capsys):
    answer(data=PLOT, errors=[{"rev": "main", "source": "loss.tsv", "type": "OSError", "msg": "input/output error"}])
    assert [name for name, _ in plots.read_plots(["main"])] == ["loss"]
    assert capsys.readouterr().err == "main: loss.tsv: not plotted: input/output error\n"
