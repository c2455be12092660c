r"""Operators on images: differences, total variation, sums of products.

Those of the total variation are definitions; the kernels compute the same, and the
tests compare the two.

The gradient takes forward differences, zero at the far edges; its value is

.. math:: TV(u) = \sum_r \sqrt{(∂_y u)_r^2 + (∂_x u)_r^2}.
"""

import numpy as np

BLOCK = 16  # pixels a side at most, of the blocks of an image
_LEAST_ROW = 4  # blocks a side of a square image, at least


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum over all pixels of each image of `a` times each image of `b`.

    BLAS is not used: the last bits of its results depend on its number of threads,
    which differs between the processes of a cluster.
    """
    return np.einsum("ip,jp->ij", a.reshape(len(a), -1), b.reshape(len(b), -1))


def gradient(image: np.ndarray) -> np.ndarray:
    """Forward differences along y, then along x, zero at the far edges.

    Of an array of shape ``(..., y, x)``; returns ``(2, ..., y, x)``.
    """
    out = np.zeros((2, *image.shape), dtype=image.dtype)
    out[0, ..., :-1, :] = np.diff(image, axis=-2)
    out[1, ..., :, :-1] = np.diff(image, axis=-1)
    return out


def gradient_adjoint(field: np.ndarray) -> np.ndarray:
    """Adjoint of :func:`gradient` (minus the divergence)."""
    along_y, along_x = field
    out = np.zeros_like(along_y)
    out[..., :-1, :] -= along_y[..., :-1, :]
    out[..., 1:, :] += along_y[..., :-1, :]
    out[..., :, :-1] -= along_x[..., :, :-1]
    out[..., :, 1:] += along_x[..., :, :-1]
    return out


def total_variation(image: np.ndarray) -> np.ndarray:
    """Isotropic total variation over the last two axes, in float64, shape ``(...)``."""
    differences = gradient(np.asarray(image, dtype=np.float64))
    return np.hypot(*differences).sum(axis=(-2, -1))


def symmetrised_gradient(field: np.ndarray) -> np.ndarray:
    """Symmetrised gradient E of a vector field by backward differences.

    The field is that of an image mirrored at its edges: its normal component is zero
    outside, the tangential one continues. Of (v_y, v_x), shape ``(2, ..., y, x)``, as
    :func:`inner` returns it; returns (∂_y v_y, ∂_x v_x, (∂_y v_x + ∂_x v_y) / 2), shape
    ``(3, ..., y, x)``.
    """
    v_y, v_x = field
    mixed = np.zeros_like(v_y)
    mixed[..., 1:, :] = np.diff(v_x, axis=-2)
    mixed[..., :, 1:] += np.diff(v_y, axis=-1)
    return np.stack(
        [
            np.diff(v_y, axis=-2, prepend=np.zeros_like(v_y[..., :1, :])),
            np.diff(v_x, axis=-1, prepend=np.zeros_like(v_x[..., :, :1])),
            mixed / 2,
        ]
    )


def symmetrised_gradient_adjoint(tensor: np.ndarray) -> np.ndarray:
    """Adjoint of :func:`symmetrised_gradient` on the fields of :func:`inner`.

    The inner product of tensors (q_yy, q_xx, q_xy) counts the mixed component twice, as
    their Euclidean norm does.
    """
    q_yy, q_xx, q_xy = tensor
    out = np.stack([q_yy, q_xx])
    out[0, ..., :-1, :] -= q_yy[..., 1:, :]
    out[1, ..., :, :-1] -= q_xx[..., :, 1:]
    out[0, ..., :, 1:] += q_xy[..., :, 1:]
    out[0, ..., :, :-1] -= q_xy[..., :, 1:]
    out[1, ..., 1:, :] += q_xy[..., 1:, :]
    out[1, ..., :-1, :] -= q_xy[..., 1:, :]
    return inner(out)


def inner(field: np.ndarray) -> np.ndarray:
    """Copy of a vector field with zeros where :func:`gradient` takes no difference."""
    field = np.array(field)
    field[0, ..., -1, :] = 0
    field[1, ..., :, -1] = 0
    return field


def joint_norm(field: np.ndarray) -> np.ndarray:
    """Euclidean norm over directions and elements in each pixel, ``(y, x)``, float64.

    Of gradients, shape ``(2, n_elements, y, x)``, or symmetric tensors, shape
    ``(3, n_elements, y, x)``, whose mixed component counts twice.
    """
    squares = np.square(field, dtype=np.float64).sum(axis=1)
    if len(field) == 3:
        squares[2] *= 2
    return np.sqrt(squares.sum(axis=0))


def total_generalised_variation(
    maps: np.ndarray, slopes: np.ndarray, alpha: float
) -> float:
    r"""Joint second-order total generalised variation for given slopes.

    .. math:: \sum_r |∇u - v|_r + α |E v|_r

    with the Euclidean norm over directions and elements; TGV is its minimum over v (K.
    Bredies, K. Kunisch and T. Pock, SIAM J. Imaging Sci. 3, 492 (2010)); v = 0 gives
    the joint total variation. Slopes v have the shape ``(2, n_elements, y, x)`` and the
    units of the maps u per pixel, see :func:`inner`; α is in pixels.
    """
    first = gradient(np.asarray(maps, dtype=np.float64)) - slopes
    second = symmetrised_gradient(np.asarray(slopes, dtype=np.float64))
    return float(joint_norm(first).sum() + alpha * joint_norm(second).sum())


def block_sums(image: np.ndarray, largest: int = BLOCK) -> np.ndarray:
    """Sums over square blocks of an image, shape ``(n_blocks,)``.

    Blocks have `largest` pixels a side; fewer in a small image, so that there are
    enough to compare.
    """
    side = int(np.clip(np.sqrt(image.size) / _LEAST_ROW, 1, largest))
    n_y, n_x = (-(-size // side) for size in image.shape)
    padded = np.zeros((n_y * side, n_x * side))
    padded[: image.shape[0], : image.shape[1]] = image
    return padded.reshape(n_y, side, n_x, side).sum(axis=(1, 3)).ravel()
