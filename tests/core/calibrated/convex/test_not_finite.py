"""A number that is not finite is an error, never called converged."""

from dataclasses import replace

import numpy as np
import pytest
from problems import make_problem

from hyperspy_fusion.core.calibrated.convex.solver import minimise
from hyperspy_fusion.core.common.threads import Workers

FIELDS = (
    "background",
    "pedestal",
    "variance",
    "haadf",
    "haadf_precision",
    "coefficients",
    "tv_scale",
    "flux",
)


@pytest.mark.parametrize("tolerance", [1e-3, None])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", FIELDS)
def test_a_number_that_is_not_finite(field, value, tolerance):
    if (field, value) == ("flux", np.inf):
        return  # a free flux
    problem = make_problem(poisson=field != "variance")
    array = getattr(problem, field).astype(float).copy()
    array.flat[-1] = value
    spoilt = replace(problem, **{field: array})
    with pytest.raises(FloatingPointError, match="not finite: maps, HAADF"):
        minimise(spoilt, Workers(), tolerance=tolerance, max_iter=30)


@pytest.mark.parametrize("tolerance", [1e-3, None])
def test_infinite_data(tolerance):
    problem = make_problem()
    data = problem.data.copy()
    data[0, 3, 4] = np.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        minimise(
            replace(problem, data=data), Workers(), tolerance=tolerance, max_iter=5
        )
