"""`fuse_multimodal`: the one way from signals to signals."""

import warnings
from dataclasses import asdict

import hyperspy.api as hs
import numpy as np

from . import __version__
from .core import published
from .pairing import infer_element, pair, split

__all__ = [
    "cost_history",
    "fuse_multimodal",
    "fuse_stack",
    "get_haadf_model",
    "maps_of_fusion",
]

_TERMS = ("total", "haadf", "chemical", "tv")


def fuse_multimodal(
    maps,
    haadf,
    *,
    method="published",
    elements=None,
    gamma=None,
    lambda_haadf=None,
    lambda_chem=None,
    lambda_tv=None,
    background=None,
    z_weighting=None,
    initial_threshold=None,
    n_iter=None,
    n_iter_tv=None,
    regularize=None,
    tv_algorithm=None,
    tolerance=None,
    num_workers=None,
):
    r"""Fuse elemental maps with a HAADF image.

    Finds the maps :math:`x_i \ge 0` that explain both the HAADF image :math:`b_H` and
    the measured maps :math:`b_i`, by descending

    .. math::

        \frac{λ_{HAADF}}{2} \Bigl\| b_H - \sum_i w_i x_i^γ \Bigr\|^2
        + λ_{chem} \sum_i \bigl[ 1^T x_i - b_i^T \log(x_i + ε) \bigr]
        + λ_{TV} \sum_i TV(x_i)

    with all images scaled to [0, 1]; the result comes back in the units of the maps.
    The inputs are not modified.

    Parameters
    ----------
    maps : list of BaseSignal, or BaseSignal
        One map per element, shape ``navigation + (y, x)``: any image, or a signal
        with the image on its navigation axes as eXSpy's ``get_lines_intensity``
        returns it; counts or any other unit. Or a stack of maps whose last navigation
        axis runs over the elements.
    haadf : BaseSignal, or list of BaseSignal
        The HAADF image of the same pixels, in any units; of a list, the one that its
        title and shape show to be the HAADF image.
    method : {"published"}
        ``"published"`` is the algorithm of Schwartz et al. (2022) and Manassa et al.
        (2024), with their normalisation, weights and stopping.
    elements : list of str, optional
        The elements' symbols in the order of the maps. By default read from
        ``metadata.Sample`` or the title of each map.
    gamma : float, default 1.6
        Exponent γ of the Z-contrast, 1.4 to 2, dimensionless.
    lambda_haadf : float, default 1 / n_elements
        Weight of the HAADF term, dimensionless, like the other two.
    lambda_chem : float, default 0.08
        Weight of the Poisson term.
    lambda_tv : float, default 0.15
        Weight of the total variation.
    background : float, default 0.24
        ε of the Poisson term, as a part of each map's range.
    z_weighting : {"Z", "none", "Z/sum", "Z**gamma", "Z**gamma/sum"}
        The weights :math:`w_i`: Z or :math:`Z^γ` over the mean of all elements, or
        over their sum; see :func:`hyperspy_fusion.core.forward.element_weights`.
    initial_threshold : float, optional
        Start with all pixels below this part of a map's range set to 0. By default
        the measured maps are the start.
    n_iter : int, default 30
        Number of iterations.
    n_iter_tv : int, default 3
        Steps of the total-variation prox in each iteration.
    regularize : bool, default True
        False turns the total variation off.
    tv_algorithm : {"FGP", "GP"}
        Fast or plain gradient projection (Beck and Teboulle 2009).
    tolerance : float, optional
        Stop when the total cost changes by at most this part of itself in an
        iteration. By default all iterations are run.
    num_workers : int, optional
        Number of threads; by default Numba's setting.

    Returns
    -------
    list of ElementalMap
        The fused maps, in the order, on the axes and in the units of `maps`, float32.
        ``metadata.Multimodal_fusion`` records what was done; its ``cost`` holds the
        terms of the objective after each iteration, not weighted, and their weighted
        sum ``total``. ``status`` says whether a cost rose on the way.

    Raises
    ------
    TypeError
        If an argument is no signal, or an option is not one of the method's.
    ValueError
        If maps and HAADF image do not belong together, an element is missing or
        double, data are not finite, or an option is outside its range.
    FloatingPointError
        If the iteration diverges.

    See Also
    --------
    load_multimodal : maps and HAADF image from a file.
    plot_fusion, plot_convergence : look at the result.

    References
    ----------
    J. Schwartz et al., npj Comput. Mater. 8, 16 (2022). J. Manassa, M. Shah et al.,
    Elemental Microscopy (2024). A. Beck and M. Teboulle, IEEE Trans. Image Process.
    18, 2419 (2009).

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> fused[0]
    <ElementalMap, title: Co, dimensions: (|32, 32)>
    >>> fused[0].get_cost_history()
    <Signal1D, title: Cost of the fusion, dimensions: (4|30)>
    """
    options = {
        "gamma": gamma,
        "lambda_haadf": lambda_haadf,
        "lambda_chem": lambda_chem,
        "lambda_tv": lambda_tv,
        "background": background,
        "z_weighting": z_weighting,
        "initial_threshold": initial_threshold,
        "n_iter": n_iter,
        "n_iter_tv": n_iter_tv,
        "regularize": regularize,
        "tv_algorithm": tv_algorithm,
        "tolerance": tolerance,
    }
    if method != "published":
        raise ValueError(f"method is {method!r}: expected 'published'")
    given = {name: value for name, value in options.items() if value is not None}
    options = published.PublishedOptions(**given)
    measurement = pair(maps, haadf, elements=elements)
    _warn_of_negative_pixels(measurement)

    shape = measurement.navigation_shape
    solutions = np.empty(shape, dtype=object)
    for position in np.ndindex(shape):
        solutions[position] = published.solve(
            measurement.maps[position],
            measurement.haadf[position],
            measurement.atomic_numbers,
            options,
            num_workers=num_workers,
        )
    fused = np.empty(measurement.maps.shape, dtype=np.float32)
    for position in np.ndindex(shape):
        fused[position] = solutions[position].maps
    return measurement.to_signals(fused, _record(measurement, options, solutions))


