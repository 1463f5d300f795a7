"""How far to trust an accuracy: estimates from k graded samples of each of n problems.

    interval    95% interval of avg@k over problems: other problems of this kind, other samples
    spread      the variance of a score, between problems and within a problem
    pass_at     pass@j for j <= k, unbiased: the best of j samples drawn without replacement
    majority    maj@k: the answer with the most votes
    paired      two models on the same problems: difference, interval, p value

Why not mean +- 1.96 standard errors: with 30 problems and an accuracy of 3% that interval holds the
truth in 57% of the cases, and where every answer is wrong it has no width at all. A bootstrap over
problems has the same two faults. A beta-binomial model covers while its form is right, but in 57%
where a twentieth of 300 problems is always solved and the others seldom. The interval here is that
of Clopper and Pearson (1934) at an effective number of samples, as Korn and Graubard (1998) use it
for clustered surveys. At k = 1 it is theirs exactly: 95% or more, whatever the truth is. At larger
k it held in simulations (tests/test_estimates.py), but for one case: where a twentieth of the
problems is always solved, 30 often hold none of these and tell nothing of them; it covers 85%.

Scores are numbers in [0, 1]: those of a reward function of one's own need not be 0 or 1.
"""

import math
import statistics

import numpy as np

Z = 1.96  # two-sided 95%
Z_POWER = 0.84  # 80% of the normal distribution lie below
PRIOR = 4  # problems' worth of doubt whether the samples of a problem are independent
EXACT_FLIPS = 14  # differences of which all 2^m signs are tried
DRAWS = 10_000  # draws of signs where there are more
# A grid for integrals over shares x = sin^2(angle): fine near 0 and 1, where it is needed.
ANGLE = (np.arange(20_000) + 0.5) / 20_000 * (math.pi / 2)
GRID, LOG_SIN, LOG_COS = np.sin(ANGLE) ** 2, np.log(np.sin(ANGLE)), np.log(np.cos(ANGLE))


def beta_quantile(a, b, share):
    """The x below which this share of a Beta(a, b) distribution lies; a and b need not be whole."""
    log_density = (2 * a - 1) * LOG_SIN + (2 * b - 1) * LOG_COS  # of the angle
    mass = np.exp(log_density - log_density.max()).cumsum()
    return float(np.interp(share, mass / mass[-1], GRID))


def clopper_pearson(right, n):
    """95% interval of a share: `right` of n were right. Neither needs to be a whole number."""
    low = beta_quantile(right, n - right + 1, 0.025) if right > 0 else 0.0
    high = beta_quantile(right + 1, n - right, 0.975) if right < n else 1.0
    return low, high


def interval(scores):
    """95% interval of avg@k over problems; scores: a list of k scores for each problem.

    >>> low, high = interval([[0.0]] * 30)
    >>> low, round(high, 3)  # not one of 30 solved: it may still be every ninth
    (0.0, 0.116)
    """
    (n, k), means = np.shape(scores), np.mean(scores, axis=1)
    average = float(means.mean())
    worst = average * (1 - average)  # variance of a problem's mean if its samples all agree
    if worst == 0 or k == 1 or n == 1:
        return clopper_pearson(average * n, n)
    # Only problems that differ from the rest tell how much the samples of a problem agree. The
    # fewer they are, the nearer to the worst case.
    telling = min((means > 0).sum(), (means < 1).sum())
    variance = (telling * means.var(ddof=1) + PRIOR * worst) / (telling + PRIOR)
    effective = n * min(worst / variance, k)  # that many independent samples are worth as much
    return clopper_pearson(average * effective, effective)


def spread(scores):
    """-> (between, within): the variance of the problems' true means, and that of a sample about
    its problem's mean; (None, None) where k = 1 can't tell them apart. The squared standard error
    of avg@k is about (between + within / k) / n."""
    n, k = len(scores), len(scores[0])
    if n < 2 or k < 2:
        return None, None
    within = statistics.mean(statistics.variance(one) for one in scores)
    of_means = statistics.variance([statistics.mean(one) for one in scores])
    return max(0.0, of_means - within / k), within


def powers(k):
    """1, 2, 4, ... and k itself.

    >>> powers(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({k, *(2**i for i in range(k.bit_length()))})


def pass_at(scores, j):
    """The mean best score of j of these k samples, over all choices of j.

    For scores of 0 and 1 it is 1 - C(k - c, j) / C(k, j) with c right ones, the unbiased pass@j of
    Chen et al. (2021, arXiv 2107.03374).

    >>> pass_at([0.0, 1.0, 0.0, 0.0], 2)  # three of the six pairs hold the right one
    0.5
    """
    ways = [math.comb(below, j - 1) for below in range(len(scores))]  # choices of this as the best
    total = sum(way * score for way, score in zip(ways, sorted(scores), strict=True))
    return total / math.comb(len(scores), j)


def majority(answers, scores, same):
    """The score of the answer with the most votes; tied answers share it, no answer has no vote.

    answers: of the k samples, None for no answer; same(a, b): whether two mean the same. Of m tied
    answers of which one is right the score is 1/m: what a draw among them gets on average.

    >>> majority(["4", "5", "4.0", None], [1.0, 0.0, 1.0, 0.0], lambda a, b: float(a) == float(b))
    1.0
    """
    votes = {}  # the first spelling of an answer -> the scores of those who gave it
    spelled = {}  # spelling -> the first that means the same
    for answer, score in zip(answers, scores, strict=True):
        if answer is None:
            continue
        if answer not in spelled:
            spelled[answer] = next((first for first in votes if same(answer, first)), answer)
        votes.setdefault(spelled[answer], []).append(score)
    if not votes:
        return 0.0
    most = max(map(len, votes.values()))
    return statistics.mean(statistics.mean(v) for v in votes.values() if len(v) == most)


def sign_flip(differences, seed=0):
    """p value of "no difference": how often the sum is as far from 0 once signs are drawn at will.

    >>> sign_flip([0.5, 0.5, 1.0, 0.0])  # + + + or - - -, of eight ways
    0.25
    """
    moved = np.array([d for d in differences if d])
    observed, m = abs(moved.sum()) - 1e-9, len(moved)
    if m <= EXACT_FLIPS:
        signs = 1 - 2 * (np.arange(2**m)[:, None] >> np.arange(m) & 1)  # [2^m, m]
        return float((abs(signs @ moved) >= observed).mean())
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(10):
        signs = 1 - 2 * rng.integers(0, 2, (DRAWS // 10, m))
        hits += (abs(signs @ moved) >= observed).sum()
    return float((hits + 1) / (DRAWS + 1))


def paired(ours, theirs):
    """Means of two models on the same problems -> their difference, as a dict.

    The interval is that of Bonett and Price (2012): Wald's, once two problems more are counted, one
    won and one lost as clearly as any was. "detectable" is the smallest true difference that such
    a comparison finds (p < 5%) in four of five cases.
    """
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    largest = max(map(abs, gaps)) or 1.0
    counted = [*gaps, largest, -largest]
    centre = statistics.mean(counted)
    error = statistics.pstdev(counted) / len(counted) ** 0.5
    return {
        "n": len(gaps),
        "difference": statistics.mean(gaps),
        "interval": [max(-1.0, centre - Z * error), min(1.0, centre + Z * error)],
        "p": sign_flip(gaps),
        "won": sum(gap > 0 for gap in gaps),
        "lost": sum(gap < 0 for gap in gaps),
        "tied": sum(gap == 0 for gap in gaps),
        "detectable": (Z + Z_POWER) * error,
    }
