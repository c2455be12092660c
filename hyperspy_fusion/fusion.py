"""`fuse_multimodal`: the one way from signals to signals."""

import logging
import warnings
from dataclasses import asdict, fields, replace
from functools import partial

import hyperspy.api as hs
import numpy as np

from . import __version__, tiling
from .core import calibrated, published
from .pairing import (
    as_images,
    check_values,
    drop_background,
    infer_element,
    members_along,
    members_of,
    name_element,
    pair,
    split,
)
from .progress import Progress
from .tiling import Task, is_lazy

__all__ = [
    "complete",
    "cost_history",
    "fuse_multimodal",
    "fuse_stack",
    "get_haadf_model",
    "get_misfit",
    "maps_of_fusion",
    "net_of",
    "pending",
    "record_of",
]

_logger = logging.getLogger(__name__)
_TERMS = ("total", "haadf", "chemical", "tv")


def fuse_multimodal(
    maps,
    haadf,
    *,
    method="calibrated",
    elements=None,
    lambda_haadf="auto",
    lambda_chem=None,
    lambda_tv="auto",
    gamma=None,
    background=None,
    regularizer=None,
    lock_flux=None,
    sensitivities=None,
    mask=None,
    uncertainty=None,
    max_iter=None,
    tolerance=None,
    seed=None,
    z_weighting=None,
    initial_threshold=None,
    n_iter=None,
    n_iter_tv=None,
    regularize=None,
    tv_algorithm=None,
    weights="per position",
    tile_size=None,
    lazy_output=None,
    show_progressbar=None,
    num_workers=None,
):
    r"""Fuse elemental maps with a HAADF image.

    Finds the maps :math:`x_i \ge 0` that explain both the measured maps :math:`b_i`
    and the HAADF image :math:`h`. With ``method="calibrated"`` they are the minimum of

    .. math::

        &\sum_i \sum_r \bigl[ x_i - (b_i + δ_i) \log(x_i + β_i + δ_i) \bigr] \\
        &+ \frac μ2 \sum_r \Bigl( \frac{h - o - \sum_i c_i x_i}{σ_h} \Bigr)^2
        + λ\,TGV_α^2 \Bigl( \frac{x_i}{\sqrt{s_i}} \Bigr)

    under :math:`\sum_r x_i = \sum_r (b_i - β_i)`, in counts; coefficients, noise and
    weights come from the data. With ``method="published"`` they descend

    .. math::

        &\frac{λ_{HAADF}}{2} \Bigl\| b_H - \sum_i w_i x_i^γ \Bigr\|^2
        + λ_{chem} \sum_i \bigl[ 1^T x_i - b_i^T \log(x_i + ε) \bigr] \\
        &+ λ_{TV} \sum_i TV(x_i)

    with all images scaled to [0, 1]. The result comes back in the units of the maps.
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
    method : {"calibrated", "published"}
        ``"calibrated"`` is quantitative and has no knobs. ``"published"`` is the
        algorithm of Schwartz et al. (2022) and Manassa et al. (2024), with their
        normalisation, weights and stopping, to reproduce published figures.
    elements : list of str, optional
        The elements' symbols in the order of the maps. By default read from
        ``metadata.Sample`` or the title of each map.
    lambda_haadf : float or "auto"
        Weight of the HAADF term, dimensionless: μ, chosen by cross-validation
        ("calibrated"); or λ_HAADF, 1 / n_elements ("published").
    lambda_chem : float, default 0.08
        Weight of the Poisson term; of the published method.
    lambda_tv : float or "auto"
        Weight of the total (generalised) variation, dimensionless: λ, chosen by
        cross-validation ("calibrated"); or λ_TV, 0.15 ("published").
    gamma : float, default 1.7 ("calibrated") or 1.6 ("published")
        Exponent γ of the Z-contrast, 1.4 to 2, dimensionless. The calibrated method
        only uses it to expect c_i proportional to Z_i^γ where the data leave the
        coefficients open.
    background : float, list of float or list of BaseSignal, optional
        "calibrated": β, the known background in the units of the maps, one number
        for all pixels, one for each element, or one map for each element; by default
        what the maps carry in ``metadata.Elemental_map.background``, as those of
        :func:`load_multimodal` do, else 0; the published method subtracts that first.
        "published": ε as a part of each map's range, default 0.24.
    regularizer : {"tgv", "tv"}
        Total generalised variation of second order, or total variation; of the
        calibrated method.
    lock_flux : bool, default True
        Keep the sum of each map; of the calibrated method.
    sensitivities : dict of str to float, optional
        What an atom adds to the map of its element, in any common unit: of maps of
        counts the cross-section, or one over the k-factor by atoms; above 0; of the
        calibrated method.
    mask : numpy.ndarray or BaseSignal of bool, optional
        True where pixels of the maps are missing, shape ``(y, x)`` or that of the
        HAADF signal; the calibrated method fills them. NaN does the same.
    uncertainty : bool, default False
        Estimate the variance of each pixel by refits of simulated data and store it
        in ``metadata.Signal.Noise_properties.variance``; of the calibrated method.
    max_iter : int, default 2000
        Largest number of iterations of the calibrated method.
    tolerance : float, optional
        "calibrated": largest relative distance of the objective to its optimum,
        default 1e-3. "published": stop when the total cost changes by at most this
        part of itself in an iteration; by default all iterations are run.
    seed : int, default 0
        Of the random split of the counts by which the weights are chosen.
    z_weighting : {"Z", "none", "Z/sum", "Z**gamma", "Z**gamma/sum"}
        The weights :math:`w_i` of the published method: Z or :math:`Z^γ` over the
        mean of all elements, or over their sum; see
        :func:`hyperspy_fusion.core.forward.element_weights`.
    initial_threshold : float, optional
        Published method: start with all pixels below this part of a map's range set
        to 0. By default the measured maps are the start.
    n_iter : int, default 30
        Number of iterations of the published method.
    n_iter_tv : int, default 3
        Steps of the total-variation prox in each iteration of the published method.
    regularize : bool, default True
        False turns the total variation of the published method off.
    tv_algorithm : {"FGP", "GP"}
        Fast or plain gradient projection (Beck and Teboulle 2009); published method.
    weights : {"per position", "shared"}
        Of a series: choose the weights of each image, or one set for all, from three
        of its images (of images in tiles, from the first). Calibrated method.
    tile_size : int, optional
        Solve images by tiles of so many pixels a side, 32 at least, each with 64 pixels
        around it (128 with TV). By default the chunks of lazy images, small ones put
        together, are the tiles, and images above 4096 pixels a side have tiles of 2048.
        What is global is found before: noise, coefficients, weights and multipliers of
        the flux lock, on samples of the image. Calibrated method; the published one
        takes images as a whole.
    lazy_output : bool, optional
        Return lazy maps, which are solved when they are computed or saved; by default
        if maps or HAADF image are lazy.
    show_progressbar : bool, optional
        Show a progress bar once a second has passed; by default as HyperSpy's
        preferences say.
    num_workers : int, optional
        Number of threads; by default Numba's setting. Images of a series, and tiles,
        are solved side by side. Where a client of ``dask.distributed`` is active, its
        workers solve them.

    Returns
    -------
    list of ElementalMap
        The fused maps, in the order, on the axes and in the units of `maps`, float32;
        lazy ones hold a part of the record only when they are computed or saved.
        ``metadata.Multimodal_fusion`` records what was done; its ``cost`` holds the
        terms of the objective, not weighted, and their weighted sum ``total``, and
        its ``status`` says why the method stopped.

    Raises
    ------
    TypeError
        If an argument is no signal, or an option is not one of the method's.
    ValueError
        If maps and HAADF image do not belong together, an element is missing or
        double, data are not finite or beyond what float32 can take powers of, or an
        option is outside its range.
    FloatingPointError
        If the iteration of the published method diverges.

    See Also
    --------
    load_multimodal : maps and HAADF image from a file.
    plot_fusion, plot_convergence : look at the result.

    References
    ----------
    J. Schwartz et al., npj Comput. Mater. 8, 16 (2022). J. Manassa, M. Shah et al.,
    Elemental Microscopy (2024). A. Beck and M. Teboulle, IEEE Trans. Image Process.
    18, 2419 (2009). K. Bredies, K. Kunisch and T. Pock, SIAM J. Imaging Sci. 3, 492
    (2010).

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> fused[0]
    <ElementalMap, title: Co, dimensions: (|32, 32)>
    >>> fused[0].metadata.Multimodal_fusion.status
    'converged'
    """
    given = {
        "lambda_haadf": lambda_haadf,
        "lambda_chem": lambda_chem,
        "lambda_tv": lambda_tv,
        "gamma": gamma,
        "background": background,
        "regularizer": regularizer,
        "lock_flux": lock_flux,
        "sensitivities": sensitivities,
        "mask": mask,
        "uncertainty": uncertainty,
        "max_iter": max_iter,
        "tolerance": tolerance,
        "seed": seed,
        "z_weighting": z_weighting,
        "initial_threshold": initial_threshold,
        "n_iter": n_iter,
        "n_iter_tv": n_iter_tv,
        "regularize": regularize,
        "tv_algorithm": tv_algorithm,
    }
    given = {
        name: value
        for name, value in given.items()
        if value is not None and not (isinstance(value, str) and value == "auto")
    }
    if method not in _METHODS:
        raise ValueError(
            f"method is {method!r}: expected {' or '.join(map(repr, _METHODS))}"
        )
    # what the data need is not for the options of the mathematics
    beside = {
        name: given.pop(name)
        for name in ("background", "sensitivities", "mask")
        if method == "calibrated" and name in given
    }
    options = _options(method, given)
    _check_plan(method, weights, tile_size)
    measurement = pair(
        maps,
        haadf,
        elements=elements,
        allow_missing=method == "calibrated",
        carried="background" not in beside,
        lazily=True,
    )
    lazy = is_lazy(measurement.maps, measurement.haadf)
    if method == "calibrated":
        if measurement.background is not None:
            beside["background"] = measurement.background
        tasks = _calibrated_tasks(
            measurement, options, tile_size, shared=weights == "shared", **beside
        )
    else:
        measurement = measurement.net()
        tasks = _published_tasks(measurement, options)
    if lazy:
        tasks = [_checking(task, measurement, method) for task in tasks]

    conclude = partial(
        _conclude,
        places=[(task.position, task.pixels) for task in tasks],
        shape=measurement.navigation_shape,
        names={
            "method": method,
            "elements": measurement.elements,
            "atomic_numbers": measurement.atomic_numbers,
            "options": options,
        },
    )
    if lazy if lazy_output is None else lazy_output:
        return _lazy_signals(measurement, tasks, conclude)
    with Progress(
        show_progressbar,
        len(tasks),
        options.n_iter if method == "published" else options.max_iter,
        options.tolerance,
        "Image" if tasks[0].tile is None else "Tile",
    ) as progress:
        solutions = tiling.solve_now(tasks, progress, num_workers)
    if method == "published":
        _warn_of_negative_pixels(measurement, solutions)
    return _signals(measurement, tasks, conclude, solutions)