def _warn_of_negative_pixels(measurement):
    found = [
        f"{element} ({part:.1%} of the pixels)"
        for i, element in enumerate(measurement.elements)
        if (part := np.mean(measurement.maps[..., i, :, :] < 0)) > 0
    ]
    if found:
        warnings.warn(
            f"negative values in the maps of {', '.join(found)}, as a background "
            "subtraction leaves them: the published method takes the minimum of each "
            "map for its zero. Better hand over maps without subtraction, or clip "
            "them at zero",
            UserWarning,
            stacklevel=3,
        )


def _record(measurement, options, solutions):
    """What ``metadata.Multimodal_fusion`` says of a fusion with the published method.

    Builtins and float64 arrays only: these survive ``.hspy``, ``.zspy`` and ``.nxs``.
    """
    n_iter = _over_positions(solutions, lambda solution: solution.n_iter)
    cost = {}
    for term in _TERMS:
        cost[term] = np.full((*solutions.shape, int(np.max(n_iter))), np.nan)
        for position in np.ndindex(solutions.shape):
            history = getattr(solutions[position].costs, term)
            cost[term][(*position, slice(len(history)))] = history
    settings = {
        name: value for name, value in asdict(options).items() if value is not None
    }
    return {
        "method": "published",
        "version": __version__,
        "elements": ",".join(measurement.elements),
        "atomic_numbers": np.array(measurement.atomic_numbers, dtype=np.float64),
        **settings,
        **{
            name: _over_positions(solutions, lambda s, name=name: s.record[name])
            for name in solutions.flat[0].record
        },
        "n_iter": n_iter,
        "converged": all(solution.converged for solution in solutions.flat),
        "status": "\n".join(dict.fromkeys(s.status for s in solutions.flat)),
        "cost": cost,
    }


def _over_positions(solutions, value):
    """A number or array for each position, as ``navigation + (...)``; else as it is."""
    if solutions.ndim == 0:
        return value(solutions.item())
    values = [value(solution) for solution in solutions.flat]
    return np.reshape(values, (*solutions.shape, *np.shape(values[0]))).astype(float)


def fuse_stack(stack, haadf, **options):
    """Fuse a stack of maps over elements; returns a stack of the same axes.

    Behind :meth:`hyperspy_fusion.ElementalMap.fuse_multimodal`.
    """
    if stack.axes_manager.navigation_dimension == 0:
        raise ValueError(
            "this signal is one map: expected a stack whose last navigation axis runs "
            "over the elements, as hs.stack(maps) makes it; to fuse one map call "
            "hyperspy_fusion.fuse_multimodal([map], haadf)"
        )
    fused = fuse_multimodal(stack, haadf, **options)
    result = stack._deepcopy_with_new_data(  # noqa: SLF001
        np.stack([signal.data for signal in fused])
    )
    record = fused[0].metadata.Multimodal_fusion.as_dictionary()
    result.metadata.add_dictionary({"Multimodal_fusion": record})
    # Where hs.stack keeps what .split() gives back to each map.
    for _, member in result.original_metadata.get_item("stack_elements", {}):
        member.metadata.add_dictionary({"Multimodal_fusion": record})
    return result


