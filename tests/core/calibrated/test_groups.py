from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperspy_fusion.core.calibrated import groups
from hyperspy_fusion.core.calibrated.groups import (
    REACH,
    STEP,
    Groups,
    LocalChemistry,
    Looks,
    grid,
    neighbours,
    repetition,
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
        # compared a little inside, where means are whole
        d = [min(max(a, 2), b - 3) - a for a, b in zip(t, (n_y, n_x), strict=True)]
        t, r = (tuple(np.add(place, d)) for place in (t, r))
        if min(r) < 0 or r[0] >= n_y or r[1] >= n_x:
            return False
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
    for own in places:
        if any(n % STEP for n in own):
            continue
        for q in near[own[0] // STEP, own[1] // STEP]:
            member = places[q]
            if member != own and not alike(own, member, one):
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
    chemistry = LocalChemistry(
        level=rng.normal(size=data.shape).astype(np.float32),
        variance=np.full(data.shape, 0.1, np.float32),
        limits=(3.0, 4.0),
    )
    own = grid(data.shape[1:])
    near = np.stack([rng.permutation(63)[:8] for _ in range(own.size)])
    near = near.astype(np.int32).reshape(*own.shape, 8)
    near[..., 0] = own
    found = Groups.of(near.copy(), chemistry, run)
    means = found.mean(data, run)
    assert_allclose(means, by_definition(data, near, chemistry), rtol=1e-5)
    assert 1 < found.size < 8
    for t in np.ndindex(7, 9):
        places, often = found.corresponding(*t)
        each = data[0][tuple(places.T)]
        assert_allclose(np.average(each, weights=often), means[(0, *t)], rtol=1e-5)


def test_threads_do_not_matter():
    rng = np.random.default_rng(1)
    data = rng.poisson(3, (3, 120, 100)).astype(float)
    chemistry = LocalChemistry.of(data, data[:, ::-1], (3.0, 5.0))
    near = rng.integers(data[0].size, size=(60, 50, 4)).astype(np.int32)
    found = []
    for n in (1, 2):
        with workers(n) as run:
            found.append(Groups.of(near.copy(), chemistry, run).mean(data, run))
    assert_array_equal(*found)


def test_neighbours_are_the_nearest(run, monkeypatch):
    """Of the pixel itself and a pool, sorted by distance."""
    monkeypatch.setattr(groups, "POOL", 500)
    rng = np.random.default_rng(0)
    haadf, maps = rng.normal(size=(31, 40)), rng.normal(size=(2, 31, 40))
    looks = Looks.of(haadf, np.ones_like(haadf), maps, np.array([1.0, 2.0]), run, 0)
    near = neighbours(looks, 9, run, 0)
    points = looks.at(np.arange(haadf.size), run)
    assert_array_equal(near[..., 0], grid(haadf.shape))
    # at the edges they are those of the nearest whole patch, displaced
    rows, columns = (np.clip(np.arange(0, n, 2), 5, n - 6) for n in haadf.shape)
    near -= grid(haadf.shape)[..., None]
    near += (rows[:, None] * 40 + columns)[..., None]
    near = near.reshape(-1, 9)
    distances = ((points[near] - points[near[:, :1]]) ** 2).sum(axis=2)
    assert (np.diff(distances) >= 0).all()
    pool = np.unique(near[:, 1:])
    assert len(pool) <= 500
    inside = np.zeros(haadf.shape, bool)
    inside[5:-5, 5:-5] = True
    assert inside.ravel()[pool].all()
    for own in near[[0, 77, 319]]:
        others = pool[pool != own[0]]
        d = ((points[others] - points[own[0]]) ** 2).sum(axis=1)
        assert_array_equal(own[1:], others[np.argsort(d)[:8]])


def test_more_neighbours_than_pixels(run):
    image = np.random.default_rng(0).normal(size=(8, 16))
    looks = Looks.of(image, np.ones_like(image), image[None], np.ones(1), run, 0)
    near = neighbours(looks, 64, run, 0)
    whole = np.arange(image.size).reshape(image.shape)[3:5, 5:11].ravel()
    assert_array_equal(np.sort(near[2, 3]), whole)
    assert_array_equal(np.sort(near[0, 0]), whole - whole[0])


def test_principal_components():
    """They hold as much of the variance as those by definition."""
    image = gaussian_filter(np.random.default_rng(0).normal(size=(64, 64)), 1.5)
    with workers(1) as run:
        looks = Looks.of(image, np.full(image.shape, 0.1), image[None], [0.1], run, 0)
        identity = replace(looks, basis=np.eye(len(looks.mean), dtype=np.float32))
        patches = identity.at(np.arange(image.size), run)
        points = looks.at(np.arange(image.size), run)
    patches -= patches.mean(axis=0)
    largest = np.linalg.svd(patches, compute_uv=False)[:16]
    assert_allclose(
        points.var(axis=0).sum() * image.size, (largest**2).sum(), rtol=0.01
    )


def test_neighbours_are_at_the_same_place_of_the_unit_cell(run):
    y, x = np.mgrid[:48, :48]
    image = np.cos(2 * np.pi * y / 8) + np.cos(2 * np.pi * x / 12)
    looks = Looks.of(
        image, np.full(image.shape, 0.1), image[None], np.array([0.1]), run, 0
    )
    near = neighbours(looks, 4, run, 0)
    inner = near[6:-6, 6:-6]
    v, u = np.unravel_index(inner[..., 1:], (48, 48))
    own = slice(12, 36, STEP), slice(12, 36, STEP), None
    away = [(v - y[own]) % 8, (u - x[own]) % 12]
    # symmetric places are alike, too
    assert (np.minimum(away[0], 8 - away[0]) <= 1).mean() > 0.4
    assert np.ptp(image.ravel()[inner], axis=-1).max() < 0.05


def test_the_edges_of_a_crystal_share_as_its_inside(run):
    y, x = np.mgrid[:64, :64]
    heavy = np.cos(np.pi * y / 10) ** 8 * np.cos(np.pi * x / 8) ** 8
    maps = 10 * np.stack([heavy, np.roll(heavy, (5, 4), (0, 1))])
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, maps.shape)
    sigma = np.ones(y.shape)
    looks = Looks.of(maps.sum(axis=0), sigma, maps, np.ones(2), run, 0)
    chemistry = LocalChemistry.of(maps, noise, (3.0, 5.0))
    found = Groups.of(neighbours(looks, 16, run, 0), chemistry, run)
    squares = ((found.mean(maps, run) - maps) ** 2).mean(axis=0)
    inside = squares[1:-1, 1:-1].mean()
    for edge in (squares[0], squares[:, 0], squares[-1], squares[:, -1]):
        assert edge.mean() <= inside
    assert found.size > 12


def lattice_image(shape, period, noise, seed=0):
    y, x = np.indices(shape)
    image = np.cos(2 * np.pi * y / period) * np.cos(2 * np.pi * x / (1.3 * period))
    return 100 + 10 * image + np.random.default_rng(seed).normal(0, noise, shape)


def tilted_edge(size, slope):
    y, x = np.indices((size, size)) / size
    return 1000 / (1 + np.exp(-(x - slope * (y - 0.5) - 0.4) / 0.1))


@pytest.mark.parametrize("shape", [(64, 80), (96, 96), (300, 200)])
def test_repetition_of_a_crystal(shape):
    image = lattice_image(shape, 9.0, 1.0)
    assert repetition(image) > 0.9
    assert_allclose(repetition(image), repetition(7 * image - 50), rtol=1e-6)
    # a slow part of the image, as of a wedge, does not matter
    assert repetition(image + np.linspace(0, 300, shape[1])) > 0.9


def test_repetition_of_tiles_that_do_not_fit():
    tiles = [lattice_image((96, 96), 9.0 + 0.3 * k, 1.0, k) for k in range(4)]
    assert repetition(np.block([tiles[:2], tiles[2:]])) > 0.9


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).normal(size=(96, 96)),
        np.hypot(*(np.indices((128, 128)) - 60)) < 30,
        np.full((64, 64), 3.0),
        np.ones((5, 3)),
        np.linspace(0, 50, 64) + np.random.default_rng(1).normal(size=(64, 64)),
        tilted_edge(50, 0.5),
        tilted_edge(128, 0.7),
    ],
    ids=["noise", "particle", "constant", "tiny", "ramp", "edge", "large edge"],
)
def test_repetition_of_what_is_no_crystal(image):
    assert 0 <= repetition(np.asarray(image, np.float32)) < 0.7