_WEIGHTS = "per position", "shared"


def _check_plan(method, weights, tile_size):
    if weights not in _WEIGHTS:
        raise ValueError(
            f"weights is {weights!r}: expected {' or '.join(map(repr, _WEIGHTS))}"
        )
    if method == "published" and (tile_size is not None or weights == "shared"):
        raise TypeError(
            "the published method solves images as a whole and has given weights: it "
            'takes neither tile_size nor weights="shared"'
        )


_METHODS = {
    "calibrated": calibrated.CalibratedOptions,
    "published": published.PublishedOptions,
}


def _options(method, given):
    """The options of a method; an error for those that it does not have."""
    known = [field.name for field in fields(_METHODS[method])]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        if method == "calibrated":
            known += ["background", "sensitivities", "mask"]
        raise TypeError(
            f"the {method} method has no option {', '.join(unknown)}: it has "
            f"{', '.join(sorted(known))}"
        )
    return _METHODS[method](**given)


def _arrays_of(options):
    """What a solution of a method holds of the shape of the maps."""
    return ("maps", "variance") if getattr(options, "uncertainty", False) else ("maps",)


def _published_tasks(measurement, options):
    """Tasks of the published method: each image as a whole."""
    inputs = {"maps": measurement.maps, "haadf": measurement.haadf}
    solve = partial(
        _solve_published, atomic_numbers=measurement.atomic_numbers, options=options
    )
    return [
        Task.of(solve, inputs, position)
        for position in np.ndindex(measurement.navigation_shape)
    ]