def maps_of_fusion(fused):
    """List the maps that one fusion returned.

    Parameters
    ----------
    fused : list of ElementalMap, or ElementalMap
        The list that :func:`fuse_multimodal` returned, or a stack of its members.

    Returns
    -------
    list of ElementalMap

    Raises
    ------
    ValueError
        If a stack does not come from a fusion.
    """
    maps = split(fused)
    if isinstance(fused, list | tuple):
        return maps
    elements = _record_of(fused).elements.split(",")
    if len(maps) == len(elements):
        for signal, element in zip(maps, elements, strict=True):
            signal.metadata.set_item("Sample.elements", [element])
    return maps


def _record_of(fused):
    """The record of a fusion; an error if there is none."""
    record = fused.metadata.get_item("Multimodal_fusion")
    if record is None:
        raise ValueError(
            f"{fused!r} has no metadata.Multimodal_fusion: expected a map that "
            "fuse_multimodal returned"
        )
    return record


def cost_history(fused):
    """The terms of the cost of a fused map against the iterations.

    Behind :meth:`hyperspy_fusion.ElementalMap.get_cost_history`.
    """
    cost = _record_of(fused).cost
    # After a lazy load the arrays in the metadata are dask arrays.
    terms = [np.asarray(cost[term]) for term in _TERMS]
    signal = hs.signals.Signal1D(np.stack(terms, axis=-2))
    signal.metadata.General.title = "Cost of the fusion"
    iteration = signal.axes_manager.signal_axes[0]
    iteration.name, iteration.offset = "iteration", 1
    signal.axes_manager.navigation_axes[0].name = "term"
    signal.metadata.set_item("Multimodal_fusion.terms", ",".join(_TERMS))
    return signal


def get_haadf_model(fused):
    r"""HAADF image that the fused maps predict.

    Of the published method it is :math:`a + s \sum_i w_i \hat x_i^γ`, with the maps
    :math:`\hat x_i` and the image scaled to [0, 1] as in the fusion, and offset a and
    range s of the measured HAADF image.

    Parameters
    ----------
    fused : list of ElementalMap, or ElementalMap
        All maps that one call of :func:`fuse_multimodal` returned, in their order, or
        a stack of them.

    Returns
    -------
    HAADFImage
        Shape ``navigation + (y, x)``, in the units of the measured HAADF image, on
        the axes of the first map.

    Raises
    ------
    ValueError
        If maps are missing or do not come from one fusion, or are a part of a series:
        its record is that of the whole.
    """
    fused = maps_of_fusion(fused)
    records = [_record_of(signal) for signal in fused]
    found = [infer_element(signal) for signal in fused]
    expected = records[0].elements.split(",") if records else []
    if not found or found != expected:
        shown = ", ".join(map(str, found)) or "nothing"
        raise ValueError(
            f"there are fused maps of {shown}: expected all maps of one fusion in "
            f"their order, {', '.join(expected) or 'any'}"
        )
    record = records[0]
    maps = np.stack([signal.data for signal in fused], axis=-3)
    series = np.shape(record["map_range"])[:-1]
    if maps.shape[:-3] != series:
        raise ValueError(
            f"the maps have the navigation shape {maps.shape[:-3]} and their record "
            f"{series}: take the model of all maps of the series, and of it the "
            "positions that are wanted with .inav"
        )

    def of_maps(name):
        return np.asarray(record[name])[..., np.newaxis, np.newaxis]

    span = of_maps("map_range")
    scaled = (maps - of_maps("map_offset")) / np.where(span > 0, span, 1)
    scaled = np.maximum(scaled, 0)
    model = (of_maps("haadf_coefficients") * scaled**record.gamma).sum(axis=-3)
    offset, span = of_maps("haadf_offset"), of_maps("haadf_range")
    image = fused[0]._deepcopy_with_new_data(offset + span * model)  # noqa: SLF001
    image.set_signal_type("HAADF")
    image.metadata.General.title = "HAADF model"
    del image.metadata.Multimodal_fusion
    # What the first map is of, and its unit.
    for node in ("Sample.elements", "Sample.xray_lines", "Signal.quantity"):
        if image.metadata.has_item(node):
            parent, name = node.split(".")
            delattr(image.metadata[parent], name)
    return image
