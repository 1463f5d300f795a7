"""lib/estimates.py: intervals hold the truth as often as they say; pass@k, maj@k and p values are
what counting all cases gives."""

import itertools
import math
import statistics

import numpy as np
import pytest

from lib import estimates
from lib.equivalence import is_equivalent

# --------------------------------------------------------------------------------------------------
# The interval of avg@k


def tail(n, p, least):
    """P(X >= least) of a binomial X."""
    return sum(math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(least, n + 1))


@pytest.mark.parametrize(("right", "n"), [(0, 30), (1, 30), (17, 30), (30, 30), (3, 500)])
def test_at_k_1_the_ends_are_where_the_tails_hold_a_fortieth(right, n):
    """Quantiles of another distribution, or a grid too coarse at the edge."""
    low, high = estimates.interval([[1.0]] * right + [[0.0]] * (n - right))
    assert low == 0 if right == 0 else tail(n, low, right) == pytest.approx(0.025, abs=2e-4)
    assert high == 1 if right == n else tail(n, high, right + 1) == pytest.approx(0.975, abs=2e-4)


@pytest.mark.parametrize("n", [10, 30, 100])
def test_at_k_1_no_accuracy_is_covered_in_less_than_95_percent(n):
    """An interval that is right on average, and wrong where benchmarks are hardest."""
    ends = [estimates.interval([[1.0]] * x + [[0.0]] * (n - x)) for x in range(n + 1)]
    for p in np.linspace(0.001, 0.999, 333):
        chance = [math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)]
        held = [low <= p <= high for low, high in ends]
        assert sum(c for c, h in zip(chance, held, strict=True) if h) >= 0.95 - 1e-6


def draw_problems(rng, kind, accuracy, n):
    """The chances of n problems to be solved. kind: how much the samples of a problem agree, from 0
    to 1, as the correlation of a beta distribution; "rare": half of what is right comes from
    problems that are always solved."""
    if kind == "rare":
        solved = accuracy / 2
        others = (accuracy - solved) / (1 - solved)
        return np.where(rng.random(n) < solved, 1.0, others)
    if kind == 0:
        return np.full(n, accuracy)
    scale = 1 / kind - 1
    return rng.beta(accuracy * scale, (1 - accuracy) * scale, n)


KINDS = [(30, k, accuracy, kind) for k in (4, 32) for accuracy in (0.01, 0.03, 0.5, 0.97)
         for kind in (0, 0.1, 0.5, 0.9)]  # fmt: skip
KINDS += [(10, 8, 0.03, 0.5), (300, 8, 0.01, 0.5), (300, 8, 0.5, 0.1), (30, 32, 0.03, "rare")]


@pytest.mark.parametrize(("n", "k", "accuracy", "kind"), KINDS)
def test_95_percent_of_the_intervals_hold_the_truth(n, k, accuracy, kind):
    """Samples of a problem taken for independent; no width where nothing was solved; an error bar
    of the normal distribution, which holds 30 to 80% at the edges."""
    rng, held, runs = np.random.default_rng(n * k), 0, 250
    for _ in range(runs):
        chance = draw_problems(rng, kind, accuracy, n)
        scores = (rng.random((n, k)) < chance[:, None]).astype(float).tolist()
        low, high = estimates.interval(scores)
        held += low <= accuracy <= high
    assert held >= 0.94 * runs  # of 250, at 95%: the error of the simulation is 1.4%


def test_intervals_are_not_wide_for_nothing():
    """Coverage bought by taking all k samples for one, or by an interval from 0 to 1."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(50):
        chance = draw_problems(rng, 0.5, 0.4, 100)
        scores = (rng.random((100, 8)) < chance[:, None]).astype(float)
        low, high = estimates.interval(scores.tolist())
        ratios.append((high - low) / (3.92 * scores.mean(1).std(ddof=1) / 10))
    assert 1 < statistics.mean(ratios) < 1.1
    scores = (rng.random((100, 8)) < 0.4).astype(float).tolist()
    low, high = estimates.interval(scores)
    assert high - low < 0.6 * (3.92 * (0.24 / 100) ** 0.5)  # all alike: nearly 800 samples


def test_scores_between_0_and_1_and_a_single_problem_have_an_interval():
    """A reward function's 0.5 that counts as right or wrong, or a division by n - 1 = 0."""
    low, high = estimates.interval([[0.5, 0.5]] * 40)
    assert 0.3 < low < 0.5 < high < 0.7
    assert estimates.interval([[0.0, 1.0]]) == pytest.approx((0.0063, 0.9937), abs=0.01)