def _solve_published(maps, haadf, **others):
    return published.solve(maps, haadf, **others)


def _calibrated_tasks(
    measurement,
    options,
    tile_size,
    *,
    shared,
    background=0.0,
    sensitivities=None,
    mask=None,
):
    """Tasks of the calibrated method: each image, or each of its tiles."""
    maps = _without_unknown(measurement, mask)
    background = _background_array(measurement, background)
    pixels = (1, 1) if background.shape[-2:] == (1, 1) else maps.shape[-2:]
    inputs = {
        "maps": maps,
        "haadf": measurement.haadf,
        "background": np.broadcast_to(background, (*maps.shape[:-2], *pixels)),
        "variance": measurement.variance,
    }
    if sensitivities is not None:
        lacking = [e for e in measurement.elements if e not in sensitivities]
        if lacking:
            raise ValueError(
                f"sensitivities has none for {', '.join(lacking)}: expected one for "
                f"each of {', '.join(measurement.elements)}"
            )
        sensitivities = [sensitivities[e] for e in measurement.elements]
        if not all(np.isfinite(s) and s > 0 for s in sensitivities):
            found = ", ".join(map(str, sensitivities))
            raise ValueError(f"sensitivities are {found}: expected numbers above 0")
    chemistry = {
        "atomic_numbers": measurement.atomic_numbers,
        "sensitivities": sensitivities,
    }
    positions = list(np.ndindex(measurement.navigation_shape))
    tiles = tiling.tiles_of(maps, tile_size, tiling.HALOS[options.regularizer])
    if tiles is not None:
        common = {**chemistry, "check": None}
        if is_lazy(measurement.maps, measurement.haadf):
            common["check"] = partial(
                check_values, measurement.elements, allow_missing=True
            )
        return _tile_tasks(inputs, positions, tiles, options, common, shared=shared)
    if shared:
        options = _with_shared_weights(inputs, positions, options, chemistry)
    solve = partial(calibrated.solve, options=options, **chemistry)
    return [Task.of(solve, inputs, position) for position in positions]


