from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from arrays_in import prepare
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated import weights
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.weights import (
    LAMBDA_HAADF,
    LAMBDA_TV,
    Search,
    choose_apart,
    choose_weights,
    deviance,
    folds,
    weigh,
)
from hyperspy_fusion.core.common.threads import Workers


def counts_with_gaps(seed=0, shape=(2, 40, 50)):
    rng = np.random.default_rng(seed)
    data = rng.poisson(20, shape).astype(float)
    data[:, 3:6, 7:9] = np.nan
    return data


# Folds


def test_halves_of_counts():
    data = counts_with_gaps()
    one, other, *more = folds(data, 0, counts=True)
    assert len(more) == 2  # a second split of a small image
    known = np.isfinite(data)
    for fold, mirror in ((one, other), (other, one)):
        assert fold.share == 0.5
        assert_array_equal(fold.data + fold.target, data)
        assert_array_equal(fold.data, mirror.target)
        assert_array_equal(np.isfinite(fold.data), known)
        assert_array_equal(np.isfinite(fold.target), known)
        assert (fold.data[known] >= 0).all()
        assert_array_equal(fold.data[known] % 1, 0)


def test_halves_of_counts_are_independent_measurements_of_half_the_dose():
    # halves of Poisson counts of mean 20: each of mean and variance 10, uncorrelated
    data = np.random.default_rng(0).poisson(20, (1, 300, 300)).astype(float)
    fold = folds(data, 1, counts=True)[0]
    assert_allclose([fold.data.mean(), fold.target.mean()], 10, rtol=0.01)
    assert_allclose([fold.data.var(), fold.target.var()], 10, rtol=0.02)
    correlation = np.corrcoef(fold.data.ravel(), fold.target.ravel())[0, 1]
    assert abs(correlation) < 0.015


def test_hidden_pixels():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(3, 60, 70))
    data[0, :5] = np.nan
    times_hidden = np.zeros(data.shape, dtype=int)
    for fold in folds(data, 0, counts=False):
        assert fold.share == 1
        shown, hidden = np.isfinite(fold.data), np.isfinite(fold.target)
        assert_array_equal(shown ^ hidden, np.isfinite(data))
        assert not (shown & hidden).any()
        assert_array_equal(fold.data[shown], data[shown])
        assert_array_equal(fold.target[hidden], data[hidden])
        assert_allclose(hidden.sum() / np.isfinite(data).sum(), 0.2, atol=0.02)
        # each map has its own hidden pixels
        assert_allclose(np.mean(hidden[1] & hidden[2]), 0.04, atol=0.01)
        times_hidden += hidden
    assert times_hidden.max() == 1


@pytest.mark.parametrize("counts", [True, False])
def test_folds_depend_on_the_seed_alone(counts):
    data = counts_with_gaps()
    first, again, other = (folds(data, seed, counts=counts)[0] for seed in (3, 3, 4))
    assert_array_equal(first.data, again.data)
    assert_array_equal(first.target, again.target)
    assert (np.nan_to_num(first.data) != np.nan_to_num(other.data)).any()
    assert_array_equal(data, counts_with_gaps())  # not changed


# Weights


class Bowl:
    """A score with a known minimum, the same in all blocks but for some noise."""

    def __init__(self, lambda_tv, lambda_haadf, *, depth=1.0, noise=0.01, n_blocks=25):
        self.best = np.log(lambda_tv), lambda_haadf
        self.depth = depth
        self.noise = noise * np.random.default_rng(0).normal(size=(50, n_blocks))
        self.asked = []

    def __call__(self, lambda_tv, lambda_haadf):
        self.asked.append((lambda_tv, lambda_haadf))
        place, mu = self.best
        away = np.log(lambda_tv) - place
        score = 10 + away**2 + self.depth * abs(lambda_haadf - mu)
        return score + self.noise[len(self.asked) % 50]


@pytest.mark.parametrize("place", [0.9, 3.1, 4.0, 7.7, 18.0])
@pytest.mark.parametrize("mu", [m for m in LAMBDA_HAADF if m > 0])
def test_finds_the_minimum(place, mu):
    score = Bowl(place, mu, noise=1e-6)
    found = choose_weights(score)
    assert found.lambda_haadf == mu
    assert_allclose(found.lambda_tv, place, rtol=0.02)
    assert len(score.asked) == len(set(score.asked)) == len(found.tried)
    assert len(score.asked) < len(LAMBDA_TV) * len(LAMBDA_HAADF) / 2
    for lambda_tv, lambda_haadf, value in found.tried:
        away = (np.log(lambda_tv) - np.log(place)) ** 2
        assert_allclose(value, 10 + away + abs(lambda_haadf - mu), rtol=1e-6)
    assert_array_equal(found.tried, found.tried[np.lexsort(found.tried.T[1::-1])])


