"""The calibrated method: calibrate, choose the weights, solve, report what to trust."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..common.missing import ERRORS_OF_MISSING, missing_pixels
from ..common.solution import Solution, Status, check_different, check_elastic
from ..common.threads import ALONE, Workers, workers
from .convex.problem import Problem
from .convex.solver import minimise
from .elastic import (
    EXPONENT,
    Found,
    Further,
    barred_for_fractions,
    entries_of,
    examine_further,
)
from .flux import DOUBTFUL
from .given import Chemistry, Pixels
from .groups import repetition
from .guard import GuardReport
from .linearity import linear_power, power_message
from .multinomial import ERRORS_OF_PROPORTIONS, Amounts, Fractions, decide_amounts
from .options import CalibratedOptions
from .prepare import Preparation, PreparedData, Totals, prepare
from .reading import DENOISED, Units
from .sample import mosaic
from .selection import choose_further
from .sharing import Sharing, share_counts
from .shift import Shift, aligned
from .slow import examine_best, slow_message
from .uncertainty import simulations, uncertainty
from .weights import Weights, weigh

HAADF = "the HAADF image"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Results of calibration and choice of weights, without pixels.

    Attributes
    ----------
    units : Units
        Kind and units of the measured data.
    numbers : PreparedData
        Coefficients, model error and scales.
    shift : Shift
        Displacement of the HAADF image against the maps.
    weights : Weights
        λ and μ.
    report : GuardReport
        Where the HAADF image contradicts the maps.
    notes : tuple of str
        What was assumed, for the user.
    background : numpy.ndarray or None
        Counts a pixel that were found in the vacuum, shape ``(n_elements,)``.
    background_note : str
        What was assumed about the background, for the user; or empty.
    flux_multiplier : numpy.ndarray or None
        Of the flux lock of all tiles together, from
        :func:`~hyperspy_fusion.core.calibrated.parts.common_multipliers`.
    undone : Shift
        Displacement that was undone before the image was cut into tiles.
    amounts : Amounts or None
        How amounts are found from fractions; None if the maps are none.
    elastic : tuple of Found
        Further elastic images.
    elastic_tried : numpy.ndarray or None
        The trials of their weights, as of
        :class:`~hyperspy_fusion.core.calibrated.selection.Selection`.
    sharing : Sharing or None
        Whether pixels that look alike share their counts, for all tiles of an image;
        None if that is found for the whole image.
    repetition : float
        Of the HAADF image, from :func:`~.groups.repetition`.
    slow : float
        Fraction of the pixels that contradicted the maps before a slow part of the
        HAADF image was subtracted, 1 for a model error all over it; 0 if none was.
    power : float
        Of the HAADF image, from :func:`~.linearity.linear_power`.
    """

    units: Units
    numbers: PreparedData
    shift: Shift
    weights: Weights
    report: GuardReport
    notes: tuple
    background: np.ndarray | None = None
    background_note: str = ""
    flux_multiplier: np.ndarray | None = None
    undone: Shift = Shift()
    amounts: Amounts | None = None
    elastic: tuple[Found, ...] = ()
    elastic_tried: np.ndarray | None = None
    sharing: Sharing | None = None
    repetition: float = 0.0
    slow: float = 0.0
    power: float = 1.0

    @property
    def undone_of_all(self) -> list[Shift]:
        """Displacements of all images that were undone, that of HAADF first."""
        return [self.undone, *(image.undone for image in self.elastic)]

    def moved_back(self, undone: Sequence[Shift]) -> "Decision":
        """The decision about images that were displaced, HAADF first."""
        first, *others = undone
        elastic = tuple(
            replace(image, undone=shift)
            for image, shift in zip(self.elastic, others, strict=True)
        )
        return replace(self, undone=first, elastic=elastic)

    def image(self, prepared: PreparedData) -> PreparedData | Fractions:
        """These pixels, as fractions if they are such."""
        if self.amounts is None:
            return prepared
        image = Fractions(prepared=prepared, law=self.amounts.law)
        return image.with_norms(self.weights.apart)

    def problem(self, prepared: PreparedData) -> Problem:
        """The convex problem of these pixels."""
        problem = prepared.problem(self.weights.lambda_tv, self.weights.lambda_haadf)
        return replace(problem, flux_multiplier=self.flux_multiplier)

    def warnings(self) -> tuple[str, ...]:
        """What a user has to know."""
        shift = self.undone + self.shift
        rows = self.units.rows
        of_data = [*self.units.warnings, *self.numbers.lock.warnings]
        if rows is not None:
            of_data.append(rows.message)
        if self.background_note == DOUBTFUL:
            of_data.append(DOUBTFUL)
        misfits = [
            shift.message_of(HAADF),
            power_message(self.power),
            slow_message(HAADF, self.slow, self.report.flagged),
            self.report.message_of(HAADF),
        ]
        # Of an image that the guard dropped nothing else is to be said.
        misfits += self.weights.warnings if self.report.flagged < 1 else ()
        if any(misfits) and self.units.estimated:
            misfits.append(DENOISED)
        if self.amounts is not None:
            misfits += self.amounts.warnings
        further = [text for image in self.elastic for text in image.warnings]
        return tuple(filter(None, (*of_data, *misfits, *further)))

    def all_notes(self) -> tuple[str, ...]:
        """What was assumed."""
        background = self.background_note
        if background == DOUBTFUL:  # which is a warning
            background = ""
        notes = *self.notes, background, *self.numbers.lock.notes
        further = [text for image in self.elastic for text in image.told]
        return tuple(filter(None, (*notes, *further)))

    def record(self) -> dict[str, Any]:
        """Entries of the record of the fusion."""
        tried = self.weights.tried
        numbers, count_value = self.numbers, self.units.count_value
        found, apart = self.background, self.weights.apart
        others = self.elastic_tried
        shift = self.undone + self.shift
        rows = self.units.rows
        return {
            "lambda_haadf": self.weights.lambda_haadf,
            "lambda_chem": 1.0,
            "lambda_tv": self.weights.lambda_tv,
            "haadf_coefficients": numbers.coefficients / count_value,
            "haadf_offset": numbers.offset + self.units.base,
            "haadf_gain": self.weights.gain,
            "haadf_model_error": numbers.error,
            "haadf_repetition": self.repetition,
            "haadf_slow": self.slow,
            "haadf_power": self.power,
            "haadf_row_noise": 0.0 if rows is None else rows.size,
            "shift": np.array([shift.y, shift.x]),
            "count_value": count_value,
            "vacuum_background": (0.0 if found is None else found) * count_value,
            "own_norm": np.array(apart or np.zeros(len(count_value)), dtype=np.float64),
            "sum_kept": np.array(numbers.lock.kept, dtype=np.float64),
            "kind": self.units.kind,
            **({"weights_tried": tried} if len(tried) else {}),
            **({} if self.amounts is None else self.amounts.record),
            **(entries_of(self.elastic, count_value) if self.elastic else {}),
            **({} if others is None or not len(others) else {"elastic_tried": others}),
        }

    def simulations(
        self,
        prepared: PreparedData,
        prior: np.ndarray,
        maps: np.ndarray,
        run: Workers,
        seed: int,
    ) -> Iterator[PreparedData]:
        """Data of these pixels that are simulated from fused maps."""
        if self.amounts is not None:
            return self.amounts.simulations(prepared, self.weights, maps, run, seed)
        further = [image.prior for image in self.elastic if image.weight > 0]
        return simulations(prepared, prior, maps, seed, further)

    def last_problem(self, prepared: PreparedData, run: Workers) -> Problem:
        """The convex problem of these pixels; that of fractions has pseudo-counts."""
        if self.amounts is not None:
            prepared = self.amounts.counts(prepared, self.weights, run)
        return self.problem(prepared)


