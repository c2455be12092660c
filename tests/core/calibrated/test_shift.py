from dataclasses import replace

import numpy as np
import pytest
from known_discs import COEFFICIENTS, OFFSET, PRIOR, discs, measured
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from hyperspy_fusion import data
from hyperspy_fusion.core.calibrated.convex.solver import minimise
from hyperspy_fusion.core.calibrated.shift import (
    Shift,
    aligned,
    far_shift,
    near_shift,
)


def counts_alone(prepared, run):
    return minimise(prepared.problem(4.0, 0.0), run, tolerance=None, max_iter=60).maps


def far(prepared, maps, coefficients=PRIOR):
    """The far displacement of prepared data."""
    model = np.tensordot(coefficients, maps, axes=1)
    return far_shift(prepared.haadf, prepared.trusted / prepared.sigma**2, model)


def found(prepared, maps):
    """The displacement as a fusion finds it."""
    shift = far(prepared, maps)
    return shift + near_shift(aligned(prepared, shift), maps)


def displaced(truth, shift, seed=0):
    """The prepared of a measurement whose image, and not its noise, is displaced."""
    prepared = measured(truth, seed=seed)
    clean = OFFSET + np.tensordot(COEFFICIENTS, truth, axes=1)
    noise = prepared.haadf - clean
    moved = ndimage.shift(clean, shift, order=5, mode="nearest")
    return replace(prepared, haadf=moved + noise), replace(
        prepared, haadf=clean + noise
    )


# --- whole pixels ----------------------------------------------------------------


@pytest.mark.parametrize("shift", [(1, 0), (1, 2), (-3, 1), (-12, -14), (9, 15)])
def test_shift_is_found_and_undone(run, shift):
    prepared = measured(discs(96))
    moved = replace(prepared, haadf=np.roll(prepared.haadf, shift, axis=(0, 1)))
    shifted = found(moved, counts_alone(moved, run))
    assert (shifted.y, shifted.x) == shift
    assert f"({shift[0]}, {shift[1]}) pixels" in shifted.message_of("the image")
    assert "back by whole pixels" in shifted.message_of("the image")
    back = aligned(moved, shifted)
    inside = back.trusted > 0
    assert inside.sum() == (96 - abs(shift[0])) * (96 - abs(shift[1]))
    assert_array_equal(back.haadf[inside], prepared.haadf[inside])


@pytest.mark.parametrize("seed", range(3))
def test_without_a_shift_nothing_is_moved(run, seed):
    prepared = measured(discs(), seed=seed)
    shifted = found(prepared, counts_alone(prepared, run))
    assert (shifted.y, shifted.x) == (0, 0)
    assert not shifted.significant
    assert shifted.message_of("the image") == ""
    assert aligned(prepared, shifted) is prepared


def test_shift_takes_the_trusted_pixels_along():
    prepared = measured(discs())
    trusted = np.ones((64, 64))
    trusted[20, 30] = 0
    back = aligned(replace(prepared, trusted=trusted), Shift(y=2.0, x=-1.0, z=9.0))
    assert back.trusted[18, 31] == 0
    assert_array_equal(back.trusted[-2:], 0)
    assert_array_equal(back.trusted[:, 0], 0)
    assert back.trusted.sum() == 62 * 63 - 1


def test_shift_of_an_image_that_is_not_used():
    prepared = replace(measured(discs()), trusted=np.zeros((64, 64)))
    assert not found(prepared, prepared.net()).significant
    tiny = measured(discs(3))
    assert not found(tiny, tiny.net()).significant


def test_far_shift_of_a_large_image_is_found_on_coarse_pixels():
    prepared = measured(discs(512))
    moved = replace(prepared, haadf=np.roll(prepared.haadf, (-70, -90), axis=(0, 1)))
    shifted = far(moved, moved.net())
    assert_allclose((shifted.y, shifted.x), (-70, -90), atol=2)
    assert not far(prepared, prepared.net()).significant


# --- lattices --------------------------------------------------------------------

_LATTICE = np.array([66.0, 21.0, 8.0]) ** 1.7  # what is expected of Dy, Sc and O


def lattice(shift, counts=1.0, seed=1, size=64):
    """Maps of a lattice with a period of 16 pixels, and its displaced image."""
    maps, haadf, _ = data.lattice(size, counts=counts, seed=seed)
    maps = ndimage.gaussian_filter([m.data for m in maps], (0, 1.5, 1.5))
    image = np.roll(haadf.data, shift, axis=(0, 1))
    return image, np.ones_like(image), np.tensordot(_LATTICE, maps, axes=1)


@pytest.mark.parametrize("counts", [0.25, 1.0, 16.0])
def test_a_period_of_a_lattice_is_not_preferred_over_none(counts):
    for seed in range(10):
        assert not far_shift(*lattice((0, 0), counts, seed)).significant


@pytest.mark.parametrize(
    ("shift", "smallest"), [((7, -11), (7, 5)), ((20, 14), (4, -2)), ((0, 5), (0, 5))]
)
def test_of_displacements_that_fit_alike_the_smallest_is_taken(shift, smallest):
    shifted = far_shift(*lattice(shift, counts=4.0))
    assert (shifted.y, shifted.x) == smallest


# --- parts of a pixel ------------------------------------------------------------


@pytest.mark.parametrize("shift", [(0.5, 0.3), (1.5, -2.4), (-7.4, -11.6)])
def test_parts_of_a_pixel_are_found_and_undone(run, shift):
    moved, fixed = displaced(4 * discs(96), shift)
    shifted = found(moved, counts_alone(moved, run))
    assert_allclose((shifted.y, shifted.x), shift, atol=0.1)
    assert "interpolated by cubic splines" in shifted.message_of("the image")
    back = aligned(moved, shifted)
    inside = back.trusted > 0
    assert inside.sum() == np.prod(96 - np.ceil(np.abs(shift)))
    whole = aligned(moved, Shift(y=round(shift[0]), x=round(shift[1])))
    difference = ndimage.gaussian_filter(
        [back.haadf - fixed.haadf, whole.haadf - fixed.haadf], (0, 1, 1)
    )[:, inside]
    assert difference[0].std() < 0.6 * difference[1].std()
    assert_array_equal(back.sigma, moved.sigma)  # all the same here


def test_parts_of_a_pixel_need_trusted_pixels_on_both_sides():
    prepared = measured(discs())
    trusted = np.ones((64, 64))
    trusted[20, 30] = 0
    back = aligned(replace(prepared, trusted=trusted), Shift(y=0.4, x=-1.0, z=9.0))
    assert_array_equal(np.argwhere(back.trusted[:-1, 1:] == 0), [(19, 30), (20, 30)])
    assert_array_equal(back.trusted[-1], 0)
    assert_array_equal(back.trusted[:, 0], 0)


def test_the_end_of_the_near_search_is_no_displacement(run):
    moved, _ = displaced(discs(), (7, 0))
    assert near_shift(moved, counts_alone(moved, run)) == Shift()
