"""Fixtures of the proofs: which moments are tried, and how many.

`make test` runs a sample, `make proof` hundreds of times as many moments, drawn anew each time.
"""

import random

import pytest
from tries import ALL, SHARE


@pytest.fixture
def dice(request):
    """The same moments in every sample, so that it fails or not; others in every proof, and the seed is printed."""
    seed = random.randrange(1 << 32) if ALL else request.node.nodeid
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def many():
    """`many(2, 60)`: how many to try, in a sample and in a proof."""
    return lambda sample, proof: max(1, round(proof * SHARE)) if ALL else sample
