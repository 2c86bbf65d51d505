"""The order in which a run reads its windows: a pure function of the seed, so no position has to be saved.

Sequence j of a run (step × batch_size + index in the batch) is window `window_order(j)`. Each epoch is a permutation
of all n windows: a Feistel network over a grid of a × b ≥ n cells, keyed by seed and epoch. A cell that is not one of
the n windows is permuted again until it is (cycle walking, Black & Rogaway 2002).
"""

import math

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4  # of two half-rounds each


def window_order(sequences: NDArray[np.int64], windows: int, seed: int) -> NDArray[np.int64]:
    """The window of each sequence number: (B,) → (B,), each in 0 … windows - 1."""
    epoch = (sequences // windows).astype(np.uint64)
    key = _mix(_mix(np.full_like(epoch, seed)) + epoch)
    cell = (sequences % windows).astype(np.uint64)
    a = math.isqrt(windows - 1) + 1
    b = -(-windows // a)
    cell = _permute(cell, key, a, b)
    outside = np.flatnonzero(cell >= windows)
    while len(outside):  # fewer than a of the a × b cells are outside
        cell[outside] = _permute(cell[outside], key[outside], a, b)
        outside = outside[cell[outside] >= windows]
    return cell.astype(np.int64)


def _permute(cell: NDArray[np.uint64], key: NDArray[np.uint64], a: int, b: int) -> NDArray[np.uint64]:
    """A permutation of 0 … a·b - 1: row and column are shifted in turn by a hash of the other."""
    rows, columns = np.uint64(a), np.uint64(b)
    row, column = cell // columns, cell % columns
    for number in range(_ROUNDS):
        row = (row + _mix(column ^ _mix(key + np.uint64(2 * number))) % rows) % rows
        column = (column + _mix(row ^ _mix(key + np.uint64(2 * number + 1))) % columns) % columns
    return row * columns + column


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): an input bit flips each output bit with probability 1/2."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
