"""Sampling against lists, loops and counts."""

import math

import pytest
import torch

from tiny_lm.generation.sampling import check_sampling, next_tokens, probabilities, sample


def brute_force(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if temperature == 0:
        return [1.0 if i == order[0] else 0.0 for i in range(len(logits))]
    kept = order[:top_k]
    weights = {i: math.exp((logits[i] - max(logits)) / temperature) for i in kept}
    total = sum(weights.values())
    if top_p is not None:
        nucleus, mass = [], 0.0
        for i in kept:
            if mass >= top_p:
                break
            nucleus.append(i)
            mass += weights[i] / total
        weights = {i: weights[i] for i in nucleus}
        total = sum(weights.values())
    return [weights.get(i, 0.0) / total for i in range(len(logits))]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 3, 100])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.5, 0.93, 1.0])
def test_equals_brute_force(temperature: float, top_k: int | None, top_p: float | None) -> None:
    logits = torch.randn(4, 12, generator=torch.Generator().manual_seed(3)) * 2
    shares = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    expected = [brute_force(row.tolist(), temperature, top_k, top_p) for row in logits]
    torch.testing.assert_close(shares, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_equals_go_by_id() -> None:
    even = torch.zeros(1, 5)
    assert probabilities(even, temperature=0.0, top_k=None, top_p=None).tolist() == [[1, 0, 0, 0, 0]]
    assert probabilities(even, temperature=1.0, top_k=2, top_p=None).tolist() == [[0.5, 0.5, 0, 0, 0]]
    assert probabilities(even, temperature=1.0, top_k=None, top_p=0.3).tolist() == [[0.5, 0.5, 0, 0, 0]]


def test_tiny_temperatures_and_large_logits_stay_finite() -> None:
    for temperature in (1e-30, 1e-50, 5e-324):  # the last two are 0 in float32
        shares = probabilities(torch.tensor([[3e4, 2e4, -3e4]]), temperature=temperature, top_k=None, top_p=0.9)
        assert shares.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.99999])
@pytest.mark.parametrize("top_k", [None, 700])
def test_wide_and_narrow_nuclei_of_a_large_vocabulary(top_p: float, top_k: int | None) -> None:
    flat = torch.randn(3, 2000, generator=torch.Generator().manual_seed(4)) * 0.5
    flat[1] *= 20  # a row with a narrow nucleus beside wide ones
    shares = probabilities(flat, temperature=1.0, top_k=top_k, top_p=top_p)
    expected = [brute_force(row.tolist(), 1.0, top_k, top_p) for row in flat]
    assert (shares[0] > 0).sum() > 64 > (shares[1] > 0).sum()
    torch.testing.assert_close(shares, torch.tensor(expected), atol=1e-6, rtol=1e-4)


def test_a_draw_is_where_the_shares_added_up_first_exceed_the_number() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = (torch.rand(200, 7, generator=generator) - 0.4).clamp(min=0) + torch.eye(7)[torch.arange(200) % 7]
    numbers = torch.rand(200, generator=generator, dtype=torch.float64)
    for row, number, drawn in zip(shares.tolist(), numbers.tolist(), sample(shares, numbers).tolist(), strict=True):
        sums = [sum(row[: i + 1]) for i in range(7)]
        assert drawn == next(i for i in range(7) if sums[i] > number * sums[-1])


def test_draws_follow_the_probabilities() -> None:
    shares = torch.tensor([[0.1, 0.6, 0.0, 0.3]]).expand(20_000, 4)
    numbers = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = sample(shares, numbers)
    assert (draws.bincount(minlength=4) / 20_000).tolist() == pytest.approx([0.1, 0.6, 0.0, 0.3], abs=0.02)


def test_an_id_without_a_share_is_never_drawn() -> None:
    shares = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).expand(3, 5)
    assert sample(shares, torch.tensor([0.0, 0.29, 1 - 2**-32], dtype=torch.float64)).tolist() == [1, 1, 3]


def test_temperature_0_takes_the_likeliest_and_of_equals_the_lower_id() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, -1.0]])
    numbers = torch.tensor([0.99, 0.99], dtype=torch.float64)
    assert next_tokens(logits, numbers, temperature=0.0, top_k=None, top_p=None).tolist() == [1, 0]
    assert next_tokens(logits, numbers, temperature=9.0, top_k=None, top_p=None).tolist() == [2, 2]
    assert next_tokens(logits, numbers, temperature=9.0, top_k=1, top_p=None).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-0.1, None, None), r"temperature = -0.1: must be between 0 \(greedy\) and 100"),
        ((1.0, 0, None), "top_k = 0: must be at least 1, or null"),
        ((1.0, None, 0.0), "top_p = 0.0: must be over 0 and at most 1, or null"),
        ((1.0, None, 1.1), "top_p = 1.1: must be over 0 and at most 1, or null"),
    ],
)
def test_values_out_of_range(values: tuple[float, int | None, float | None], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_sampling(temperature=values[0], top_k=values[1], top_p=values[2])
