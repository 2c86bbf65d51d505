"""Sampling against a plain Python implementation and counts."""

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
    probs = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    expected = [brute_force(row.tolist(), temperature, top_k, top_p) for row in logits]
    torch.testing.assert_close(probs, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_of_equally_likely_tokens_the_lower_ids_are_kept() -> None:
    equal = torch.zeros(1, 5)
    assert probabilities(equal, temperature=0.0, top_k=None, top_p=None).tolist() == [[1, 0, 0, 0, 0]]
    assert probabilities(equal, temperature=1.0, top_k=2, top_p=None).tolist() == [[0.5, 0.5, 0, 0, 0]]
    assert probabilities(equal, temperature=1.0, top_k=None, top_p=0.3).tolist() == [[0.5, 0.5, 0, 0, 0]]


def test_tiny_temperatures_and_large_logits_give_finite_probabilities() -> None:
    for temperature in (1e-30, 1e-50, 5e-324):  # the last two are 0 in float32
        probs = probabilities(torch.tensor([[3e4, 2e4, -3e4]]), temperature=temperature, top_k=None, top_p=0.9)
        assert probs.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.99999])
@pytest.mark.parametrize("top_k", [None, 700])
def test_wide_and_narrow_nuclei_of_a_large_vocabulary(top_p: float, top_k: int | None) -> None:
    flat = torch.randn(3, 2000, generator=torch.Generator().manual_seed(4)) * 0.5
    flat[1] *= 20  # one row with a narrow nucleus
    probs = probabilities(flat, temperature=1.0, top_k=top_k, top_p=top_p)
    expected = [brute_force(row.tolist(), 1.0, top_k, top_p) for row in flat]
    assert (probs[0] > 0).sum() > 64 > (probs[1] > 0).sum()
    torch.testing.assert_close(probs, torch.tensor(expected), atol=1e-6, rtol=1e-4)


def test_a_draw_is_the_first_id_whose_cumulative_probability_exceeds_the_random_number() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = (torch.rand(200, 7, generator=generator) - 0.4).clamp(min=0) + torch.eye(7)[torch.arange(200) % 7]
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    for row, number, drawn in zip(probs.tolist(), uniform.tolist(), sample(probs, uniform).tolist(), strict=True):
        cumulative = [sum(row[: i + 1]) for i in range(7)]
        assert drawn == next(i for i in range(7) if cumulative[i] > number * cumulative[-1])


def test_draws_follow_the_probabilities() -> None:
    probs = torch.tensor([[0.1, 0.6, 0.0, 0.3]]).expand(20_000, 4)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = sample(probs, uniform)
    assert (draws.bincount(minlength=4) / 20_000).tolist() == pytest.approx([0.1, 0.6, 0.0, 0.3], abs=0.02)


def test_an_id_of_probability_zero_is_never_drawn() -> None:
    probs = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).expand(3, 5)
    assert sample(probs, torch.tensor([0.0, 0.29, 1 - 2**-32], dtype=torch.float64)).tolist() == [1, 1, 3]


def test_temperature_0_picks_the_most_likely_token_and_the_lower_id_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, -1.0]])
    uniform = torch.tensor([0.99, 0.99], dtype=torch.float64)
    assert next_tokens(logits, uniform, temperature=0.0, top_k=None, top_p=None).tolist() == [1, 0]
    assert next_tokens(logits, uniform, temperature=9.0, top_k=None, top_p=None).tolist() == [2, 2]
    assert next_tokens(logits, uniform, temperature=9.0, top_k=1, top_p=None).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-0.1, None, None), r"temperature = -0.1: must be between 0 \(greedy\) and 100"),
        ((1.0, 0, None), "top_k = 0: must be at least 1, or null"),
        ((1.0, None, 0.0), "top_p = 0.0: must be over 0 and at most 1, or null"),
        ((1.0, None, 1.1), "top_p = 1.1: must be over 0 and at most 1, or null"),
    ],
)
def test_values_out_of_range_are_an_error(values: tuple[float, int | None, float | None], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_sampling(temperature=values[0], top_k=values[1], top_p=values[2])