@pytest.mark.parametrize(("place", "end"), [(1e-3, 0), (1e3, -1)])
def test_minimum_beyond_the_grid(place, end):
    assert choose_weights(Bowl(place, 0.1)).lambda_tv == LAMBDA_TV[end]


def test_given_lambda_tv():
    for given_tv in (3.3, 4.0, 1e-3):
        score = Bowl(8.0, 0.3)
        found = choose_weights(score, lambda_tv=given_tv)
        assert found.lambda_tv == given_tv
        assert found.lambda_haadf == 0.3
        assert {lambda_tv for lambda_tv, _ in score.asked} == {given_tv}


@pytest.mark.parametrize("given_mu", [0.0, 0.02, 5.0])
def test_given_lambda_haadf(given_mu):
    score = Bowl(8.0, 0.3)
    found = choose_weights(score, lambda_haadf=given_mu)
    assert found.lambda_haadf == given_mu
    assert np.isnan(found.gain)
    assert_allclose(found.lambda_tv, 8, rtol=0.05)
    assert {mu for _, mu in score.asked} == {given_mu}


def test_both_given():
    score = Bowl(8.0, 0.3)
    found = choose_weights(score, lambda_tv=2.0, lambda_haadf=0.7)
    assert (found.lambda_tv, found.lambda_haadf) == (2.0, 0.7)
    assert score.asked == []
    assert found.tried.shape == (0, 3)


@pytest.mark.parametrize("best", [0.003, 0.01])
def test_lowest_lambda_haadf_is_taken_where_it_is_better_for_sure(best):
    def score(lambda_tv, lambda_haadf):
        away = abs(np.log(max(lambda_haadf, 1e-5) / best))
        noise = np.random.default_rng(int(1e5 * lambda_haadf)).normal(size=25)
        return 10 + np.log(lambda_tv / 8) ** 2 + 0.1 * away + spread * noise

    spread = 1e-3
    assert choose_weights(score).lambda_haadf == best
    spread = 1.0
    assert choose_weights(score).lambda_haadf not in (0.003, 0.01)


def test_image_that_does_not_help():
    found = choose_weights(Bowl(8.0, 0.0))
    assert (found.lambda_haadf, found.gain) == (0, 0)
    assert_allclose(found.lambda_tv, 8, rtol=0.05)


def test_image_that_helps_by_chance():
    # much less gain than noise from block to block
    found = choose_weights(Bowl(8.0, 0.1, depth=0.01, noise=0.1))
    assert found.lambda_haadf == 0
    assert found.gain < 2
    # as much in each block, but far above the noise
    found = choose_weights(Bowl(8.0, 0.1, depth=0.01, noise=1e-4))
    assert found.lambda_haadf == 0.1
    assert found.gain > 2


def test_gain_is_in_standard_deviations():
    differences = np.array([1.0, 2.0, 3.0, 0.0])

    def score(lambda_tv, lambda_haadf):  # noqa: ARG001
        return 10 + differences * (lambda_haadf == 0) + (lambda_haadf > 0.1)

    gain = choose_weights(score, lambda_tv=1.0).gain
    assert_allclose(gain, 6 / (2 * differences.std()), rtol=1e-12)


def test_without_image_lambda_tv_is_that_without_image():
    # other λ with and without the image, which is worth nothing
    def score(lambda_tv, lambda_haadf):
        place = 2.0 if lambda_haadf > 0 else 11.2
        noise = np.random.default_rng(int(1e3 * lambda_haadf)).normal(size=30)
        return 10 + np.log(lambda_tv / place) ** 2 + noise

    found = choose_weights(score)
    assert found.lambda_haadf == 0
    assert_allclose(found.lambda_tv, 11.2, rtol=0.02)


def refined(grid, position, total):
    """λ near a position, from the score of each position."""
    scores = {value: np.array([total(i)]) for i, value in enumerate(grid)}
    return Search(lambda value, _: scores[value], grid).refined(position, 0.1)


