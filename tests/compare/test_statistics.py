"""Intervals compared with t-tests, with a jackknife written out, and with the true difference in simulations."""

import numpy as np
import pytest
from scipy import stats

from tiny_lm.compare.statistics import _variance_over_seeds, compare, effective_documents, extremes, student_t


def draw(rng, *, documents=60, seeds=(1, 1), lengths=1.0, truth=0.01, of_document=0.03, of_seed=0.0, of_both=0.0):
    """Bits (seeds, documents) of two models that truly differ by `truth` bits per byte, and sizes (documents,)."""
    sizes = np.maximum(1, np.round(800 * np.exp(lengths * rng.standard_normal(documents))))
    common = rng.normal(1.0, 0.3, documents)
    difference = truth + of_document * rng.standard_normal(documents)
    per_byte = [
        mean + of_seed * rng.standard_normal((count, 1)) + of_both * rng.standard_normal((count, documents))
        for count, mean in zip(seeds, (common, common + difference), strict=True)
    ]
    return per_byte[0] * sizes, per_byte[1] * sizes, sizes


def coverage(draws=1500, **world):
    rng = np.random.default_rng(1)
    results = [compare(*draw(rng, **world), 0.95) for _ in range(draws)]
    return np.mean([r.interval[0] <= 0.01 <= r.interval[1] for r in results if r.interval])  # none: almost one document


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"),
    [(0.95, 1, 12.7062), (0.95, 2, 4.3027), (0.99, 5, 4.0321), (0.95, 30, 2.0423), (0.9, 1e9, 1.6449)],
)
def test_student_t_matches_the_published_table(confidence, freedom, t):
    assert student_t(confidence, freedom) == pytest.approx(t, abs=1e-4)


def test_equal_lengths_and_one_seed_give_the_paired_t_test():
    baseline, variant, sizes = draw(np.random.default_rng(0), lengths=0.0)
    result = compare(baseline, variant, sizes, 0.95)
    expected = stats.ttest_rel(variant[0] / sizes, baseline[0] / sizes).confidence_interval(0.95)
    assert result.covers == ("documents",)
    assert result.interval == pytest.approx((expected.low, expected.high))


def test_one_document_and_several_seeds_give_welchs_t_test():
    rng = np.random.default_rng(0)
    baseline, variant, sizes = draw(rng, documents=1, seeds=(3, 5), of_seed=0.01)
    result = compare(baseline, variant, sizes, 0.9)
    expected = stats.ttest_ind(variant[:, 0] / sizes, baseline[:, 0] / sizes, equal_var=False).confidence_interval(0.9)
    assert result.covers == ("seeds",)
    assert result.interval == pytest.approx((expected.low, expected.high))


def test_the_difference_is_total_bits_over_total_bytes():
    """Not the mean over documents of bits per byte, in which short and long documents would count the same."""
    sizes = np.array([10.0, 1000.0])
    result = compare(np.array([[10.0, 1000.0]]), np.array([[20.0, 900.0]]), sizes, 0.95)
    assert result.value == pytest.approx(-90 / 1010)


def test_the_variance_over_documents_is_the_jackknifes():
    baseline, variant, sizes = draw(np.random.default_rng(3), documents=12)
    bits, n = (variant - baseline)[0], len(sizes)
    left_out = np.array([np.delete(bits, i).sum() / np.delete(sizes, i).sum() for i in range(n)])
    deviation = np.sqrt((n - 1) / n * ((left_out - bits.sum() / sizes.sum()) ** 2).sum())
    result = compare(baseline, variant, sizes, 0.95)
    assert result.half_width == pytest.approx(deviation * student_t(0.95, effective_documents(sizes) - 1))


def test_effective_documents_weighs_documents_by_length():
    assert effective_documents(np.full(7, 300.0)) == pytest.approx(7)
    assert effective_documents(np.array([1e6, 1.0, 1.0, 1.0])) == pytest.approx(1, abs=1e-5)
    assert effective_documents(np.array([5.0, 5.0, 0.0])) == pytest.approx(2)  # an empty document does not count


@pytest.mark.parametrize("sizes", [[900.0], [1e6, 10.0, 10.0]])
def test_one_document_and_one_seed_give_no_interval(sizes):
    bits = np.array([sizes])
    result = compare(bits, 1.5 * bits, np.array(sizes), 0.95)
    assert (result.value, result.interval, result.covers) == (pytest.approx(0.5), None, ())
    assert result.verdict == "no interval"


@pytest.mark.parametrize(("sizes", "covers"), [([500.0, 500.0], ("documents",)), ([500.0, 490.0], ())])
def test_documents_are_covered_from_two_effective_ones_on(sizes, covers):
    bits = np.array([sizes])
    assert compare(bits, 1.5 * bits, np.array(sizes), 0.95).covers == covers


def test_seeds_are_covered_only_if_both_models_have_two():
    rng = np.random.default_rng(0)
    assert compare(*draw(rng, seeds=(1, 4), of_seed=0.01), 0.95).covers == ("documents",)
    assert compare(*draw(rng, seeds=(2, 2), of_seed=0.01), 0.95).covers == ("documents", "seeds")