def _without_unknown(measurement, mask):
    """The maps with NaN where they are masked, or where their variance is not known."""
    maps = measurement.maps
    if mask is not None:
        missing = _mask_array(measurement, mask)[..., np.newaxis, :, :]
        maps = np.where(missing, np.nan, maps)
    if measurement.variance is not None:  # a fit has none where it left a pixel out
        known = np.isfinite(measurement.variance)
        if is_lazy(known) or not known.all():
            maps = np.where(known, maps, np.nan)
    return maps


def _tile_tasks(inputs, positions, tiles, options, common, *, shared):
    tasks = []
    for position in positions:
        decision, prior, flux = tiling.decide(inputs, position, options, **common)
        if shared:  # the first ones
            options = replace(
                options,
                lambda_tv=decision.weights.lambda_tv,
                lambda_haadf=decision.weights.lambda_haadf,
            )
        for tile in (tile for row in tiles for tile in row):
            solve = partial(
                calibrated.solve_part,
                decision=decision,
                options=options,
                prior=prior,
                inner=tile.inner,
            )
            tasks.append(Task.of(solve, inputs, position, tile, flux))
    return tasks


_SHARING = 3  # images of a series from which its weights are chosen


def _with_shared_weights(inputs, positions, options, chemistry):
    """The options with weights that suit images all along the series."""
    chosen = np.linspace(0, len(positions) - 1, min(_SHARING, len(positions)))
    images = tiling.computed(
        [
            Task.of(None, inputs, positions[k]).inputs
            for k in np.unique(chosen.round().astype(int))
        ]
    )
    weights = calibrated.shared_weights(images, options, **chemistry)
    return replace(
        options, lambda_tv=weights.lambda_tv, lambda_haadf=weights.lambda_haadf
    )