def decide(
    preparation: Preparation,
    prior: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback_for: Callable[[str], Callable | None] = lambda _: None,
    further: Further | None = None,
    fused_as: Callable[[PreparedData], PreparedData] = lambda prepared: prepared,
) -> tuple[Decision, PreparedData]:
    """Calibrate, find where the HAADF image can be trusted, and choose the weights.

    Of `further` elastic images those are used that help. ``callback_for(stage)``
    returns the callback of a stage, or None; ``fused_as(prepared)`` the data as they
    are fused. Returns the decision, and the data on which it was made.
    """
    if preparation.units.total is not None:
        decision, prepared = _decide_fractions(
            preparation, prior, options, run, callback_for
        )
        if further is not None:
            barred = tuple(barred_for_fractions(further))
            decision = replace(decision, elastic=barred)
        return decision, prepared
    given = {**options.of_weights, "callback": callback_for("weights")}
    examined, weights = examine_best(
        preparation, prior, run, given, callback_for, fused_as
    )
    prepared = fused_as(examined.prepared)
    if weights is None:
        weights = weigh([prepared.take(preparation.tiles)], run, **given)
    elastic: Sequence[Found] = ()
    tried = None
    if further is not None:
        elastic, seen = examine_further(
            preparation, examined.prepared, further, run, callback_for
        )
        prepared = fused_as(seen)
        selection = choose_further(
            elastic,
            [prepared.take(preparation.tiles)],
            weights,
            run,
            given=options.elastic_weights(further.names),
            **given,
        )
        elastic, prepared = selection.of(elastic, prepared)
        weights, tried = selection.weights, selection.tried
    prepared = replace(prepared, apart=weights.apart)
    power = 1.0
    # a slow part is no power of anything, nor is a noise of rows, nor are maps that are
    # wrong themselves
    spoiled = examined.slow or prepared.lock.warnings or prepared.correlated
    if not (spoiled or preparation.units.rows is not None):
        as_given = aligned(preparation.prepared, examined.shift)
        if examined.report.flagged < 1:  # some pixels contradict, or none
            as_given = replace(as_given, trusted=examined.prepared.trusted)
        power = linear_power(as_given.take(preparation.tiles))
    decision = Decision(
        units=preparation.units,
        numbers=prepared.numbers(),
        shift=examined.shift,
        weights=weights,
        report=examined.report,
        notes=preparation.notes,
        background=examined.background,
        background_note=examined.note,
        elastic=tuple(elastic),
        elastic_tried=tried,
        repetition=repetition(mosaic(prepared.haadf, preparation.tiles)),
        slow=examined.slow,
        power=power,
    )
    return decision, prepared


