"""Two models on the same images: is the one worse than the other beyond chance? Pure; knows no model and no image.

Both tests are one-sided, since nobody asks whether the challenger is better: it has only not to be worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.05
MCNEMAR = "exact McNemar test, one-sided"
ERRORS = "sign-flip permutation test and Wilcoxon signed-rank test, one-sided, the smaller chance doubled"

# Signs are drawn so often, or all of them counted out where there are no more; always the same ones.
FLIPS = 9_999
FLIP_SEED = 0
EXACT_FLIPS = 13  # differences: 2**13 ways to sign them
_SIGNS_OF_A_BYTE = 8  # are drawn by one random number, and their sum looked up
_ROUNDING = 1e-12  # of a sum, relative

# Up to here the distribution of the ranks is counted out (2**60 fits an int64), beyond it is as good as normal.
EXACT_PAIRS = 60
# Export allows a graph to be 1e-5 off its Keras model, so that errors nearer than this are equal.
SAME_ERROR = 1e-6
NOT_FINITE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A challenger beside a champion.

    Attributes:
        metric: what `challenger` and `champion` are, on the images compared.
        challenger: its value.
        champion: its value.
        worse: images on which the challenger does worse.
        better: images on which it does better.
        test: the paired test's name.
        p_value: the chance of a difference at least as bad for the challenger, if the two were equally good.
        not_finite: images on which the challenger's error is no finite number and the champion's is.
    """

    metric: str
    challenger: float
    champion: float
    worse: int
    better: int
    test: str
    p_value: float
    not_finite: int = 0

    @property
    def beyond_chance(self) -> bool:
        """Whether the challenger is worse, and chance doesn't explain it: never an error that is no number."""
        if self.not_finite:
            return True
        lower_is_better = self.metric == "mean_squared_error"
        is_worse = self.challenger > self.champion if lower_is_better else self.challenger < self.champion
        return is_worse and self.p_value < LEVEL


def compare_answers(challenger: NDArray[np.bool_], champion: NDArray[np.bool_]) -> Comparison:
    """Two classifiers by which images they got right, bool [rows] each, by the exact McNemar test.

    Only the images count that one of them got right and the other didn't: of equally good models each gets such an
    image by the toss of a coin.
    """
    worse, better = int((champion & ~challenger).sum()), int((challenger & ~champion).sum())
    return Comparison(
        metric="accuracy",
        challenger=float(challenger.mean()),
        champion=float(champion.mean()),
        worse=worse,
        better=better,
        test=MCNEMAR,
        p_value=binomial_tail(worse, worse + better),
    )


def compare_errors(challenger: NDArray[np.floating], champion: NDArray[np.floating]) -> Comparison:
    """Two autoencoders by their error on each image, float [rows] each.

    Two tests, since each is blind to what the other sees: the sign-flip permutation test asks whether the mean error is
    higher, so that few images much worse count for what they are; the signed-rank test asks whether most images are
    worse, whatever outliers do to the mean. The smaller chance counts, doubled since there were two to choose from
    (Bonferroni), so that both together refuse an equally good model no more often than one would.

    An error that isn't finite counts as larger than any other, and where the champion's is finite it needs no test.
    """
    mine, theirs = _finite(challenger), _finite(champion)
    difference = np.where(np.abs(mine - theirs) <= SAME_ERROR, 0.0, mine - theirs)
    chance = min(flipped_signs_tail(difference), signed_rank_tail(difference))
    return Comparison(
        metric="mean_squared_error",
        challenger=float(mine.mean()),
        champion=float(theirs.mean()),
        worse=int((difference > 0).sum()),
        better=int((difference < 0).sum()),
        test=ERRORS,
        p_value=min(1.0, 2 * chance),
        not_finite=int((~np.isfinite(challenger) & np.isfinite(champion)).sum()),
    )


def binomial_tail(heads: int, tosses: int) -> float:
    """The chance of at least so many heads from a fair coin; exact."""
    ways, total = math.comb(tosses, heads), 0
    for count in range(heads, tosses + 1):
        total += ways
        ways = ways * (tosses - count) // (count + 1)
    return total / (1 << tosses)


def flipped_signs_tail(
    differences: NDArray[np.float64], *, flips: int = FLIPS, exact_pairs: int = EXACT_FLIPS
) -> float:
    """The chance of a mean at least as high, if each difference could as well have had the other sign.

    Zeros are dropped. It takes memory for `flips` numbers, and time for flips times differences: of 10,000 images a
    fifth of a second.

    Args:
        differences: float64 [n].
        flips: how many sets of signs are drawn, from a fixed seed; the one that is there counts as one more.
        exact_pairs: up to so many differences all sets of signs are counted out instead.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    # The higher the sum of what has a plus, the higher the mean.
    bound = differences[differences > 0].sum() - _ROUNDING * sizes.sum()
    if len(sizes) <= exact_pairs:
        return float((_sums(sizes) >= bound).mean())
    random, drawn = np.random.default_rng(FLIP_SEED), np.zeros(flips)
    for begin in range(0, len(sizes), _SIGNS_OF_A_BYTE):
        sums = _sums(sizes[begin : begin + _SIGNS_OF_A_BYTE])
        drawn += sums[random.integers(0, len(sums), flips)]
    return (1 + int((drawn >= bound).sum())) / (flips + 1)


def _sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What has a plus, added up, for each way to sign [n] sizes: float64 [2 ** n]."""
    has_plus = np.arange(1 << len(sizes))[:, np.newaxis] >> np.arange(len(sizes)) & 1
    sums: NDArray[np.float64] = has_plus @ sizes
    return sums


def signed_rank_tail(differences: NDArray[np.float64], *, exact_pairs: int = EXACT_PAIRS) -> float:
    """The chance of ranks that lean at least as much to the positive side, if both sides were alike.

    Zeros are dropped, and equal sizes share the mean of their ranks.

    Args:
        differences: float64 [n].
        exact_pairs: up to so many differences, at most 60, the chance is counted out, ties included; beyond, it is the
            normal approximation with its continuity correction.
    """
    counted = differences[differences != 0]
    if not len(counted):
        return 1.0
    ranks = _doubled_ranks(np.abs(counted))
    positive = int(ranks[counted > 0].sum())
    if len(counted) <= exact_pairs:
        ways = np.zeros(int(ranks.sum()) + 1, dtype=np.int64)
        ways[0] = 1
        for rank in ranks.tolist():
            ways[rank:] += ways[:-rank].copy()
        return int(ways[positive:].sum()) / (1 << len(counted))
    middle, spread = ranks.sum() / 2, math.sqrt(float((ranks.astype(np.float64) ** 2).sum())) / 2
    return 0.5 * math.erfc((positive - 1 - middle) / spread / math.sqrt(2))


def _doubled_ranks(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice the rank of each size, so that the mean of tied ranks is a whole number."""
    _, group, members = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(members)
    doubled: NDArray[np.int64] = (2 * last - members + 1)[group].astype(np.int64)
    return doubled


def _finite(errors: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.where(np.isfinite(errors), errors, NOT_FINITE).astype(np.float64)
