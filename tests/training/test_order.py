import numpy as np
import pytest

from tiny_lm.training.order import window_order


@pytest.mark.parametrize("windows", [*range(1, 70), 127, 128, 129, 999, 1000, 1024, 4097, 65537])
def test_every_epoch_is_a_permutation(windows: int) -> None:
    order = window_order(np.arange(3 * windows), windows, seed=7).reshape(3, windows)
    assert (np.sort(order, axis=1) == np.arange(windows)).all()


def test_a_sequence_has_its_window_whatever_is_asked_with_it() -> None:
    """A pure function of the sequence number: no state, no dependence on the batch."""
    together = window_order(np.arange(500), 130, seed=1)
    apart = [int(window_order(np.array([j]), 130, seed=1)[0]) for j in range(500)]
    assert together.tolist() == apart
    assert window_order(np.array([499, 3, 3]), 130, seed=1).tolist() == [apart[499], apart[3], apart[3]]


def test_the_order_is_the_same_on_every_machine() -> None:
    """Known values: another order would be another run."""
    assert window_order(np.arange(12), 10, seed=0).tolist() == [5, 1, 0, 3, 9, 6, 4, 8, 2, 7, 4, 0]
    assert window_order(np.array([2**40, 2**62]), 10**10, seed=2**32 - 1).tolist() == [3645079578, 2123330824]


def test_seeds_and_epochs_give_orders_that_have_nothing_in_common() -> None:
    n = 2000
    orders = [window_order(np.arange(n) + epoch * n, n, seed) for seed in (0, 1, 2**32 - 1) for epoch in (0, 1, 2)]
    orders.append(np.arange(n))
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 12  # 1 is expected
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.1  # 0.02 is one standard deviation
            assert (np.diff(one) == np.diff(other)).sum() < 12  # neighbours do not stay neighbours


@pytest.mark.parametrize("windows", [4, 5])
def test_every_permutation_of_a_few_windows_comes_up(windows: int) -> None:
    epochs = 3000
    orders = window_order(np.arange(epochs * windows), windows, seed=3).reshape(epochs, windows)
    seen, counts = np.unique(orders, axis=0, return_counts=True)
    factorial = {4: 24, 5: 120}[windows]
    assert len(seen) == factorial
    assert counts.max() < 2.5 * epochs / factorial


def test_any_stretch_of_an_epoch_covers_the_corpus_evenly() -> None:
    n = 10**9
    order = window_order(np.arange(20_000), n, seed=5)
    assert len(np.unique(order)) == 20_000
    tenths = np.bincount(order * 10 // n, minlength=10)
    assert abs(tenths - 2000).max() < 5 * np.sqrt(2000)
