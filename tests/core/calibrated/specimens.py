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
