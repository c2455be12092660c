import numpy as np
import pytest
from arrays_in import given, solve
from numpy.testing import assert_allclose

from hyperspy_fusion import data
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.preview import Preview
from hyperspy_fusion.core.calibrated.sample import busiest

Z = 27, 25, 8


@pytest.fixture(scope="module")
def arrays():
    specimen = data.core_shell(48, counts=4)
    maps = np.stack([image.data for image in specimen.maps])
    return {
        "maps": maps,
        "haadf": specimen.haadf.data,
        "atomic_numbers": Z,
        "background": None,
        "variance": None,
    }


def test_previews_approach_the_solution(arrays):
    options = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.1)
    whole = solve(**arrays, options=options)
    preview = Preview.of(*given(**arrays), options)
    preview.solve(20.0, 0.03)  # the way is not remembered
    for _ in range(20):
        found = preview.solve(4.0, 0.1)
        if found.gap <= options.tolerance:
            break
    assert found.gap <= options.tolerance
    scale = whole.maps.max()
    assert_allclose(found.maps, whole.maps, atol=0.02 * scale)
    assert_allclose(found.maps.sum(axis=(1, 2)), whole.maps.sum(axis=(1, 2)), rtol=1e-3)


def test_both_data_are_met_less_with_more_regularisation(arrays):
    options = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.1)
    preview = Preview.of(*given(**arrays), options)
    weak, strong = (preview.solve(tv, 0.1) for tv in (2.0, 60.0))
    assert weak.deviance < strong.deviance
    assert weak.haadf < strong.haadf


def test_previews_of_fractions(arrays):
    maps = arrays["maps"] + 0.1
    maps /= maps.sum(axis=0)
    options = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.1)
    fractions = {**arrays, "maps": maps}
    found = Preview.of(*given(**fractions), options).solve(4.0, 0.1)
    whole = solve(**fractions, options=options).maps

    def distance(one, other):
        return np.linalg.norm(one - other) / np.linalg.norm(other)

    assert distance(found.maps, whole) < 0.2
    assert distance(found.maps, maps) > 0.2


def test_the_busiest_part():
    maps = np.zeros((2, 20, 30))
    maps[0, 3:7, 20:24] = 1
    maps[1, 5, 22] = 100
    maps[1, 0, 0] = np.nan
    rows, columns = busiest(maps, 8)
    assert rows.stop - rows.start == columns.stop - columns.start == 8
    assert rows.start <= 3
    assert rows.stop >= 7
    assert columns.start <= 20
    assert columns.stop >= 24
    assert busiest(maps, 64) == (slice(0, 20), slice(0, 30))