@given(
    place=st.floats(0.3, 2.2),
    depth=st.floats(0.1, 10),
    floor=st.floats(-5, 5),
)
def test_refined_is_the_vertex_of_a_parabola(place, depth, floor):
    grid = np.exp(np.arange(6) * 0.5)

    def total(i):
        return floor + depth * (np.log(grid[i]) - place) ** 2

    nearest = min(range(6), key=total)
    assert_allclose(np.log(refined(grid, nearest, total)), place, atol=1e-6)


def test_refined_stays_between_its_neighbours():
    grid = (1.0, 2.0, 4.0)
    assert refined(grid, 0, lambda _: 5.0) == 1
    assert refined(grid, 2, lambda _: 5.0) == 4
    assert refined(grid, 1, lambda _: 5.0) == 2  # flat
    assert_allclose(refined(grid, 1, [2.0, 1.0, 1.0].__getitem__), 2 * np.sqrt(2))


# Blocks


def test_images_with_different_numbers_of_folds_count_alike(monkeypatch):
    rng = np.random.default_rng(1)
    counts = rng.poisson(3.0, (1, 200, 200)).astype(float)
    haadf = rng.normal(100, 1, (200, 200))
    images = []
    for maps in (counts, counts + rng.normal(0, 1, counts.shape)):
        prepared = prepare(maps, haadf, CalibratedOptions()).prepared
        images.append(replace(prepared, coefficients=np.ones(1), offset=0.0))
    assert [len(weights.held_out(image, 0)) for image in images] == [2, 4]
    flat = SimpleNamespace(maps=np.full(counts.shape, 3.0))
    monkeypatch.setattr(weights, "minimise", lambda *_, **__: flat)
    found = []

    def choose(score, *_):
        found.append(score(4.0, 0.1))
        return choose_weights(None, 4.0, 0.1)

    monkeypatch.setattr(weights, "choose_weights", choose)
    for some in (images[:1], images[1:], images):
        weigh(some, Workers(), seed=0)
    one, other, both = found
    assert_allclose(both, np.concatenate([2 * one, other]))


def test_what_the_choice_says_about_the_data():
    def messages(place, mu, **given):
        return choose_weights(Bowl(place, mu), **given).warnings

    assert messages(4.0, 0.1) == ()
    (unused,) = messages(4.0, 0.0)
    assert unused.startswith("the HAADF image was not used")
    (low,), (high,) = messages(0.1, 0.1), messages(500.0, 0.1)
    assert low.startswith("lambda_tv=0.7 was chosen, the lower end")
    assert high.startswith("lambda_tv=22.4 was chosen, the upper end")
    assert messages(4.0, 0.0, lambda_haadf=0.0) == ()
    assert messages(500.0, 0.1, lambda_tv=22.4) == ()


# Norms


def scores_of(gains):
    """Scores of 25 blocks that fall by the gains of the elements apart."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (2, 25))
    asked = []

    def score(apart):
        asked.append(apart)
        by = [
            sum(g[k] for g, one in zip(gains, apart, strict=True) if one)
            for k in (0, 1)
        ]
        return 10 - np.reshape(by, (2, 1)) * (1 + noise)

    return score, asked


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([(1, 1), (-1, -1), (-1, -1)], (True, False, False)),
        ([(1, 1), (2, 2), (-1, -1)], (True, True, False)),
        ([(-0.1, 1), (-1, 1), (0, -1)], ()),  # squares or deviance get worse
        ([(0, 0), (0, 0), (0, 0)], ()),
    ],
)
def test_elements_with_a_norm_of_their_own(gains, expected):
    score, asked = scores_of(gains)
    assert choose_apart(score, 3) == expected
    assert len(asked) == len(set(asked))
    assert choose_apart(score, 1) == ()


def test_deviance():
    prepared = SimpleNamespace(
        bins=None,
        variance=None,
        pedestal=np.array([0.5]),
        background=np.full((1, 1, 1), 0.1),
    )
    maps, target = np.array([[[1.0, 2.0]]]), np.array([[[0.0, 3.0]]])
    expected, found = maps + 0.6, target + 0.5
    wanted = expected - found + found * np.log(found / expected)
    assert_allclose(deviance(prepared, maps, target, 1.0), wanted)
    values = SimpleNamespace(bins=None, variance=np.array([[[2.0, 4.0]]]))
    assert_allclose(deviance(values, maps, target, 1.0), [[[0.25, 0.125]]])
