"""A full disk, a read-only folder, too little memory: the stage says so in one line, nothing is lost."""

import os
import signal
import subprocess

import pytest
from tries import ALL

STAGES = ["corpus", "tokenizer", "shards", "train", "evaluate", "export"] if ALL else ["tokenizer"]


def mount(*arguments):
    if subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode:
        pytest.skip("not allowed to mount")


def unmount(*arguments):
    subprocess.run(["umount", *arguments], check=True)


@pytest.fixture
def disk(tmp_path):
    """A separate file system of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", folder)
    yield folder
    unmount("--recursive", folder)


def free(folder):
    return os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize


def check(bench, stage, outcome, fault, book, mend=lambda: None):
    """After a run that failed, nothing is lost, and the next one does its work."""
    book.note(f"{stage}: {fault}", bench.nothing_is_lost(stage, outcome, mend))
    again = bench.start(stage)
    assert again["code"] == 0, again
    assert bench.state() == bench.before


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(stage, disk, bench_in, dice, many, book):
    bench = bench_in(disk)
    filler = disk / "filler"
    bench.remove(stage)
    room = free(disk)
    bench.start(stage, moment=["the end of the stage", 1, signal.SIGKILL])
    needed = room - free(disk)
    bench.start(stage)
    for _ in range(many(1, 10)):
        bench.remove(stage)
        bench.forget(stage)
        left = dice.randrange(needed) if ALL else needed // 2
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free(disk) - left))
        outcome = bench.start(stage)
        if ALL and outcome["code"] == 0:
            filler.unlink()
            book.note(f"{stage}: an almost full disk", "finished: there was enough space")
            assert bench.state() == bench.before
            continue
        check(bench, stage, outcome, "a full disk", book, filler.unlink)


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_folder(stage, disk, bench_in, book):
    bench = bench_in(disk)
    folders = {path.relative_to(bench.path).parts[0] for path in bench.outputs(stage)} | {".work"}
    for name in sorted(folders):
        folder = bench.path / name
        folder.mkdir(exist_ok=True)
        bench.remove(stage)
        mount("--bind", folder, folder)
        mount("-o", "remount,bind,ro", folder)
        outcome = bench.server.run(bench.path, stage)
        check(bench, stage, outcome, "a read-only folder", book, lambda: unmount(folder))  # noqa: B023


@pytest.mark.parametrize("stage", STAGES)
def test_too_little_memory(stage, bench, dice, many, book):
    for _ in range(many(1, 10)):
        bench.forget(stage)
        outcome = bench.start(stage, megabytes=dice.randrange(200) if ALL else 1)
        if ALL and outcome["code"] == 0:
            book.note(f"{stage}: little memory", "finished: there was enough")
            assert bench.state() == bench.before
        elif outcome["code"] < 0:
            book.note(f"{stage}: too little memory", "aborted by a library; the same bytes")
            assert bench.start(stage)["code"] == 0
            assert bench.state() == bench.before
        else:
            check(bench, stage, outcome, "too little memory", book)
