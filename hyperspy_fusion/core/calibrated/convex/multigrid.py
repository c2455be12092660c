"""Start on coarse pixels, then on ever finer ones."""

import numpy as np

from ...common.compilation import compilers
from .iteration import Iteration, cold_start
from .problem import coarsen
from .sweep import State

_kernel, _part = compilers(fastmath=True)

_COARSEST = 16  # pixels


def prolong(coarse, problem, run):
    """State of the fine problem from a dict of the coarse one, which is emptied."""

    def refine(array, factor=1.0):
        fine = np.empty((*array.shape[:-2], *problem.shape), np.float32)
        run(
            refine_rows,
            run.blocks((1, *problem.shape)),
            array.reshape(-1, *array.shape[-2:]),
            np.float32(factor),
            fine.reshape(-1, *problem.shape),
        )
        return fine

    def refine_field(array, factor=1.0):
        fine = refine(array, factor)
        fine[0, ..., -1, :] = 0  # the gradient takes no difference there
        fine[1, ..., :, -1] = 0
        return fine

    second_order = problem.alpha is not None
    fine = {}
    for name, factor in (("q", 2.0), ("v", 0.25), ("p", 1.0), ("u", 0.5)):
        array = coarse.pop(name)
        if name not in "qv" or second_order:
            array = (refine_field if name in "vp" else refine)(array, factor)
        fine[name] = array
    fine["haadf_dual"] = refine(coarse.pop("haadf_dual"), 0.5)
    return State(**fine, flux_dual=coarse.pop("flux_dual") / 2)


def warm_start(problem, run, n_iter=30):
    """Solve on ever finer pixels: smooth parts converge on the coarse ones."""
    if min(problem.shape) < 2 * _COARSEST:
        return cold_start(problem)
    coarse = coarsen(problem)
    state = warm_start(coarse, run, n_iter)
    Iteration(coarse, state, run).advance(n_iter, settle=True)
    arrays = state._asdict()
    del coarse, state  # frees memory, array by array
    return prolong(arrays, problem, run)


@_kernel
def refine_rows(coarse, factor, fine, start, stop):
    """Rows `start` to `stop` of images interpolated linearly on pixels half as large.

    `coarse` has the shape ``(n_images, y, x)``, `fine` ``(n_images, 2 y, 2 x)``, or one
    row or column more; values are multiplied by `factor`.
    """
    near, far = np.float32(0.75) * factor, np.float32(0.25) * factor
    n_images, n_x = fine.shape[0], fine.shape[2]
    m_y, m_x = coarse.shape[1], coarse.shape[2]
    row = np.empty(m_x, np.float32)
    close, distant = np.float32(0.75), np.float32(0.25)
    for i in range(n_images):
        for y in range(start, stop):
            here = min(y // 2, m_y - 1)
            other = min(max(y // 2 + 2 * (y % 2) - 1, 0), m_y - 1)
            for x in range(m_x):
                row[x] = near * coarse[i, here, x] + far * coarse[i, other, x]
            fine[i, y, 0] = row[0]
            for x in range(m_x - 1):
                fine[i, y, 2 * x + 1] = close * row[x] + distant * row[x + 1]
                fine[i, y, 2 * x + 2] = distant * row[x] + close * row[x + 1]
            for x in range(2 * m_x - 1, n_x):
                fine[i, y, x] = row[m_x - 1]
