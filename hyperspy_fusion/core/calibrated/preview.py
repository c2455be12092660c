"""Fused maps of a part of an image, fast enough to follow a slider."""

from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from ..common.threads import workers
from .convex.iteration import restart
from .convex.problem import Problem
from .convex.solver import minimise
from .convex.sweep import State
from .given import Chemistry, Pixels
from .method import Decision, decide, understand
from .options import CalibratedOptions
from .prepare import PreparedData
from .sample import busiest

SIZE = 256  # pixels a side of the part, at most
_ITERATIONS = 25  # between two certificates
_GOOD, _SECONDS = 0.01, 0.09  # gap at which a preview is shown, time in which it is


@dataclass(frozen=True, kw_only=True)
class Previewed:
    """Fused maps for some weights.

    Attributes
    ----------
    maps : numpy.ndarray
        In the units of the measured maps, shape ``(n_elements, y, x)``.
    haadf : float
        Mean square of the HAADF image minus its model, in units of its noise.
    deviance : float
        Poisson deviance of a pixel of a map, in the mean; of values with a variance
        their mean square residual in units of the noise.
    gap : float
        Relative gap of the certificate.
    """

    maps: np.ndarray
    haadf: float
    deviance: float
    gap: float


@dataclass(kw_only=True)
class Preview:
    """A part of an image, calibrated with the whole of it.

    Attributes
    ----------
    window : tuple of slice
        Rows and columns of the part in the image.
    decision : Decision
        Calibration and weights of the whole image.
    prepared : PreparedData
        The data of the part.
    options : CalibratedOptions
        The options.
    num_workers : int or None
        Number of threads; by default Numba's setting.
    """

    window: tuple[slice, slice]
    decision: Decision
    prepared: PreparedData
    options: CalibratedOptions
    num_workers: int | None = None
    _last: tuple[Problem, State] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        pixels: Pixels,
        chemistry: Chemistry,
        options: CalibratedOptions,
        num_workers: int | None = None,
    ) -> "Preview":
        """Calibrate an image, and keep the part of it with the highest signal."""
        with workers(num_workers) as run:
            preparation, prior, further = understand(
                pixels, chemistry, options, run=run
            )
            decision, prepared = decide(
                preparation, prior, options, run, further=further
            )
        rows, columns = window = busiest(prepared.net(), SIZE)
        return cls(
            window=window,
            decision=decision,
            prepared=prepared.cut(lambda array: array[..., rows, columns].copy()),
            options=options,
            num_workers=num_workers,
        )

    def solve(self, lambda_tv: float, lambda_haadf: float) -> Previewed:
        """Fuse the part with some weights, starting from the last solution.

        The iteration ends within a tenth of a second; the same weights again continue.
        """
        end = perf_counter() + _SECONDS
        weights = replace(
            self.decision.weights, lambda_tv=lambda_tv, lambda_haadf=lambda_haadf
        )
        decision = replace(self.decision, weights=weights)
        with workers(self.num_workers) as run:
            problem, start = decision.last_problem(self.prepared, run), None
            if self._last is not None:
                before, start = self._last
                restart(start, before, problem)
            while True:
                begun = perf_counter()
                optimum = minimise(
                    problem,
                    run,
                    tolerance=self.options.tolerance,
                    max_iter=_ITERATIONS,
                    start=start,
                )
                start, now = optimum.state, perf_counter()
                # another round would take as long
                if optimum.gap <= _GOOD or now + (now - begun) > end:
                    break
        self._last = problem, optimum.state
        haadf, chemical, *_ = optimum.history[-1][1]
        count_value = decision.units.count_value.astype(np.float32)
        known = np.count_nonzero(np.isfinite(self.prepared.data))
        seen = np.count_nonzero(self.prepared.trusted)
        return Previewed(
            maps=optimum.maps * count_value[:, None, None],
            haadf=2 * haadf / max(seen, 1),
            deviance=2 * chemical / max(known, 1),
            gap=optimum.gap,
        )