@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "worse"), (0.8, "better")])
def test_fewer_bits_are_better(factor, verdict):
    bits = np.random.default_rng(0).uniform(900, 1000, (1, 50))
    assert compare(bits, factor * bits, np.full(50, 800.0), 0.95).verdict == verdict


def test_a_difference_within_the_interval_is_not_distinguishable():
    baseline, variant, sizes = draw(np.random.default_rng(1), truth=0.0)
    result = compare(baseline, variant, sizes, 0.95)
    assert result.verdict == "not distinguishable"
    assert result.interval[0] < 0 < result.interval[1]
    same = compare(baseline, baseline, sizes, 0.95)
    assert (same.value, same.interval, same.verdict) == (0, (0, 0), "not distinguishable")


def test_pairing_cancels_the_difficulty_of_documents():
    rng = np.random.default_rng(2)
    baseline, variant, sizes = draw(rng, documents=200, of_document=0.003, truth=0.002)
    assert compare(baseline, variant, sizes, 0.95).half_width < 0.002
    shuffled = rng.permutation(200)
    assert compare(baseline, variant[:, shuffled] / sizes[shuffled] * sizes, sizes, 0.95).half_width > 0.02


def test_swapping_the_models_flips_the_sign():
    baseline, variant, sizes = draw(np.random.default_rng(5), seeds=(2, 3), of_seed=0.01, of_both=0.02)
    forward, backward = compare(baseline, variant, sizes, 0.95), compare(variant, baseline, sizes, 0.95)
    assert forward.value == pytest.approx(-backward.value)
    assert forward.half_width == pytest.approx(backward.half_width)


def test_higher_confidence_gives_a_wider_interval():
    world = draw(np.random.default_rng(5))
    assert compare(*world, 0.99).half_width > 1.2 * compare(*world, 0.95).half_width


def test_more_seeds_narrow_the_interval_unless_they_disagree():
    def median_half_width(**world):
        rng = np.random.default_rng(0)
        return np.median([compare(*draw(rng, **world), 0.95).half_width for _ in range(50)])

    one = median_half_width(of_both=0.1)
    assert median_half_width(of_both=0.1, seeds=(6, 6)) < 0.7 * one  # the noise of single documents averages out
    assert median_half_width(of_both=0.1, seeds=(3, 3), of_seed=0.05) > 2 * one


def test_the_interaction_of_seeds_and_documents_is_counted_once():
    """On average, the rest is the variance of the means over 3 and 5 seeds; without subtraction it would be double."""
    rng, parts = np.random.default_rng(0), []
    for _ in range(2000):
        baseline, variant, sizes = draw(rng, lengths=0.0, seeds=(3, 5), of_seed=0.01, of_both=0.01 * 60**0.5)
        variance, _, shared = _variance_over_seeds([baseline, variant], sizes)
        parts.append((variance, shared))
    variance, shared = np.mean(parts, axis=0)
    truth = 0.01**2 * (1 / 3 + 1 / 5)
    assert variance == pytest.approx(2 * truth, rel=0.06)
    assert variance - shared == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize(
    "world",
    [
        {"lengths": 0.0},
        {"lengths": 1.0},
        {"lengths": 2.0, "documents": 20},
        {"documents": 5},
        {"seeds": (2, 2), "of_seed": 0.01, "of_both": 0.02},
        {"seeds": (3, 3), "of_seed": 0.005, "of_both": 0.1},
        {"seeds": (3, 3), "of_document": 0.0, "of_both": 0.1},
        {"seeds": (2, 5), "of_seed": 0.02},
    ],
    ids=str,
)
def test_95_percent_intervals_contain_the_truth_about_95_times_in_100(world):
    """The standard error is 0.6 points. benchmarks/coverage.py simulates many more worlds."""
    assert 0.935 <= coverage(**world) <= 0.985


def test_ignoring_seeds_would_make_intervals_far_too_narrow():
    """So the simulation can detect a wrong interval."""
    rng = np.random.default_rng(1)
    worlds = [draw(rng, seeds=(3, 3), of_seed=0.02) for _ in range(300)]
    means = [(a.mean(0, keepdims=True), b.mean(0, keepdims=True), sizes) for a, b, sizes in worlds]
    covered = [abs(r.value - 0.01) <= r.half_width for r in (compare(*mean, 0.95) for mean in means)]
    assert np.mean(covered) < 0.8


def test_extremes_are_ranked_by_change_for_their_length():
    sizes = np.array([100.0, 100.0, 10000.0, 1.0, 100.0])
    change = np.array([[-50.0, 40.0, 60.0, 0.5, 0.0]])  # the long one changed most in bits, but little for its length
    gained, lost = extremes(np.zeros((1, 5)), change, sizes, 3)
    assert gained == [0]
    assert lost == [1, 2, 3]
    assert extremes(np.zeros((1, 5)), change, sizes, 1) == ([0], [1])