def _checking(task, measurement, method):
    """A task that checks the values of lazy signals when it sees them."""
    return replace(
        task,
        solve=partial(
            _check_and_solve,
            task.solve,
            measurement.elements,
            allow_missing=method == "calibrated",
            part=task.tile is not None,
        ),
    )


def _check_and_solve(solve, elements, *, allow_missing, part, maps, haadf, **others):
    if not part:  # that of a tile is done
        check_values(elements, [*maps, haadf], allow_missing=allow_missing)
    return solve(maps=maps, haadf=haadf, **others)


def _conclude(solutions, *, places, shape, names):
    """The record of a fusion, its notes and its warnings."""
    images = {}
    for solution, (position, pixels) in zip(solutions, places, strict=True):
        images.setdefault(position, []).append((solution, pixels))
    found = np.empty(shape, dtype=object)
    for position, parts in images.items():
        if len(parts) == 1:
            found[position] = parts[0][0]
        else:
            found[position] = calibrated.together(*zip(*parts, strict=True))
    notes = tuple(dict.fromkeys(note for s in found.flat for note in s.notes))
    told = tuple(dict.fromkeys(warning for s in found.flat for warning in s.warnings))
    return _record(solutions=found, notes=notes, **names), notes, told


def _signals(measurement, tasks, conclude, solutions):
    """Fused maps of solutions."""
    arrays = tiling.assemble(
        solutions,
        tasks,
        measurement.maps.shape,
        _arrays_of(conclude.keywords["names"]["options"]),
    )
    record, *told = conclude(solutions)
    signals = measurement.to_signals(arrays["maps"], record)
    if "variance" in arrays:
        _add_variances(signals, arrays["variance"])
    _tell(*told)
    return signals


