"""What the kernels of the certificate compute along a row, in float64."""

import numpy as np

from ...common.compilation import compilers

# NaN and infinity have to be respected.
_, _part = compilers(fastmath={"reassoc", "contract", "nsz"})


@_part
def _dual_field(dual, second_order, i, y, along_y, along_x):
    """Row y of p, or of E* q, zero where the gradient takes no difference."""
    n_y, n_x = dual.shape[2:]
    below = min(y + 1, n_y - 1)
    from_here = 1.0 if y > 0 else 0.0
    from_below = 1.0 if y + 1 < n_y else 0.0
    if not second_order:
        for x in range(n_x):
            along_y[x] = from_below * dual[0, i, y, x]
            along_x[x] = dual[1, i, y, x]
    else:
        for x in range(n_x):
            along_y[x] = np.float64(dual[0, i, y, x]) - dual[0, i, below, x]
            along_x[x] = (
                dual[1, i, y, x]
                + from_here * dual[2, i, y, x]
                - from_below * dual[2, i, below, x]
            )
        for x in range(1, n_x):
            along_y[x] += dual[2, i, y, x]
        for x in range(n_x - 1):
            along_y[x] -= dual[2, i, y, x + 1]
            along_x[x] -= dual[1, i, y, x + 1]
        for x in range(n_x):
            along_y[x] *= from_below
    along_x[n_x - 1] = 0


@_part
def pull_of(dual, second_order, i, y, above, along_y, along_x, pull):
    """Row y of grad* p; `along_y` and `along_x` are row y of p afterwards."""
    n_x = pull.size
    if y > 0:
        _dual_field(dual, second_order, i, y - 1, above, along_x)
    else:
        above[:] = 0
    _dual_field(dual, second_order, i, y, along_y, along_x)
    for x in range(n_x):
        pull[x] = above[x] - along_y[x] - along_x[x]
    for x in range(1, n_x):
        pull[x] += along_x[x - 1]


@_part
def log_of(x):
    """Natural logarithm of a positive number, to two in the last place of float64.

    Unlike the library's, this one is vectorised: exponent by the bits of x, mantissa
    in [sqrt(1/2), sqrt(2)) by the series of the inverse hyperbolic tangent.
    """
    bits = np.float64(x).view(np.int64)
    exponent = (bits - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    mantissa = np.int64(bits - (exponent << np.int64(52))).view(np.float64)
    s = (mantissa - 1) / (mantissa + 1)
    z = s * s
    p = 1 / 19
    p = p * z + 1 / 17
    p = p * z + 1 / 15
    p = p * z + 1 / 13
    p = p * z + 1 / 11
    p = p * z + 1 / 9
    p = p * z + 1 / 7
    p = p * z + 1 / 5
    p = p * z + 1 / 3
    return exponent * 0.6931471805599453 + 2 * (s + s * z * p)


@_part
def deviance_of(b, expected):
    """Half the Poisson deviance, b log(b / expected) - b + expected."""
    known = max(b, 1e-300)  # a branch would not be vectorised
    ratio = expected / known
    deviance = known * (ratio - 1 - log_of(max(ratio, 1e-300)))
    return deviance if b > 0 else expected