def test_between_and_within_add_up_to_the_error_of_the_mean():
    """Parts that are each other's, or a spread within problems that counts as between them."""
    scores = [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    between, within = estimates.spread(scores)
    assert within == pytest.approx((1 / 3 + 1 / 4 + 0) / 3)
    assert between + within / 4 == pytest.approx(statistics.variance([0.5, 0.25, 1.0]))
    assert estimates.spread([[1.0], [0.0]]) == (None, None)
    assert estimates.spread([[1.0, 0.0], [0.0, 1.0]])[0] == 0


# --------------------------------------------------------------------------------------------------
# pass@k and maj@k


@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_j_is_the_mean_over_all_choices_of_j_samples(k):
    """The biased 1 - (1 - p)^j, or a best score that forgets rewards between 0 and 1."""
    cases = list(itertools.product([0.0, 1.0], repeat=k))
    cases += [tuple(np.random.default_rng(k).random(k)), (0.5,) * k]
    for scores, j in itertools.product(cases, range(1, k + 1)):
        wanted = statistics.mean(max(chosen) for chosen in itertools.combinations(scores, j))
        assert estimates.pass_at(list(scores), j) == pytest.approx(wanted)


def test_pass_at_j_of_many_samples_stays_a_share():
    """Binomials that overflow, or cancel."""
    for right in (0, 1, 500, 1000):
        scores = [1.0] * right + [0.0] * (1000 - right)
        at = [estimates.pass_at(scores, j) for j in (1, 2, 4, 512, 1000)]
        assert at == sorted(at) and at[0] >= 0 and at[-1] <= 1
        assert at[0] == pytest.approx(right / 1000)
    assert estimates.powers(1) == [1] and estimates.powers(32) == [1, 2, 4, 8, 16, 32]


VOTES = [
    (["1/2", "3", "0.5", r"\frac{1}{2}", "3"], [1, 0, 1, 1, 0], 1),  # joined by the verifier
    (["1/2", "3", "0.5", "3", "3"], [1, 0, 1, 0, 0], 0),
    (["4", "5"], [1, 0], 1 / 2),  # a tie between two
    (["4", "5", "6", None], [0, 1, 0, 0], 1 / 3),  # and between three
    (["4", "5", "5", "4", "7"], [1, 0, 0, 1, 0], 1 / 2),  # the one that lost has no share
    (["5", "6"], [0, 0], 0),
    ([None, None, None, "4"], [0, 0, 0, 1], 1),  # no answer has no vote
    ([None, None], [0, 0], 0),
    (["4", "4"], [0.5, 0.5], 0.5),  # a reward of one's own
]


@pytest.mark.parametrize(("answers", "scores", "wanted"), VOTES)
def test_votes_for_the_same_answer_are_joined_and_ties_are_shared(answers, scores, wanted):
    """1/2 and 0.5 that split their votes; ties that go to whoever came first, or to the right."""
    for order in itertools.permutations(range(len(answers))):
        mixed = [answers[i] for i in order], [scores[i] for i in order]
        assert estimates.majority(*mixed, is_equivalent) == pytest.approx(wanted)


# --------------------------------------------------------------------------------------------------
# Two models on the same problems


def enumerated(differences):
    """The p value by trying all signs of all differences, zeros too."""
    observed, hits = abs(sum(differences)), 0
    for signs in itertools.product([1, -1], repeat=len(differences)):
        flipped = sum(s * d for s, d in zip(signs, differences, strict=True))
        hits += abs(flipped) >= observed - 1e-9
    return hits / 2 ** len(differences)


def test_the_p_value_is_what_trying_all_signs_gives():
    """A one-sided test; a draw of signs that is far off; zeros that count as wins."""
    rng = np.random.default_rng(3)
    for n in (1, 5, 9):
        gaps = [*np.round(rng.normal(0.3, 1, n), 1).tolist(), 0.0]
        assert estimates.sign_flip(gaps) == pytest.approx(enumerated(gaps))
    gaps = rng.normal(0.3, 1, estimates.EXACT_FLIPS + 1).tolist()
    assert estimates.sign_flip(gaps) == pytest.approx(enumerated(gaps), abs=0.01)
    assert estimates.sign_flip([0.0, 0.0]) == 1
    assert estimates.sign_flip([1.0] * 40) == pytest.approx(1 / (estimates.DRAWS + 1))


def test_equal_models_on_equal_problems_differ_by_0_and_the_interval_has_a_width():
    """Twenty problems without a difference taken for a proof that there is none."""
    found = estimates.paired([0.0] * 10 + [1.0] * 10, [0.0] * 10 + [1.0] * 10)
    assert (found["difference"], found["p"], found["won"], found["lost"]) == (0, 1, 0, 0)
    assert found["tied"] == found["n"] == 20
    assert found["interval"][0] < -0.05 and found["interval"][1] > 0.05
    found = estimates.paired([1.0, 0.5, 0.0, 1.0], [0.0, 0.5, 0.5, 0.5])
    assert (found["won"], found["lost"], found["tied"]) == (2, 1, 1)
    assert found["difference"] == 0.25


# problems, samples, share of them on which the models differ, true difference
PAIRS = [(30, 1, 0.1, 0.0), (30, 1, 0.3, 0.2), (30, 8, 0.3, 0.1), (200, 1, 0.05, 0.02)]


@pytest.mark.parametrize(("n", "k", "differ", "gap"), PAIRS)
def test_95_percent_of_the_intervals_hold_the_true_difference(n, k, differ, gap, monkeypatch):
    """The interval of two unpaired models; an interval of no width where few problems differ."""
    monkeypatch.setattr(estimates, "sign_flip", lambda gaps: None)
    rng, held, runs = np.random.default_rng(n + k), 0, 400
    chances = [(differ + gap) / 2, (differ - gap) / 2, 1 - differ]  # won, lost, tied outright
    for _ in range(runs):
        kinds = rng.choice(3, n, p=chances)
        both = rng.random(n)  # on ties both solve it with this chance
        ours = np.select([kinds == 0, kinds == 1], [1.0, 0.0], both)
        theirs = np.select([kinds == 0, kinds == 1], [0.0, 1.0], both)
        if k == 1:
            theirs = ours = (both < 0.5) * 1.0
            ours = np.select([kinds == 0, kinds == 1], [1.0, 0.0], ours)
            theirs = np.select([kinds == 0, kinds == 1], [0.0, 1.0], theirs)
        means = [(rng.binomial(k, p) / k).tolist() for p in (ours, theirs)]
        low, high = estimates.paired(*means)["interval"]
        held += low <= gap <= high
    assert held >= 0.94 * runs


def test_the_detectable_difference_is_found_four_times_in_five(monkeypatch):
    """A power that is not what it says: a comparison planned too small."""
    monkeypatch.setattr(estimates, "DRAWS", 1000)
    rng, n, differ = np.random.default_rng(1), 400, 0.2
    gap = estimates.paired([1.0] * 40 + [0.0] * 360, [0.0] * 40 + [1.0] * 40 + [0.0] * 320)
    gap = gap["detectable"]
    assert 0.05 < gap < 0.08
    chances, found = [(differ + gap) / 2, (differ - gap) / 2, 1 - differ], []
    for _ in range(150):
        gaps = rng.choice([1.0, -1.0, 0.0], n, p=chances).tolist()
        found.append(estimates.sign_flip(gaps) < 0.05)
    assert 0.7 < statistics.mean(found) < 0.9
