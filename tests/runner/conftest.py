from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A repository with one stage, whose code is this tree's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "params.yaml").write_text(
        "alpha: {x: 1, path: data}\nbeta: {y: 2}\nruntime: {workers: 3, progress: false, loggers: []}\n"
    )
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  work:\n    cmd: x\n    params: [alpha]\n    deps: ['${alpha.path}', src/tiny_lm/io/params.py]\n"
        "    outs: [out]\n    metrics: [{metrics.json: {cache: false}}]\n"
    )
    return tmp_path
