import shutil
from pathlib import Path

import pytest

from tiny_lm.runner.code import require_this_tree

SRC = Path(__file__).parents[2] / "src"


def test_another_copy_of_the_code_is_refused(tmp_path):
    shutil.copytree(SRC / "tiny_lm/runner", tmp_path / "src/tiny_lm/runner")
    with pytest.raises(ValueError, match=r"not this folder's .*source .venv/bin/activate"):
        require_this_tree(tmp_path)


def test_a_link_to_the_code_or_a_folder_without_code_is_accepted(tmp_path):
    require_this_tree(tmp_path)
    (tmp_path / "src").symlink_to(SRC)
    require_this_tree(tmp_path)
    require_this_tree(SRC.parent)
