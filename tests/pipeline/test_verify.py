"""`tiny-lm verify` builds everything again elsewhere, and finds the same bytes."""

import re


def test_verify_rebuilds_the_same_bytes(repository):
    output = repository.tiny_lm("verify")
    states = re.findall(r"^(identical|differs|may differ) +(\S+)", output, re.M)
    found = {path: state for state, path in states if "hardware" not in path}
    assert found == dict.fromkeys(repository.lock(), "identical")
    assert "may differ  results/train/hardware/metrics.json (it records time and machine)" in output
    assert not (repository.path / ".work/verify").exists()
