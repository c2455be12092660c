"""Small random problems that the tests of the core share."""

import numpy as np
import pytest

from hyperspy_fusion.core.published.forward import PowerModel, element_weights
from hyperspy_fusion.core.published.objective import PublishedObjective


@pytest.fixture
def objective():
    """A published objective of three elements on 7 x 9 pixels."""
    rng = np.random.default_rng(0)
    return PublishedObjective(
        measured=rng.uniform(0, 1, (3, 7, 9)),
        haadf=rng.uniform(0, 1, (7, 9)),
        model=PowerModel(weights=element_weights((66, 21, 8), 1.7), gamma=1.7),
        lambda_haadf=0.4,
        lambda_chem=0.1,
        lambda_tv=0.2,
        epsilon=0.05,
    )
