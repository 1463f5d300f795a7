"""Reward functions for train.py --reward experiments/grades.py:NAME.

    exact          1 if the response is the row's answer, letter for letter (path-star), else 0
    half           the verifier of rewards.py, but 0.75 for a right response and 0.25 for a wrong
    exact_half     the same of `exact`
    even           1 if most ASCII characters have an even code: for responses of any length

The halves are the control for flips of whole groups with probability p = 0.25. A flip turns R - V_0
into its negative, so that its expectation is (1 - p - p) (R - V_0) = (R - V_0) / 2. Rewards of 0.75
and 0.25 give R - V_0 this value in every group: the signal that is left, without the noise.
"""

from rewards import score


def exact(response, row):
    return float(response == row["answer"])


def half(response, row):
    return 0.25 + 0.5 * score(response, row["answer"])


def exact_half(response, row):
    return 0.25 + 0.5 * exact(response, row)


def even(response, row):
    codes = [ord(c) for c in response if c.isascii()]
    return float(sum(code % 2 == 0 for code in codes) > len(codes) / 2)