def _decide_fractions(
    preparation: Preparation,
    prior: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback_for: Callable[[str], Callable | None],
) -> tuple[Decision, PreparedData]:
    """As :func:`decide`, for maps of fractions."""
    if options.uncertainty:
        raise ValueError(
            "uncertainty is True and the maps are fractions: expected n_replicas=20 "
            "instead, from which propagate(get_fractions, fused) finds the errors of "
            "fractions. That of the amounts, whose sums rest on coefficients that are "
            "assumed, is not known"
        )
    amounts, weights = decide_amounts(
        preparation, prior, options, run, callback_for("weights")
    )
    prepared = aligned(preparation.prepared, amounts.shift)
    prepared = prepared.with_numbers(amounts.numbers)
    decision = Decision(
        units=replace(preparation.units, count_value=amounts.count_value),
        numbers=amounts.numbers,
        shift=amounts.shift,
        weights=weights,
        report=GuardReport(),
        notes=preparation.notes,
        amounts=amounts,
        repetition=repetition(mosaic(prepared.haadf, preparation.tiles)),
    )
    return decision, prepared


def stage_callbacks(callback: Callable | None) -> Callable[[str], Callable | None]:
    """Callback for each stage of :func:`solve`, from one for all of them."""
    return lambda stage: None if callback is None else partial(callback, stage)


def understand(
    pixels: Pixels,
    chemistry: Chemistry,
    options: CalibratedOptions,
    *,
    totals: Totals | None = None,
    run: Workers = ALONE,
) -> tuple[Preparation, np.ndarray, Further | None]:
    """Prepare the data, and compute the expected c_i: Z^γ over the sensitivity.

    The last are the further elastic images, with what is expected of them; None if
    there are none.
    """
    elements, names = chemistry.elements, chemistry.elastic_names
    haadf, *elastic = pixels.images
    check_different(pixels.maps, haadf, elements, elastic, names)
    check_elastic(haadf, elastic, names)
    preparation = prepare(pixels, options, totals=totals, elements=elements, run=run)
    count_value = preparation.units.count_value
    prior = chemistry.coefficients(options.gamma, count_value)
    further = None
    if pixels.elastic is not None:
        expected = chemistry.coefficients(EXPONENT, count_value)
        further = Further(tuple(names), pixels.elastic, expected)
    return preparation, prior, further


def solve(
    pixels: Pixels,
    chemistry: Chemistry,
    options: CalibratedOptions,
    *,
    num_workers: int | None = None,
    callback: Callable | None = None,
) -> Solution:
    """Fuse one field of view.

    Parameters
    ----------
    pixels : Pixels
        The measurement.
    chemistry : Chemistry
        What is known of its elements and images.
    options : CalibratedOptions
        The options.
    num_workers : int, optional
        Number of threads; by default Numba's setting.
    callback : callable, optional
        ``callback(stage, n, gap)``, with the relative gap of the last certificate in
        the stages "solution" and "sharing", else infinity; the other stages are
        "calibration", "weights" and "uncertainty".

    Returns
    -------
    Solution
        Maps in the units of those given.
    """
    callback_for = stage_callbacks(callback)
    with workers(num_workers) as run:
        preparation, prior, further = understand(pixels, chemistry, options, run=run)
        decision, prepared = decide(
            preparation, prior, options, run, callback_for, further
        )
        del preparation  # frees the pixels as they were before the calibration
        problem = decision.last_problem(prepared, run)
        kept = prepared if options.n_refits or options.share else None
        del prepared  # frees its pixels
        missing = missing_pixels(pixels.maps, pixels.haadf)
        return conclude(
            decision,
            problem,
            kept,
            prior,
            options,
            run,
            callback_for,
            missing,
        )


