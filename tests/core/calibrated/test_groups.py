import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated.groups import (
    REACH,
    Chemistry,
    features,
    neighbours,
    shared,
)
from hyperspy_fusion.core.common.threads import workers


@pytest.fixture(params=[1, 2])
def run(request):
    with workers(request.param) as threads:
        yield threads


def by_definition(data, near, chemistry):
    """The mean over all that corresponds, written as its formula."""
    n, n_y, n_x = data.shape
    one, other = chemistry.limits

    def alike(t, r, limit):
        d = np.abs(
            chemistry.level[(slice(None), *t)] - chemistry.level[(slice(None), *r)]
        )
        v = (
            chemistry.variance[(slice(None), *t)]
            + chemistry.variance[(slice(None), *r)]
        )
        return (d <= limit * np.sqrt(v)).all()

    places = list(np.ndindex(n_y, n_x))
    found = [[] for _ in places]
    around = range(-REACH, REACH + 1)
    for p, own in enumerate(places):
        for q in near[p]:
            member = places[q]
            if q != p and not alike(own, member, one):
                continue
            for dy, dx in np.ndindex(len(around), len(around)):
                t = own[0] + dy - REACH, own[1] + dx - REACH
                r = member[0] + dy - REACH, member[1] + dx - REACH
                inside = all(
                    0 <= a < b for a, b in zip((*t, *r), (n_y, n_x) * 2, strict=True)
                )
                if inside and (t == own or alike(t, r, other)):
                    found[t[0] * n_x + t[1]].append(data[(slice(None), *r)])
    means = [np.nanmean(each, axis=0) for each in found]
    return np.reshape(means, (n_y, n_x, n)).transpose(2, 0, 1)


def test_shared_data_are_the_mean_of_all_that_corresponds(run):
    rng = np.random.default_rng(0)
    data = rng.poisson(3, (2, 7, 9)).astype(float)
    data[1, 2, 3] = np.nan
    chemistry = Chemistry(
        level=rng.normal(size=data.shape).astype(np.float32),
        variance=np.full(data.shape, 0.1, np.float32),
        limits=(3.0, 4.0),
    )
    near = np.stack([rng.permutation(63)[:8] for _ in range(63)]).astype(np.int32)
    near[:, 0] = np.arange(63)
    found, size = shared(data, near, 8, chemistry, run)
    assert_allclose(found, by_definition(data, near, chemistry), rtol=1e-5)
    assert 1 < size < 8


def test_threads_do_not_matter():
    rng = np.random.default_rng(1)
    data = rng.poisson(3, (3, 120, 100)).astype(float)
    chemistry = Chemistry.of(data, data[:, ::-1], (3.0, 5.0))
    near = rng.integers(data[0].size, size=(data[0].size, 4)).astype(np.int32)
    found = []
    for n in (1, 2):
        with workers(n) as run:
            found.append(shared(data, near, 4, chemistry, run)[0])
    assert_array_equal(*found)


def test_neighbours_are_at_the_same_place_of_the_unit_cell(run):
    y, x = np.mgrid[:48, :48]
    image = np.cos(2 * np.pi * y / 8) + np.cos(2 * np.pi * x / 12)
    points = features(image, np.full(image.shape, 0.1), image[None], np.array([0.1]), 0)
    near = neighbours(points, 4, run, 0)
    assert_array_equal(near[:, 0], np.arange(48 * 48))
    inner = near.reshape(48, 48, 4)[12:-12, 12:-12]
    v, u = np.unravel_index(inner[..., 1:], (48, 48))
    away = [
        (v - y[12:-12, 12:-12, None]) % 8,
        (u - x[12:-12, 12:-12, None]) % 12,
    ]
    # symmetric places are alike, too
    assert (np.minimum(away[0], 8 - away[0]) <= 1).mean() > 0.4
    assert np.ptp(image.ravel()[inner], axis=-1).max() < 0.05
