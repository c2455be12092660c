"""Weights chosen from the data: how well maps of one part foretell the other.

Counts are split in two halves by a binomial draw, which makes two independent
measurements of half the dose; other data have a part of their pixels hidden.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["LAMBDA_HAADF", "LAMBDA_TV", "Fold", "Weights", "choose_weights", "folds"]

# Steps of √2; μ from no HAADF to all of it. Below 0.03 the scores are too flat to tell
# μ apart: with 0.01 `janus` at 1 count came out 8 % worse than with the best weights.
LAMBDA_TV = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.2, 16.0, 22.4)
LAMBDA_HAADF = (0.0, 0.03, 0.1, 0.3, 1.0)
_FIRST = 4.0, 0.1
_BLOCK = 16  # pixels a side at most, of the blocks whose scores are compared
_LEAST_ROW = 4  # blocks a side of a square image at least
_LARGE = 2**18  # pixels, above which one split of the counts is enough
_HIDDEN = 0.2  # part of the pixels, where the data cannot be split
# Standard deviations of the held-out gain below which the HAADF image is not used.
_LEAST_GAIN = 2.0


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One part of the data to fuse, another to foretell.

    Attributes
    ----------
    data : numpy.ndarray
        To fuse, shape ``(n_elements, y, x)``; NaN where hidden or missing.
    share : float
        Part of the dose in `data`.
    target : numpy.ndarray
        To be foretold, same shape; NaN where there is nothing to compare with.
    """

    data: np.ndarray
    share: float
    target: np.ndarray


def folds(data, seed, *, counts):
    """Split data for cross-validation.

    Parameters
    ----------
    data : numpy.ndarray
        Shape ``(n_elements, y, x)``; NaN where missing.
    seed : int
        Of the random draw.
    counts : bool
        Whether the data are whole numbers of counts, which can be split.

    Returns
    -------
    list of Fold
    """
    rng = np.random.default_rng(seed)
    if counts:
        known = np.nan_to_num(data)
        parts = []
        # One draw of a small image may favour the wrong weights.
        for _ in range(2 if data[0].size < _LARGE else 1):
            half = rng.binomial(known.astype(np.int64), 0.5) + 0 * data
            other = data - half
            parts.append(Fold(data=half, share=0.5, target=other))
            parts.append(Fold(data=other, share=0.5, target=half))
        return parts
    # a stream of its own: pixels may be missing by a draw of the same seed
    hidden = np.random.default_rng([seed, 1]).random(data.shape) < _HIDDEN
    return [
        Fold(
            data=np.where(hidden, np.nan, data),
            share=1.0,
            target=np.where(hidden, data, np.nan),
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights, and what was tried on the way.

    Attributes
    ----------
    lambda_tv : float
        λ.
    lambda_haadf : float
        μ; 0 where the HAADF image does not help.
    gain : float
        Held-out gain of the HAADF image over doing without it, in standard
        deviations; NaN where it was not tried.
    tried : numpy.ndarray
        Rows (λ, μ, score), shape ``(n_tried, 3)``; the score is the mean squared
        error of the prediction in units of the mean count, the smaller the better.
    """

    lambda_tv: float
    lambda_haadf: float
    gain: float
    tried: np.ndarray


def choose_weights(score, lambda_tv=None, lambda_haadf=None):
    """Choose the weights of least score.

    Climbs in λ at a middling μ, then in μ, then in λ again, climbs in λ without the
    HAADF image to see what that is worth, and polishes λ by a parabola.

    Parameters
    ----------
    score : callable
        ``score(lambda_tv, lambda_haadf)`` returns the scores of all blocks, shape
        ``(n_blocks,)``.
    lambda_tv, lambda_haadf : float, optional
        Weights that are given; the other one is then chosen for them.

    Returns
    -------
    Weights
    """
    scores = {}

    def total(weights):
        if weights not in scores:
            scores[weights] = score(*weights)
        return scores[weights].sum()

    grid = LAMBDA_TV if lambda_tv is None else (lambda_tv,)
    mu_grid = LAMBDA_HAADF if lambda_haadf is None else (lambda_haadf,)

    def climb(mu, start):
        position = start
        while True:
            near = [
                i for i in (position - 1, position, position + 1) if 0 <= i < len(grid)
            ]
            best = min(near, key=lambda i: total((grid[i], mu)))
            if best == position:
                return position
            position = best

    start = grid.index(_FIRST[0]) if _FIRST[0] in grid else 0
    mu = _FIRST[1] if lambda_haadf is None else lambda_haadf
    position = climb(mu, start)
    mu = min(mu_grid, key=lambda mu: total((grid[position], mu)))
    position = climb(mu, position)
    gain = np.nan
    if lambda_haadf is None:
        without = climb(0.0, position)
        if mu > 0:
            difference = scores[grid[without], 0.0] - scores[grid[position], mu]
            spread = np.sqrt(difference.size) * difference.std()
            gain = float(difference.sum() / spread) if spread > 0 else 0.0
        else:
            gain = 0.0
        if gain < _LEAST_GAIN:
            mu, position = 0.0, without
    tried = np.array([(*weights, s.mean()) for weights, s in sorted(scores.items())])
    return Weights(
        lambda_tv=_polish(grid, position, lambda i: total((grid[i], mu))),
        lambda_haadf=mu,
        gain=gain,
        tried=tried,
    )


def _polish(grid, position, total):
    """Vertex of the parabola through the best score and its neighbours, in log λ."""
    if not 0 < position < len(grid) - 1:
        return float(grid[position])
    low, middle, high = (total(position + k) for k in (-1, 0, 1))
    bend = low - 2 * middle + high
    shift = np.clip((low - high) / (2 * bend), -0.5, 0.5) if bend > 0 else 0.0
    ratio = np.log(grid[position + 1] / grid[position - 1]) / 2
    return float(grid[position] * np.exp(shift * ratio))


def block_scores(errors):
    """Sum squared errors over square blocks.

    Parameters
    ----------
    errors : numpy.ndarray
        Shape ``(y, x)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_blocks,)``; of 16 x 16 pixels, or less so that a small image has
        some blocks to compare.
    """
    side = int(np.clip(np.sqrt(errors.size) / _LEAST_ROW, 1, _BLOCK))
    n_y, n_x = (-(-size // side) for size in errors.shape)
    padded = np.zeros((n_y * side, n_x * side))
    padded[: errors.shape[0], : errors.shape[1]] = errors
    return padded.reshape(n_y, side, n_x, side).sum(axis=(1, 3)).ravel()
