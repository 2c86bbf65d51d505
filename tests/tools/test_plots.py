"""`tiny-lm plots` with made-up output of DVC; tests/pipeline has real plots."""

import json

import pytest

from tiny_lm.tools import plots

PLOT = {"loss": [{"content": {"mark": "line"}}]}


@pytest.fixture
def dvc_prints(monkeypatch):
    """Sets what `dvc plots` prints."""
    monkeypatch.setattr(plots, "git", lambda *_: "")
    return lambda **values: monkeypatch.setattr(plots, "dvc", lambda *_: json.dumps(values))


def test_an_unreadable_revision_is_not_reported_as_one_without_plots(dvc_prints):
    dvc_prints(errors=[{"rev": "workspace", "type": "YAMLSyntaxError", "msg": "unable to read: 'dvc.lock'"}])
    with pytest.raises(ValueError, match=r"^workspace: unable to read: 'dvc.lock'$"):
        plots.read_plots([])
    dvc_prints()
    with pytest.raises(ValueError, match="there are no plots yet; run `dvc repro`"):
        plots.read_plots([])


def test_an_unreadable_file_is_named_and_the_rest_plotted(dvc_prints, capsys):
    dvc_prints(
        data=PLOT, errors=[{"rev": "main", "source": "loss.tsv", "type": "OSError", "msg": "input/output error"}]
    )
    assert [name for name, _ in plots.read_plots(["main"])] == ["loss"]
    assert capsys.readouterr().err == "main: loss.tsv: not plotted: input/output error\n"