def _lazy_signals(measurement, tasks, conclude):
    """Fused maps that are solved when they are needed."""
    names = conclude.keywords["names"]
    options, shape = names["options"], measurement.maps.shape
    arrays, later = tiling.solve_later(tasks, shape, conclude, _arrays_of(options))
    record = {
        **_asked(**names),
        "status": str(later),
        "pending": later,
        "cost": {},
    }
    n_elements = len(measurement.elements)
    each = {"haadf_coefficients": (n_elements,)}
    if names["method"] == "calibrated":
        n_values = -(-options.max_iter // calibrated.CHECK_EVERY)
        each |= {"count_value": (n_elements,), "shift": (2,)}
        numbers = "haadf_gain", "haadf_model_error", "gap", "guard", "flagged"
        record["cost_interval"] = calibrated.CHECK_EVERY
    else:
        n_values, numbers = options.n_iter, ("haadf_range",)
        each |= {"map_offset": (n_elements,), "map_range": (n_elements,)}
        record["cost_interval"] = 1
    numbers += ("n_iter", "lambda_haadf", "lambda_chem", "lambda_tv", "haadf_offset")
    each |= dict.fromkeys(numbers, ())
    each |= {f"cost.{term}": (n_values,) for term in _TERMS}
    for name, own in each.items():
        entry = later.entry(name, (*measurement.navigation_shape, *own))
        node, _, term = name.rpartition(".")
        (record[node] if node else record)[term] = entry
    signals = measurement.to_signals(arrays["maps"], record)
    if "variance" in arrays:
        _add_variances(signals, arrays["variance"])
    return signals


def pending(signal):
    """What will be known of fusions once their maps are computed.

    Parameters
    ----------
    signal : BaseSignal
        A lazy map that :func:`fuse_multimodal` returned, or what was made of it.

    Returns
    -------
    list of Pending
        Each once, of a stack also those of its maps; empty if nothing is pending.
    """
    found = [
        metadata.get_item("Multimodal_fusion.pending")
        for metadata in _all_metadata(signal)
    ]
    found = {id(later): later for later in found if isinstance(later, tiling.Pending)}
    return list(found.values())


def complete(signal, later, found):
    """Complete the records of a lazy map, in place, and tell what is to be told.

    Parameters
    ----------
    signal : BaseSignal
        With something pending.
    later : list of Pending
        Which of it is known now.
    found : list of numpy.ndarray
        What each was.
    """
    for one, known in zip(later, found, strict=True):
        record, *told = known.item()
        for metadata in _all_metadata(signal):
            if metadata.get_item("Multimodal_fusion.pending") is one:
                del metadata.Multimodal_fusion
                metadata.add_dictionary({"Multimodal_fusion": dict(record)})
        _tell(*told)


def _all_metadata(signal):
    """The metadata of a signal, and of each of which it is a stack."""
    return [signal.metadata, *(member.metadata for member in members_of(signal))]


def _background_array(measurement, background):
    """A background, however it was given, that broadcasts against the maps."""
    if isinstance(background, list | tuple):
        if len(background) != len(measurement.elements):
            raise ValueError(
                f"background has {len(background)} entries and there are "
                f"{len(measurement.elements)} maps: expected one for each, in their "
                "order, or one number for all"
            )
        arrays = [
            as_images(entry, f"background of {element}").data
            if isinstance(entry, hs.signals.BaseSignal)
            else np.full((1, 1), entry, dtype=np.float64)
            for entry, element in zip(background, measurement.elements, strict=True)
        ]
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        background = tiling.stack([np.broadcast_to(a, shape) for a in arrays], axis=-3)
    if is_lazy(background):
        return background
    background = np.asarray(background, dtype=np.float64)
    if background.ndim == 0:
        background = background.reshape(1, 1)
    if not np.all(background >= 0):
        raise ValueError(
            "background has entries below 0 or NaN: expected the known background of "
            "the maps, at least 0"
        )
    return background


def net_of(measurement, background):
    """A measurement without a background that was given.

    Parameters
    ----------
    measurement : Measurement
        As measured.
    background : float, list of float or list of BaseSignal
        As :func:`fuse_multimodal` takes it.

    Returns
    -------
    Measurement
        With the background subtracted from the maps.

    Raises
    ------
    ValueError
        If it is below 0 somewhere, or there is not one for each map.
    """
    background = _background_array(measurement, background)
    return replace(measurement, background=background).net()


def _mask_array(measurement, mask):
    """A mask, however it was given, of the shape of the HAADF image."""
    if isinstance(mask, hs.signals.BaseSignal):
        mask = as_images(mask, "mask").data
    mask = mask if is_lazy(mask) else np.asarray(mask)
    shape = measurement.haadf.shape
    if mask.dtype != bool or mask.shape not in (shape, shape[-2:]):
        raise ValueError(
            f"mask is of type {mask.dtype} and shape {mask.shape}: expected bool, True "
            f"where pixels are missing, and the shape {shape[-2:]} (y, x) of the image"
        )
    return mask


def _add_variances(signals, variances):
    """Store the variance of each map."""
    for i, signal in enumerate(signals):
        _add_variance(signal, variances[..., i, :, :])


def _add_variance(signal, data):
    """Store a variance where HyperSpy's own tools look for it."""
    variance = signal._deepcopy_with_new_data(data)  # noqa: SLF001
    del variance.metadata.Multimodal_fusion
    if members_of(variance):
        del variance.original_metadata.stack_elements
    variance.metadata.General.title = f"Variance of {signal.metadata.General.title}"
    signal.set_noise_variance(variance)


def _tell(notes, told):
    """Hand what a user should know to the log, and warnings to where they are seen."""
    for note in notes:
        _logger.info(note)
    for warning in told:
        warnings.warn(warning, UserWarning, stacklevel=4)


def _warn_of_negative_pixels(measurement, solutions):
    if all((s.record["map_offset"] >= 0).all() for s in solutions):
        return
    found = [
        f"{element} ({part:.1%} of the pixels)"
        for i, element in enumerate(measurement.elements)
        if (part := float(np.mean(measurement.maps[..., i, :, :] < 0))) > 0
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


def _asked(method, elements, atomic_numbers, options):
    """What the record says of what was asked for, known before anything is solved."""
    settings = {
        name: value for name, value in asdict(options).items() if value is not None
    }
    return {
        "method": method,
        "version": __version__,
        "elements": ",".join(elements),
        "atomic_numbers": np.array(atomic_numbers, dtype=np.float64),
        **settings,
    }


def _record(*, method, elements, atomic_numbers, options, solutions, notes):
    """What ``metadata.Multimodal_fusion`` says of a fusion.

    Builtins and float64 arrays only: these survive ``.hspy``, ``.zspy`` and ``.nxs``.
    """
    cost = {
        term: _over_positions(solutions, lambda s, term=term: getattr(s.costs, term))
        for term in _TERMS
    }
    # only the first of tiled images that share weights knows those that were tried
    recorded = {
        name: _over_positions(solutions, lambda s, n=name: s.record.get(n, np.nan))
        for name in solutions.flat[0].record
    }
    return {
        **_asked(method, elements, atomic_numbers, options),
        **recorded,
        "n_iter": _over_positions(solutions, lambda solution: solution.n_iter),
        "converged": all(solution.converged for solution in solutions.flat),
        "status": "\n".join(dict.fromkeys(s.status for s in solutions.flat)),
        "notes": "\n".join(notes),
        "cost": cost,
        "cost_interval": solutions.flat[0].costs.interval,
    }


def _over_positions(solutions, value):
    """A number or array for each position, as ``navigation + (...)``; else as it is.

    Arrays of different length are padded with NaN.
    """
    if solutions.ndim == 0:
        return value(solutions.item())
    values = [np.asarray(value(solution), dtype=float) for solution in solutions.flat]
    longest = max(values, key=np.size).shape
    out = np.full((len(values), *longest), np.nan)
    for k, found in enumerate(values):
        out[(k, *map(slice, found.shape))] = found
    return out.reshape(*solutions.shape, *longest)


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
    data = tiling.stack([signal.data for signal in fused], axis=0)
    result = stack._deepcopy_with_new_data(data)  # noqa: SLF001
    result._lazy = is_lazy(data)  # noqa: SLF001 - whatever the stack is
    result._assign_subclass()  # noqa: SLF001
    drop_background(result.metadata)
    # What .split() gives back to each map, along the last navigation axis unless the
    # history of another stack says otherwise.
    members = members_along(result)
    if members:
        for member, signal in zip(members, fused, strict=True):
            member.metadata = signal.metadata.deepcopy()
    elif members_of(result):
        del result.original_metadata.stack_elements
    if result.metadata.has_item("_HyperSpy.Stacking_history"):
        del result.metadata._HyperSpy.Stacking_history  # noqa: SLF001
    record = fused[0].metadata.Multimodal_fusion.as_dictionary()
    result.metadata.add_dictionary({"Multimodal_fusion": record})
    variances = [signal.get_noise_variance() for signal in fused]
    if variances[0] is not None:
        _add_variance(result, tiling.stack([v.data for v in variances], axis=0))
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
    elements = record_of(fused).elements.split(",")
    taken_apart = fused.axes_manager.navigation_dimension > 0  # else it is the user's
    if taken_apart and len(maps) == len(elements):
        for signal, element in zip(maps, elements, strict=True):
            name_element(signal, element)
    return maps


def record_of(fused):
    """The record of a fusion.

    Parameters
    ----------
    fused : ElementalMap
        A map that :func:`fuse_multimodal` returned.

    Returns
    -------
    DictionaryTreeBrowser
        ``metadata.Multimodal_fusion``.

    Raises
    ------
    ValueError
        If there is none.
    """
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
    cost = record_of(fused).cost
    # After a lazy load the arrays in the metadata are dask arrays.
    terms = [np.asarray(cost[term]) for term in _TERMS]
    signal = hs.signals.Signal1D(np.stack(terms, axis=-2))
    signal.metadata.General.title = "Cost of the fusion"
    iteration = signal.axes_manager.signal_axes[0]
    record = record_of(fused)
    interval = int(record.get_item("cost_interval", 1))
    iteration.name, iteration.scale, iteration.offset = "iteration", interval, interval
    if iteration.high_value > record.get_item("max_iter", np.inf):
        iteration.convert_to_non_uniform_axis()  # the last value came earlier
        iteration.axis = np.append(iteration.axis[:-1], record.max_iter)
    signal.axes_manager.navigation_axes[0].name = "term"
    signal.metadata.set_item("Multimodal_fusion.terms", ",".join(_TERMS))
    return signal


def get_misfit(maps, fused, haadf, *, standardised=False, background=None, mask=None):
    """Misfit of the HAADF image and its model, or of the image and the measured maps.

    Parameters
    ----------
    maps : list of BaseSignal
        What was fused, as :func:`fuse_multimodal` took it.
    fused : list of ElementalMap
        All maps that it returned, in their order.
    haadf : BaseSignal
        The HAADF image that was fused.
    standardised : bool, default False
        False: the image minus :func:`get_haadf_model`, in its units. True: the local
        misfit z of image and measured maps, in standard deviations, by which the guard
        of the calibrated method judges; see
        :func:`hyperspy_fusion.core.diagnostics.local_z`.
    background, mask : optional
        As they were given to :func:`fuse_multimodal`; only for `standardised`.

    Returns
    -------
    Signal2D
        Shape ``navigation + (y, x)``, on the axes of the first map. An image that the
        fusion moved back is not moved here, but for `standardised`.

    Raises
    ------
    ValueError
        If the signals do not belong together, or `standardised` is asked of the
        published method.
    """
    model = get_haadf_model(fused)
    fused = maps_of_fusion(fused)
    record = record_of(fused[0])
    elements = record.elements.split(",")
    measurement = pair(
        maps,
        haadf,
        elements=elements,
        allow_missing=True,
        carried=background is None,
    )
    image = model._deepcopy_with_new_data(  # noqa: SLF001
        measurement.haadf - model.data
    )
    image.set_signal_type("")
    image.metadata.General.title = "Misfit"
    if not standardised:
        return image
    if record.method != "calibrated":
        raise ValueError(
            "the local misfit is known to the calibrated method only: expected maps "
            'that were fused with method="calibrated"'
        )
    if background is None:
        background = 0.0 if measurement.background is None else measurement.background
    backgrounds = np.broadcast_to(
        _background_array(measurement, background), measurement.maps.shape
    )
    measured = _without_unknown(measurement, mask)
    results = np.stack([signal.data for signal in fused], axis=-3)
    names = "shift", "haadf_coefficients", "haadf_offset", "haadf_model_error"
    for position in np.ndindex(measurement.navigation_shape):
        variance = measurement.variance
        image.data[position] = calibrated.local_misfit(
            measured[position],
            measurement.haadf[position],
            results[position],
            {name: np.asarray(record[name])[position] for name in names},
            calibrated.CalibratedOptions(),
            background=backgrounds[position],
            variance=None if variance is None else variance[position],
        )
    image.metadata.General.title = "Local misfit in standard deviations"
    return image


def get_haadf_model(fused):
    r"""HAADF image that the fused maps predict.

    Of the calibrated method it is :math:`o + \sum_i c_i x_i`, of the published one
    :math:`a + s \sum_i w_i \hat x_i^γ`, with the maps
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
    records = [record_of(signal) for signal in fused]
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
    series = np.shape(record["haadf_coefficients"])[:-1]
    if maps.shape[:-3] != series:
        raise ValueError(
            f"the maps have the navigation shape {maps.shape[:-3]} and their record "
            f"{series}: take the model of all maps of the series, and of it the "
            "positions that are wanted with .inav"
        )

    def recorded(name):  # of elements to maps, of positions to images
        return np.asarray(record[name])[..., np.newaxis, np.newaxis]

    if record.method == "published":
        span = recorded("map_range")
        scaled = (maps - recorded("map_offset")) / np.where(span > 0, span, 1)
        maps = np.maximum(scaled, 0) ** record.gamma
    model = (recorded("haadf_coefficients") * maps).sum(axis=-3)
    if record.method == "published":
        model *= recorded("haadf_range")
    model += recorded("haadf_offset")
    image = fused[0]._deepcopy_with_new_data(model)  # noqa: SLF001
    image.set_signal_type("HAADF")
    image.metadata.General.title = "HAADF model"
    del image.metadata.Multimodal_fusion
    # What the first map is of, and its unit.
    for node in ("Sample.elements", "Sample.xray_lines", "Signal.quantity"):
        if image.metadata.has_item(node):
            parent, name = node.split(".")
            delattr(image.metadata[parent], name)
    return image
