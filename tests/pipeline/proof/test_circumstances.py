"""The same bytes elsewhere: other folder, user, time zone, language, umask, hash seed, number of cores or workers."""

import shlex
import shutil
import subprocess

import pytest
from tries import ALL

NOBODY = 65534  # who may read what the tests may, and owns nothing but the folder
CIRCUMSTANCES = {
    "another folder": "env",
    "another user": f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=+dac_read_search "
    "--ambient-caps=+dac_read_search",
    "another time zone": "env TZ=Asia/Kathmandu",
    "no locale": "env LANG=C LC_ALL=C PYTHONUTF8=0",
    "another umask": "sh -c 'umask 077; exec \"$@\"' sh",
    "another hash seed": "env PYTHONHASHSEED=12345",
    "one core": "taskset --cpu-list 0",
    "five workers": "env",
    "two OpenMP threads": "env OMP_NUM_THREADS=2",
}


def works(prefix):
    return shutil.which(prefix[0]) and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES if ALL else ["all of them"])
def test_the_pipeline_gives_the_same_bytes_elsewhere(circumstance, repository, tmp_path, book):
    """In a clone, with no cache; the sample is as far as the shards, under all circumstances at once."""
    prefixes = {name: shlex.split(words) for name, words in CIRCUMSTANCES.items()}
    prefixes = {name: prefix for name, prefix in prefixes.items() if circumstance in (name, "all of them")}
    prefixes = {name: prefix for name, prefix in prefixes.items() if works(prefix)}
    if not prefixes:
        pytest.skip(f"{circumstance}: not available on this machine")
    clone = repository.clone("a folder, elsewhere")
    recorded = clone.lock()
    (clone.path / "dvc.lock").unlink()
    shutil.rmtree(clone.path / "results")
    if "five workers" in prefixes:
        clone.edit("params.yaml", "workers: 1", "workers: 5")
    if "another user" in prefixes:
        home = tmp_path / "home"
        home.mkdir()
        clone.environment = clone.environment | {"HOME": str(home), "DVC_SITE_CACHE_DIR": str(home / "site")}
        subprocess.run(["chown", "-R", str(NOBODY), home, clone.path], check=True)
    start = [word for prefix in prefixes.values() for word in prefix]
    clone.run(*start, "dvc", "repro", *([] if ALL else ["shards"]))
    made = clone.lock()
    assert made == (recorded if ALL else {path: recorded[path] for path in made})
    assert "data/shards" in made
    for name in prefixes:
        book.note(f"full rebuild: {name}", "the same bytes")
