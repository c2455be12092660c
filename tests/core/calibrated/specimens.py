"""Small simulated specimens that the tests of this room share."""

import numpy as np


def discs(n_y=32, n_x=32, n_elements=2, counts=4.0, seed=0):
    """Poisson counts of discs and a HAADF image, with the expected counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n_y, :n_x]
    truth = np.stack(
        [
            counts
            * (
                np.hypot(
                    y - rng.uniform(0.3, 0.7) * n_y, x - rng.uniform(0.3, 0.7) * n_x
                )
                < 0.25 * min(n_y, n_x)
            )
            for _ in range(n_elements)
        ]
    )
    atomic_numbers = np.linspace(79, 8, n_elements).round().astype(int)
    haadf = np.tensordot(atomic_numbers**1.7, truth, axes=1)
    haadf = rng.poisson(2000 * (haadf / haadf.max() + 0.1)) * 3.7 + 500
    return rng.poisson(truth).astype(float), haadf, atomic_numbers, truth


def wedge(n, counts=10.0, seed=0):
    """Counts of two elements on a wedge without vacuum, with image and truth.

    Both elements have the same coefficient, and the image the offset 300.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n, :n] / n
    thickness = 0.4 + 1.2 * x
    share = 0.5 + 0.4 * np.tanh(8 * (y - 0.5 + 0.2 * np.sin(9 * x)))
    truth = counts * thickness * np.stack([share, 1 - share])
    haadf = rng.normal(300 + 100 * truth.sum(axis=0), 10)
    return rng.poisson(truth).astype(float), haadf, truth


def fractions_of(maps):
    """Shares of the sum of maps; NaN where it is 0."""
    total = maps.sum(axis=0)
    return np.where(total > 0, maps / np.where(total > 0, total, 1), np.nan)
