"""Whether the HAADF image is linear in the maps, or only a power of it."""

import numpy as np
from scipy.ndimage import convolve
from scipy.optimize import minimize_scalar, nnls

from .prepare import PreparedData

_GROUPS, _LEAST_PIXELS = 24, 100  # groups of equally bright pixels, pixels of each
_WIDTH, _REACH = 1.0, 2  # of the Gaussian over the neighbours, pixels
_PASSES = 10  # of the weights of the fit
_POWERS = 0.25, 4.0
_RANGE = 0.001, 0.999  # quantiles of the image that become 0 and 1
# Mean squared misfit below which a power explains the image, how much larger that of
# the image itself is then, how much less the sum of squares is (five standard
# deviations of one parameter), and the least power, or its inverse, of a warning.
_EXPLAINED, _WORSE, _LESS, _LEAST_POWER = 3.0, 2.0, 25.0, 1.3


def linear_power(prepared: PreparedData) -> float:
    r"""Power p of the HAADF image h that is linear in the maps.

    In each group of equally bright pixels the means have to agree,

    .. math:: \overline{h^p} = o + \sum_i c_i \overline{(b_i - β_i)}, \quad c_i \ge 0.

    The noise does not bias them, since pixels are put into groups by the brightness of
    their neighbours and not by their own. That of the right side is known, so that the
    squared misfit tells whether the equation holds, whatever the specimen.

    Parameters
    ----------
    prepared : PreparedData
        The maps, whose noise is independent, and an image that is not displaced against
        them.

    Returns
    -------
    float
        1 if the image is linear, if no power of it is, or if there are too few pixels
        or too many maps to tell.
    """
    known = np.isfinite(prepared.data).all(axis=0) & (prepared.trusted > 0)
    free = _GROUPS - len(prepared.data) - 1  # numbers that the fit leaves
    if known.sum() < _GROUPS * _LEAST_PIXELS or free < _GROUPS / 2:
        return 1.0
    image = np.asarray(prepared.haadf, np.float64)
    image = np.where(known, image, image[known].mean())
    low, high = np.quantile(image[known], _RANGE)
    if not low < high:
        return 1.0
    image = np.clip((image - low) / (high - low), 0, None)
    x = np.arange(-_REACH, _REACH + 1)
    around = np.exp(-np.add.outer(x**2, x**2) / (2 * _WIDTH**2))
    around[_REACH, _REACH] = 0
    order = np.argsort(convolve(image, around)[known], kind="stable")
    starts = np.linspace(0, order.size, _GROUPS, endpoint=False).astype(int)
    sizes = np.diff(starts, append=order.size)

    def means(pixels: np.ndarray) -> np.ndarray:
        sorted_ = pixels[..., known][..., order].astype(np.float64)
        return np.add.reduceat(sorted_, starts, axis=-1) / sizes

    if prepared.variance is None:  # where nothing was counted it might have been one
        noise = np.maximum(means(prepared.data), 1 / sizes) / sizes
    else:
        noise = means(np.broadcast_to(prepared.variance, prepared.data.shape)) / sizes
    net = means(prepared.net())

    def misfit(log_power: float) -> float:
        return _misfit(means(image ** np.exp(log_power)), net, noise)

    found = minimize_scalar(misfit, bounds=np.log(_POWERS), method="bounded")
    least, of_image = float(found.fun), misfit(0.0)
    if least > _EXPLAINED or of_image < max(_WORSE * least, least + _LESS / free):
        return 1.0
    power = float(np.exp(found.x))
    return power if max(power, 1 / power) > _LEAST_POWER else 1.0


def _misfit(expected: np.ndarray, net: np.ndarray, noise: np.ndarray) -> float:
    """Mean squared misfit of the best linear model, in units of its noise."""
    n, n_groups = net.shape
    constant = np.ones(n_groups)
    columns = np.stack([*net, constant, -constant], axis=1)
    coefficients = np.full(n, np.ptp(expected) / max(np.ptp(net.sum(axis=0)), 1e-9))
    rest = 0.0
    for _ in range(_PASSES):
        scale = 1 / np.sqrt(coefficients**2 @ noise + 1e-8)
        found, rest = nnls(columns * scale[:, None], expected * scale)
        coefficients = (coefficients + found[:n]) / 2
    return float(rest**2 / (n_groups - n - 1))


def power_message(power: float) -> str:
    """What a user has to know of an image that is not linear; empty if it is."""
    if power == 1:
        return ""
    cause = "have been a logarithm, be out of focus, or show what has no map"
    if power < 1:
        cause = "show what has no map, or the maps lose counts where there are many"
    return (
        f"the HAADF image is not linear in the maps, but its power of {power:.2g} is: "
        f"it may have had a gamma correction of {1 / power:.2g}, {cause}. Its contrast "
        "then goes to the wrong elements: pass the image as the detector gave it"
    )
