"""The primal-dual iteration."""

import numpy as np

from ...common.threads import Workers
from .bins import share_bins
from .problem import Problem, for_kernels
from .sweep import State, Steps, empty_seams, iterate, join

# Over-relaxation of the primal-dual iteration (L. Condat, J. Optim. Theory Appl. 158,
# 460 (2013)); below 2. This number and those that follow gave the fewest iterations to
# a gap of 1e-3 on the simulated specimens, with 0.1 to 200 counts and λ of 1.4 to 11.
RELAXATION = 1.7

# Steps of slopes relative to those of maps, of their duals relative to those of the
# gradient, and weight of the flux row.
_SLOPE_STEP = 2.0
_SLOPE_DUAL_STEP = 0.5
FLUX_WEIGHT = 1.0

# Ratio of primal to dual steps, in units of the geometric mean of u and of its noise,
# the distances that the maps may have to go. First larger, which brings the maps near
# the optimum, then smaller, which does so for the certificate: a gap of 1e-3 takes 100
# to 175 iterations instead of 100 to 350 with one ratio. What has not converged after
# many iterations, few counts or maps with holes, gets larger primal steps again. Weak
# regularization wants smaller ones or larger ones, and keeps what it has.
_RATIOS = {0: 0.8, 50: 0.05, 400: 0.2, 1200: 0.8}  # from these iterations on
_LATE, _WEAK = 400, 1.0  # not from there on if the noise of u is less

# Iterations for which counts of spectra are shared out once. With up to 6, errors and
# number of iterations are those of 1, where the sharing takes a third of the time.
_SHARED_FOR = 4


def cold_start(problem: Problem) -> State:
    """State with zero duals at the data, without their background."""
    maps = problem.data
    if problem.poisson:
        maps = maps - problem.background
    missing = np.isnan(maps)
    if missing.any():
        known = np.maximum((~missing).sum(axis=(1, 2), keepdims=True), 1)
        mean = np.nansum(maps, axis=(1, 2), keepdims=True) / known
        maps = np.where(missing, mean, maps)
    u = np.maximum(maps * problem.tv_scale[:, None, None], 0)
    u = np.ascontiguousarray(u, np.float32)
    second = u.shape if problem.alpha is not None else (1, 1, 1)
    v = np.zeros((2, *second), np.float32)
    return State(
        u=u,
        v=v,
        p=np.zeros((2, *u.shape), np.float32),
        q=np.zeros((3, *second), np.float32),
        haadf_dual=np.zeros((len(problem.images), *problem.shape), np.float32),
        flux_dual=problem.scaled_flux_multiplier,
    )


