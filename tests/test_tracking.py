"""Text at dataset.path is added to Git or DVC, or one line explains why not and what to do."""

import subprocess
from pathlib import Path

import pytest

from tiny_lm import tracking
from tiny_lm.tracking import track, untracked, warning


def git(*arguments):
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def staged():
    return git("ls-files", "-z").split("\0")[:-1]


def write(path, text="a text"):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A Git and DVC repository with data/raw as shipped."""
    return make(tmp_path / "project", tmp_path / "project", monkeypatch)


@pytest.fixture
def subproject(tmp_path, monkeypatch):
    """A DVC repository in a subfolder of a Git repository."""
    return make(tmp_path / "monorepo/project", tmp_path / "monorepo", monkeypatch)


def make(folder, top, monkeypatch):
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(top / ".git/site"))
    write(folder / "data/raw/README.md")
    write(folder / ".dvc/config", "[core]\n    analytics = false\n")
    write(folder / ".dvc/.gitignore", "/tmp\n/cache\n")
    git("init", "-q", str(top))
    monkeypatch.chdir(folder)
    git("add", "-A")
    return folder


def test_a_small_file_is_added_to_git_once(project):
    book = write("my [book] *.txt")
    write("other.txt")
    assert untracked([book]) == [book]
    assert track(book, [book]) == (book, f"added {book} to Git (0.0 MB); `git commit` records it")
    assert str(book) in staged()
    assert "other.txt" not in staged()
    assert track(book, [book]) == (book, "")
    assert track(project / book, [project / book]) == (book, "")  # an absolute path would lead clones back here


def test_a_folder_is_added_to_git_as_a_whole(project):
    files = [write(f"poems/{name}.txt") for name in ("a", "deep/b")]
    write("poems/LICENSE")
    assert track(Path("poems"), files)[0] == Path("poems")
    assert {"poems/a.txt", "poems/deep/b.txt", "poems/LICENSE"} <= set(staged())


def test_files_next_to_tracked_ones_are_added_one_by_one(project):
    files = [write("data/raw/a.txt"), write("data/raw/poems/b.txt")]
    track(Path("data/raw"), files)
    assert {"data/raw/a.txt", "data/raw/poems/b.txt"} <= set(staged())


def test_ignored_files_and_nested_repositories_are_added_to_dvc(project):
    write(".gitignore", "*.md\n")
    files = [write("data/raw/ü.md"), write("data/raw/poems/b.md"), write("data/raw/corpus/a.txt")]
    git("init", "-q", "data/raw/corpus")
    path, line = track(Path("data/raw"), files)
    assert line.startswith("added data/raw to DVC (3 files, ")
    assert {"data/raw/ü.md.dvc", "data/raw/poems.dvc", "data/raw/corpus.dvc", "data/raw/.gitignore"} <= set(staged())
    assert untracked(files) == []
    assert track(path, files) == (path, "")


@pytest.mark.parametrize(("count", "where"), [(2, "Git"), (3, "DVC")])
def test_many_files_are_added_to_dvc(project, monkeypatch, count, where):
    monkeypatch.setattr(tracking, "GIT_FILES", 2)
    files = [write(f"data/raw/poems/{number}.txt") for number in range(count)]
    _, line = track(Path("data/raw/poems"), files)
    assert line.startswith(f"added data/raw/poems to {where} ({count} files, ")
    assert untracked(files) == []


def test_the_page_has_the_limits_of_git():
    page = " ".join((Path(__file__).parents[1] / "data/raw/README.md").read_text(encoding="utf-8").split())
    assert f"up to {tracking.GIT_BYTES / 1e6:.0f} MB and {tracking.GIT_FILES:,} files in Git" in page
    assert f"does not copy more than {tracking.COPIED_BYTES / 1e9:.0f} GB" in page


def test_large_text_from_outside_is_copied_and_added_to_dvc(project, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "GIT_BYTES", 5)
    (tmp_path / "elsewhere").mkdir()
    files = [write(tmp_path / "elsewhere/poems" / name) for name in ("a.txt", "b/c.txt")]
    path, line = track(tmp_path / "elsewhere/poems", files)
    assert path == Path("data/raw/poems")
    assert line.startswith(
        f"copied {tmp_path}/elsewhere/poems to data/raw/poems, which is the one to edit from now on;"
    )
    assert "data/raw/poems.dvc" in staged()
    assert Path("data/raw/poems/b/c.txt").read_text() == "a text"
    assert track(tmp_path / "elsewhere/poems", files)[0] == path  # again: the copy is the same
    files[0].write_text("edited")
    with pytest.raises(
        ValueError, match=r"^data/raw/poems: exists and differs from .*; set dataset.path=data/raw/poems"
    ):
        track(tmp_path / "elsewhere/poems", files)


def test_text_too_large_to_copy_stays_outside_with_the_command_that_copies_it(project, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "COPIED_BYTES", 5)
    book = write(tmp_path / "a book.txt")
    path, line = track(book, [book])
    assert path == book
    assert f"run `dvc add --out 'data/raw/a book.txt' '{book}'` and set dataset.path=data/raw/a book.txt" in line
    assert not Path("data/raw/a book.txt").exists()


def test_a_link_to_the_outside_is_refused_because_git_would_store_only_the_link(project, tmp_path):
    book = write(tmp_path / "book.txt")
    Path("link.txt").symlink_to(book)
    git("add", "link.txt")
    with pytest.raises(ValueError, match=r"^link.txt: is a link to .*book.txt, which is outside"):
        track(Path("link.txt"), [Path("link.txt")])


def test_files_above_a_project_in_a_subfolder_of_a_repository_count_too(subproject):
    book, above = write("book.txt"), write("../texts/book.txt")
    track(book, [book])
    assert track(above, [above])[0] == Path("data/raw/book.txt")  # DVC and Git work below the project only
    git("add", "../texts")
    assert track(above, [above]) == (above, "")
    assert track(above.resolve(), [above.resolve()]) == (above, "")
    assert {"book.txt", "data/raw/book.txt"} <= set(staged())


def test_outputs_of_other_stages_and_tracked_folders_count_as_tracked(project):
    write("dvc.lock", "stages:\n  download:\n    outs:\n    - path: data/raw/big.jsonl\n      md5: abc\n")
    write("poems.dvc")
    git("add", "poems.dvc")
    files = [write("data/raw/big.jsonl"), write("poems/deep/a.txt")]
    assert untracked(files) == []


def test_the_warning_names_a_file_and_the_command(project):
    files = [write("my poems/a.txt"), write("my poems/b.txt")]
    line = warning(Path("my poems"), files)
    assert line.startswith("my poems/a.txt and 1 more: tracked by neither Git nor DVC, so ")
    assert line.endswith("; run `tiny-lm preset 'dataset.path=my poems'` to add it")
    git("add", "my poems")
    assert warning(Path("my poems"), files) == ""


def test_failures_are_reported_in_the_words_of_git_and_dvc(project, monkeypatch):
    book = write("book.txt")
    write(".gitignore", "book.txt*\n")  # so DVC cannot record it either
    with pytest.raises(ValueError, match=r"^`dvc add book.txt` failed: .*book\.txt\.dvc.* git-ignored"):
        track(book, [book])
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(ValueError, match=r"^`git rev-parse --show-toplevel` failed: fatal: detected dubious ownership"):
        track(book, [book])
    assert warning(book, [book]).startswith(
        "could not check whether dataset.path = 'book.txt' is under version control"
    )
