"""Means over few seeds, and how far to trust them.

    iqm                     interquartile mean: the mean of the middle half
    stratified_bootstrap    95% interval of a statistic; seeds are redrawn within each task
    paired                  mean difference of two methods on the same seeds, Student's interval

With five seeds a bootstrap interval is too narrow, since it knows no values but those five. For the
question whether one method beats another, `paired` is the judge: its interval is honest for few
seeds if differences are about normal.
"""

import random
from statistics import mean, stdev

# The 97.5% point of Student's t for 1, 2, ... degrees of freedom.
STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
STUDENT += [2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086]


def iqm(values):
    """The mean without the lowest and the highest quarter, rounded down to whole values.

    >>> iqm([0, 1, 2, 3, 100])
    2
    """
    values, cut = sorted(values), len(values) // 4
    return mean(values[cut : len(values) - cut])


def stratified_bootstrap(strata, statistic, draws=2000, seed=0):
    """95% interval of statistic(all values), with each list in `strata` redrawn by itself."""
    rng, found = random.Random(seed), []
    for _ in range(draws):
        redrawn = [rng.choices(values, k=len(values)) for values in strata]
        found.append(statistic([x for values in redrawn for x in values]))
    found.sort()
    return found[int(0.025 * draws)], found[int(0.975 * draws) - 1]


def student(values):
    """(mean, half the width of its 95% interval); the width is None for a single value."""
    n = len(values)
    if n < 2:
        return mean(values), None
    t = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96
    return mean(values), t * stdev(values) / n**0.5


def paired(ours, theirs):
    """ours, theirs {seed: value} -> (mean difference, half width, seeds) over the seeds of both.

    >>> paired({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.5, 2: 0.9})[2]
    2
    """
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None, None, 0
    return *student([ours[seed] - theirs[seed] for seed in both]), len(both)
