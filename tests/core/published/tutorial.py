"""The tutorial's algorithm, defects included, to hold the published method against.

Written from what the notebooks of Manassa, Shah et al. (2024) compute, not from how:
the dual is projected component by component (anisotropic); the differences wrap
around at the edges; the last row and column of the dual are dropped; the prox returns
the extrapolated dual's image, not the projected one's.
"""

import numpy as np


def fuse(maps, haadf, atomic_numbers, *, chem, tv, background, n_iter_tv, threshold=0):
    """Maps scaled to [0, 1] after 30 iterations, shape ``(n_elements, y, x)``."""
    start = np.stack([(m - m.min()) / np.ptp(m) for m in np.asarray(maps, float)])
    haadf = (haadf - haadf.min()) / np.ptp(haadf.astype(float))
    z = np.asarray(atomic_numbers, float)
    weights = (z / z.mean()).astype(np.float16).astype(float)[:, None, None]
    x = np.where(start < threshold, 0, start)
    for _ in range(30):
        misfit = (weights * x**1.6).sum(axis=0) - haadf
        slope = 1.6 * x**0.6 * weights * misfit / len(x)
        x = np.maximum(x - slope - chem * (1 - start / (x + background)), 0)
        x = np.stack([denoise(image, tv, n_iter_tv) for image in x])
    return x


def denoise(image, weight, n_iter):
    """The notebooks' total-variation prox of one image."""
    extrapolated = projected = np.zeros((2, *image.shape))
    t = 1
    for _ in range(n_iter):
        x = primal(image, extrapolated, weight)
        steps = np.stack([x - np.roll(x, 1, axis) for axis in (0, 1)])
        raised = extrapolated + steps / (8 * weight)
        new = np.clip(raised, -1, 1)
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        extrapolated = new + (before - 1) / t * (new - projected)
        projected = new
    return primal(image, extrapolated, weight)


def primal(image, dual, weight):
    """Image of a dual whose wrapped edges are dropped, clipped at zero."""
    along_y, along_x = dual.copy()
    along_y[[0, -2, -1]] = 0
    along_x[:, [0, -1]] = 0
    divergence = sum(
        field - np.roll(field, -1, axis)
        for axis, field in enumerate((along_y, along_x))
    )
    return np.maximum(image - weight * divergence, 0)
