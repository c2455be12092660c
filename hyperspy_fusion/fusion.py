"""The two methods, from signals to signals: validate, plan, run, make signals."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from .core.calibrated.options import CalibratedOptions
from .core.common.options import helpful
from .core.published.method import PublishedOptions
from .execution.lazy import solve_later
from .execution.plan import ExecutionOptions, plan_calibrated, plan_published
from .inputs.measurement import measure
from .results import Conclusion, as_signals, fused_now, pending_record
from .tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .core.calibrated.options import Regularizer
    from .core.common.options import Options
    from .core.published.forward import ZWeighting
    from .core.published.tv_prox import TVAlgorithm
    from .inputs.further import Elastic, Weighting
    from .inputs.measurement import Background, Image, Maps, Mask, Matching, Measurement
    from .signals import ElementalMap

__all__ = ["fuse_multimodal", "fuse_published"]


@helpful
def fuse_multimodal(
    maps: Maps,
    haadf: Image,
    background: Background = None,
    *,
    elements: Sequence[str] | None = None,
    sensitivities: Mapping[str, float] | None = None,
    mask: Mask = None,
    match: Matching = None,
    elastic: Elastic = None,
    lambda_haadf: float | Literal["auto"] = "auto",
    lambda_elastic: Weighting = "auto",
    lambda_tv: float | Literal["auto"] = "auto",
    gamma: float = 1.7,
    regularizer: Regularizer = "tgv",
    lock_flux: bool = True,
    share: bool = False,
    uncertainty: bool = False,
    n_replicas: int | None = None,
    tolerance: float = 1e-3,
    max_iter: int = 2000,
    haadf_offset: float | Literal["auto"] = "auto",
    seed: int = 0,
    weights: Literal["per position", "shared"] = "per position",
    tile_size: int | None = None,
    lazy_output: bool | None = None,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
    interactive: bool = False,
    display: bool = True,
    toolkit: str | Sequence[str] | None = None,
) -> list[ElementalMap]:
    r"""Fuse elemental maps with a HAADF image.

    The fused maps :math:`x_i \ge 0` explain both the measured maps :math:`b_i` and
    the HAADF image :math:`h`: they minimise

    .. math::

        &\sum_i \sum_r \bigl[ x_i - (b_i + δ_i) \log(x_i + β_i + δ_i) \bigr] \\
        &+ \frac μ2 \sum_r \Bigl( \frac{h - o - \sum_i c_i x_i}{σ_h} \Bigr)^2
        + λ\,TGV_α^2 \Bigl( \frac{x_i}{\sqrt{s_i}} \Bigr)

    under :math:`\sum_r x_i = \sum_r (b_i - β_i)`, in counts (J. Schwartz et al., npj
    Comput. Mater. 8, 16 (2022); TGV of K. Bredies et al., SIAM J. Imaging Sci. 3, 492
    (2010)). Coefficients, noise and weights come from the data.

    Parameters
    ----------
    maps : list or dict of BaseSignal, or BaseSignal
        One map per element, shape ``navigation + (y, x)``, in any unit, of a dict by
        its symbol; or a stack whose last navigation axis runs over the elements.
    haadf : BaseSignal, or list of BaseSignal
        HAADF image of the same pixels, in any units; of a list, the one that fits.
    background : float, list or dict of float or BaseSignal, or BaseSignal, optional
        β, known background of the maps in their units: a number for all, or a number
        or map for each. By default the mean in the vacuum of counts.
    elements : list of str, optional
        Symbols in the order of the maps; by default read from their metadata or title.
    sensitivities : dict of str to float, optional
        Relative sensitivity factors, above 0: signal of one atom, in any common unit.
        For counts these are cross-sections, or inverse k-factors by atoms.
    mask : numpy.ndarray or BaseSignal of bool, optional
        True where pixels of the maps are missing, as NaN: filled by the model.
    match : {"axes", "pixels"}, optional
        Bring both to the area that their axes share, or take their pixels for the same.
    elastic : BaseSignal, or list or dict of BaseSignal, optional
        Up to 3 more images of the pixels of the HAADF image: phase, ADF, bright field,
        named by their titles or a dict. Those that do not help are not used.
    lambda_haadf, lambda_elastic, lambda_tv : float or "auto"
        Weights μ (of `elastic` a list or dict) and λ; "auto": by cross-validation.
    gamma : float, default 1.7
        Exponent γ of the Z-contrast, about 1.4 to 2: the prior of c_i is Z_i^γ.
    regularizer : {"tgv", "tv"}
        Total generalised variation of second order, or total variation.
    lock_flux, share : bool, default True and False
        Keep sums that the data know; let pixels that look alike share their counts.
    uncertainty, n_replicas : bool and int, optional
        Keep the variance of each pixel; number of replicas for `propagate` (20, say).
    tolerance, max_iter : float and int
        Largest relative gap of the objective (1e-3), and most iterations (2000).
    haadf_offset : float or "auto"
        HAADF intensity of no matter, for maps of fractions; "auto" finds it.
    seed : int, default 0
        Of the random split of the counts that chooses the weights, and of replicas.
    weights : {"per position", "shared"}
        Of a series: weights for each image, or one set for all, from a few of them.
    tile_size : int, optional
        Pixels a side of tiles, at least 32; by default of lazy chunks, or above 4096.
    lazy_output, show_progressbar, num_workers : bool, bool and int, optional
        Solve when maps are computed; by default as the input, HyperSpy and Numba say.
    interactive, display, toolkit
        Sliders for the weights and a preview; "Apply to all" changes maps in place.

    Returns
    -------
    list of ElementalMap
        In the order, axes and units of `maps`, float32; of fractions relative amounts.
        ``metadata.Multimodal_fusion`` records what was done. Widgets if not `display`.

    Raises
    ------
    TypeError, ValueError, ImportError
        If an argument is no signal, or an option unknown or of the wrong type; signals
        do not belong together; data or an option are out of range; widgets are missing.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> fused[0]
    <ElementalMap, title: Co, dimensions: (|32, 32)>
    """
    options = CalibratedOptions(
        lambda_haadf=lambda_haadf,
        lambda_elastic=lambda_elastic,
        lambda_tv=lambda_tv,
        gamma=gamma,
        regularizer=regularizer,
        lock_flux=lock_flux,
        share=share,
        uncertainty=uncertainty,
        n_replicas=n_replicas,
        tolerance=tolerance,
        max_iter=max_iter,
        haadf_offset=haadf_offset,
        seed=seed,
    )
    execution = ExecutionOptions(
        weights=weights,
        tile_size=tile_size,
        lazy_output=lazy_output,
        show_progressbar=show_progressbar,
        num_workers=num_workers,
        interactive=interactive,
    )
    measured = partial(measure, elements=elements, sensitivities=sensitivities)
    measurement = measured(
        maps, haadf, background, mask=mask, match=match, elastic=elastic, lazily=True
    )
    fuse = partial(_run, "calibrated", plan_calibrated, measurement, execution)
    if execution.interactive:
        return tune(fuse, measurement, options, execution, display, toolkit)
    return fuse(options)


@helpful
def fuse_published(
    maps: Maps,
    haadf: Image,
    *,
    elements: Sequence[str] | None = None,
    match: Matching = None,
    lambda_haadf: float | None = None,
    lambda_chem: float = 0.08,
    lambda_tv: float = 0.15,
    gamma: float = 1.6,
    epsilon: float = 0.24,
    n_iter: int = 30,
    n_iter_tv: int = 3,
    z_weighting: ZWeighting = "Z",
    initial_threshold: float | None = None,
    regularize: bool = True,
    tv_algorithm: TVAlgorithm = "FGP",
    tolerance: float | None = None,
    lazy_output: bool | None = None,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
) -> list[ElementalMap]:
    r"""Fuse elemental maps with a HAADF image by the published method.

    The algorithm of J. Schwartz et al., npj Comput. Mater. 8, 16 (2022) and J. Manassa
    et al., Elemental Microscopy (2024), to reproduce published figures. Of maps and
    image scaled to [0, 1] it lowers

    .. math::

        &\frac{λ_{HAADF}}{2} \Bigl\| b_H - \sum_i w_i x_i^γ \Bigr\|^2
        + λ_{chem} \sum_i \bigl[ 1^T x_i - b_i^T \log(x_i + ε) \bigr] \\
        &+ λ_{TV} \sum_i TV(x_i)

    Parameters
    ----------
    maps, haadf, elements, match
        As for :func:`fuse_multimodal`; without missing pixels.
    lambda_haadf, lambda_chem, lambda_tv : float
        Weights of the HAADF term (by default 1 / n_elements), of the Poisson term
        (0.08) and of the total variation (0.15).
    gamma, epsilon : float
        Exponent γ of the Z-contrast, at least 1 (1.6); and ε in the logarithm of the
        Poisson term, a fraction of each map's range (0.24).
    n_iter, n_iter_tv : int
        Iterations (30), and steps of the total-variation prox in each (3).
    z_weighting : {"Z", "none", "Z/sum", "Z**gamma", "Z**gamma/sum"}
        Weights :math:`w_i`: Z or :math:`Z^γ` over the mean, or sum, of all elements.
    initial_threshold, regularize : float, optional, and bool
        Start with pixels below this fraction of a map's range set to 0; whether there
        is total variation.
    tv_algorithm, tolerance : {"FGP", "GP"} and float, optional
        Fast or plain gradient projection; stop at this relative change of the cost.
    lazy_output, show_progressbar, num_workers
        As for :func:`fuse_multimodal`.

    Returns
    -------
    list of ElementalMap

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As from :func:`fuse_multimodal`; the last one if the iteration diverges.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_published(maps, haadf, n_iter=50)
    """
    options = PublishedOptions(
        lambda_haadf=lambda_haadf,
        lambda_chem=lambda_chem,
        lambda_tv=lambda_tv,
        gamma=gamma,
        epsilon=epsilon,
        n_iter=n_iter,
        n_iter_tv=n_iter_tv,
        z_weighting=z_weighting,
        initial_threshold=initial_threshold,
        regularize=regularize,
        tv_algorithm=tv_algorithm,
        tolerance=tolerance,
    )
    execution = ExecutionOptions(
        lazy_output=lazy_output,
        show_progressbar=show_progressbar,
        num_workers=num_workers,
    )
    measurement = measure(
        maps, haadf, elements=elements, match=match, allow_missing=False, lazily=True
    )
    return _run("published", plan_published, measurement, execution, options)


def _run(
    method: str,
    plan: Callable,
    measurement: Measurement,
    execution: ExecutionOptions,
    options: Options,
) -> list[ElementalMap]:
    """Solve the tasks of a plan, now or when the maps are needed, and make signals."""
    tasks = plan(measurement, options, execution)
    conclude = Conclusion.of(method, measurement, options, tasks, execution)
    lazy = execution.lazy_output
    if measurement.lazy if lazy is None else lazy:
        arrays, later = solve_later(
            tasks,
            measurement.maps.shape,
            conclude,
            conclude.arrays,
            execution.num_workers,
        )
        record = pending_record(conclude, later, measurement)
        return as_signals(measurement, arrays, record)
    return fused_now(tasks, conclude, measurement, options, execution)