def conclude(
    decision: Decision,
    problem: Problem,
    prepared: PreparedData | None,
    prior: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback_for: Callable[[str], Callable | None],
    missing: dict[str, int],
    *,
    inner: tuple[slice, slice] | None = None,
) -> Solution:
    """Solve for the maps and report; `prepared` is for uncertainty and sharing.

    `missing` are the numbers of missing pixels for the record.
    """
    weights, report = decision.weights, decision.report
    count_value = decision.units.count_value.astype(np.float32)[:, None, None]
    # Not from the maps of the calibration, whose weights may be far off.
    optimum = minimise(
        problem,
        run,
        tolerance=options.tolerance,
        max_iter=options.max_iter,
        callback=callback_for("solution"),
        window=inner,
        early=True,
    )
    sharing, unshared = None, None
    if prepared is not None and options.share:
        unshared = optimum.maps * count_value
        optimum = replace(optimum, state=None)  # frees it
        sharing, optimum, weights = share_counts(
            decision.image(prepared),
            optimum,
            weights,
            run,
            options,
            judged=decision.sharing,
            callback=callback_for("sharing"),
        )
    variance, replicas = None, None
    assumed: tuple[str, ...] = ()
    if prepared is not None and options.n_refits:
        variance, replicas, assumed = _errors(
            decision,
            prepared,
            prior,
            sharing,
            optimum.maps,
            options,
            run,
            callback_for("uncertainty"),
        )
    arrays = {
        "maps": optimum.maps,
        "variance": variance,
        "replicas": replicas,
        "unshared": unshared,
    }
    found = {name: array for name, array in arrays.items() if array is not None}
    if inner is not None:
        found = {
            name: np.ascontiguousarray(array[..., inner[0], inner[1]])
            for name, array in found.items()
        }
    for name in found.keys() & {"maps", "replicas"}:
        found[name] *= count_value
    if inner is not None:
        each = found["maps"]
        if unshared is not None:
            each = np.stack([each, found["unshared"]])
        known = problem.measured(*inner)
        found["sums"] = each.sum(axis=(-2, -1), dtype=np.float64, where=known)
    converged = optimum.within(options.tolerance)
    judged = decision.sharing or sharing  # the same words for all tiles
    return Solution(
        **found,
        costs=optimum.costs(
            weights.lambda_tv,
            weights.lambda_haadf,
            [image.weight for image in decision.elastic if image.weight > 0],
        ),
        n_iter=optimum.n_iter,
        status=str(Status.CONVERGED if converged else Status.MAX_ITER),
        converged=converged,
        record={
            **decision.record(),
            **missing,
            "gap": float(optimum.gap),
            "change": optimum.change,
            "guard": report.largest,
            "flagged": report.flagged,
            "flagged_spans": report.spans,
            **({} if sharing is None else sharing.record()),
        },
        notes=(*decision.all_notes(), *([judged.note] if judged else []), *assumed),
        warnings=decision.warnings(),
    )


def _errors(
    decision: Decision,
    prepared: PreparedData,
    prior: np.ndarray,
    sharing: Sharing | None,
    maps: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback: Callable | None,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Variance of fused maps, replicas if they are asked for, and what is assumed."""
    shared = np.zeros(len(maps), dtype=bool)
    problems: list[tuple[Callable, np.ndarray]] = []
    if sharing is not None and sharing.problem_of is not None:
        shared = sharing.shared_of(len(maps))
        problems.append((sharing.problem_of, shared))
    # the sums of a tile stay
    problems.append((replace(decision, flux_multiplier=None).problem, ~shared))
    variance, replicas = uncertainty(
        decision.simulations(prepared, prior, maps, run, options.seed),
        problems,
        maps,
        run,
        lambda_tv=decision.weights.lambda_tv,
        n_refits=options.n_refits,
        seed=options.seed,
        keep=options.n_replicas is not None,
        callback=callback,
    )
    variance = variance * decision.units.count_value[:, None, None] ** 2
    assumed = []
    if np.isnan(prepared.data).any():
        assumed.append(ERRORS_OF_MISSING)
    if decision.amounts is not None:
        variance[:] = np.nan
        assumed.append(ERRORS_OF_PROPORTIONS)
    return variance, replicas, tuple(assumed)