class Iteration:
    """The primal-dual iteration of one problem.

    L. Condat, J. Optim. Theory Appl. 158, 460 (2013), algorithm 3.2 without smooth
    term: over-relaxed primal-dual splitting with the blocks

        K = [[gradient, -1], [0, E], [flux row, 0]]

    whose steps meet ‖Σ^½ K T^½‖ ≤ 1, by ‖gradient‖² ≤ 8 and ‖E‖² ≤ 8.
    """

    def __init__(self, problem: Problem, state: State, run: Workers) -> None:
        self.problem, self.state, self.run = problem, state, run
        self.scaled = problem.scaled()
        self.blocks = run.blocks(state.u.shape)
        self.spectra: tuple | None = None
        if problem.bins is not None:
            mixing, pedestal = problem.bins.mixing, problem.pedestal
            self.spectra = (
                for_kernels(np.nan_to_num(problem.bins.counts)),
                for_kernels(mixing),
                self.scaled.rate,
                for_kernels(pedestal),
                for_kernels(mixing @ pedestal),
            )
        second_order = problem.alpha is not None
        flux_weight = 0.0 if problem.flux is None else FLUX_WEIGHT
        operator = np.array(
            [
                [np.sqrt(8 + flux_weight**2), np.sqrt(_SLOPE_STEP) * second_order],
                [0, np.sqrt(8 * _SLOPE_STEP * _SLOPE_DUAL_STEP) * second_order],
            ]
        )
        self.norm = np.linalg.norm(operator, 2)
        n_elements, n_y, n_x = state.u.shape
        self.edges = np.array([0, *(stop for _, stop in self.blocks)])
        self.seams = empty_seams(len(self.blocks), n_elements, n_x)
        self.row_sums = np.empty((n_elements, n_y))
        # the flux row is flux_weight / √N, its dual is stored times that
        self.flux_factor = flux_weight**2 / (n_y * n_x)
        self.n_done = 0
        self.next_stage()

    def next_stage(self) -> None:
        """Change the ratio of primal to dual steps, if it is time to."""
        late = self.n_done >= _LATE and self.problem.noise < _WEAK
        if self.n_done in _RATIOS and not late:
            self._balance(_RATIOS[self.n_done])

    def _balance(self, ratio: float) -> None:
        ratio *= np.sqrt(self.problem.typical * self.problem.noise)
        self.tau = ratio / self.norm
        self.sigma = 1 / (ratio * self.norm)
        problem = self.problem
        order, ends = problem.norm_groups
        locked = problem.flux_locked
        flux = np.zeros(len(locked))
        if locked.any():
            flux[locked] = (problem.flux * problem.tv_scale)[locked]
        self.steps = Steps(
            u=np.float32(self.tau),
            v=np.float32(self.tau * _SLOPE_STEP),
            p=np.float32(self.sigma),
            q=np.float32(self.sigma * _SLOPE_DUAL_STEP),
            alpha=np.float32(problem.alpha or 1),
            second_order=problem.alpha is not None,
            order=order,
            ends=ends,
            flux=flux,
            flux_dual=self.sigma * self.flux_factor * locked,
        )

    def advance(
        self, n_iter: int = 1, *, relaxation: float = RELAXATION, settle: bool = False
    ) -> None:
        """Advance the state by some iterations.

        To `settle`, the last one is not over-relaxed: then maps are not negative and
        duals meet their bounds.
        """
        n_blocks = len(self.edges) - 1
        usual = np.float32(relaxation)
        last = np.float32(1) if settle else usual
        steps = self.steps
        shared = self.edges, self.row_sums, self.seams

        def sweep(n: int, now: np.float32, blocks: list[tuple[int, int]]) -> None:
            fixed = self.state, self.scaled, steps, usual, now
            self.run(iterate, blocks, *fixed, n, *shared)

        stop = self.n_done + n_iter
        if n_blocks == 1:
            while self.n_done < stop:
                n = stop - self.n_done
                if self.spectra is not None:
                    n = min(n, _SHARED_FOR - self.n_done % _SHARED_FOR)
                self.share()
                self.n_done += n
                sweep(n, last if self.n_done == stop else usual, [(0, 1)])
            return
        each = [(block, block + 1) for block in range(n_blocks)]
        while self.n_done < stop:
            self.share()
            self.n_done += 1
            now = last if self.n_done == stop else usual
            sweep(1, now, each)
            join(self.state, steps, now, *shared)

    def share(self) -> None:
        """Share out the counts of spectra at the present maps, if it is time to."""
        if self.spectra is not None and self.n_done % _SHARED_FOR == 0:
            fixed = self.state.u, *self.spectra, self.scaled.data
            self.run(share_bins, self.blocks, *fixed)


def restart(state: State, old: Problem, new: Problem) -> None:
    """Convert a state in place from one problem to another one of the same pixels.

    Maps stay the same in counts, so that u and v scale with `tv_scale`; p and q keep
    their bounds, `haadf_dual` its units. Both have the same number of images. If the
    flux was locked and is free now, its multipliers become the problem's
    `flux_multiplier`.
    """
    ratio = new.tv_scale / old.tv_scale
    factor = ratio.astype(np.float32)[:, None, None]
    pairs = zip(new.images, old.images, strict=True)
    units = [
        one.unit / other.unit if min(one.weight, other.weight) > 0 else 0
        for one, other in pairs
    ]
    np.multiply(state.u, factor, out=state.u)
    if new.alpha is not None:
        np.multiply(state.v, factor, out=state.v)
    factors = np.array(units, np.float32)[:, None, None]
    np.multiply(state.haadf_dual, factors, out=state.haadf_dual)
    np.divide(state.flux_dual, ratio, out=state.flux_dual)
