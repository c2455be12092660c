"""What becomes of imperfect data, and what is said: `python -m benchmarks field`.

Prints the tables of the page ``docs/benchmarks/imperfect.md``, and writes that page
with ``--markdown``. Needs scikit-image: ``pip install ".[tests]"``.
"""

import argparse
import textwrap
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hyperspy.api as hs
import numpy as np
from scipy import fft, ndimage
from scipy.signal import wiener

import hyperspy_fusion

from .accuracy import BACKGROUND, GOALS, WIDTHS, as_array
from .table import Table, report, say

COUNTS, SEED = 4.0, 1
FEW_COUNTS = 0.05
WORSE = 1.1  # ratio of errors, above which something should have been said
PARTICLE = 0.05  # of the largest value of a map: less is vacuum
SHOWN, COMPARED = 64, 5  # characters and words of a message
ADDED = 3  # number of an element that is added, titanium

PAGE = """\
This page is what `python -m benchmarks field --markdown docs/benchmarks/imperfect.md`
writes. The specimens of {{mod}}`hyperspy_fusion.data` ({size} x {size} pixels,
{counts:g} counts, 2000 electrons, seed {seed}) are spoiled in many ways, {n_inputs}
inputs in all, and fused by `fuse_multimodal`. *Error* is the root mean square distance
from the truth over the root mean square of the truth, mean over the elements; *at best*
is that of the same specimen from its raw counts, HAADF image and known background of
0.02 counts a pixel; *ratio* is the one over the other. What moves or scales the maps is
done to the truth and to the maps at best, too, and both errors are those of the
measured pixels. Fractions are compared with those of the truth where there are
particles, after one common factor; *at best* is that of the counts, which tell more.
Rare elements and few counts have no better form: *at best* is then the Gaussian filter
of the width that comes nearest to the truth. *Counts kept* is the sum of the fused maps
over that of the truth, on the measured pixels of the particles. *Said* are the first
words of the warnings and notes, without those of the specimen at its best; in brackets
is how many say the same of several elements. A ratio above {worse:g} of which nothing
was said is marked. All of it took {minutes:.0f} minutes on one core of a shared
machine."""

HEADER = ["input", "error", "at best", "ratio", "counts kept", "said"]


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)

    def head(minutes):
        return PAGE.format(
            size=arguments.size,
            counts=COUNTS,
            seed=SEED,
            n_inputs=len(arguments.inputs),
            worse=WORSE,
            minutes=minutes,
        )

    report({"field": measure_inputs}, arguments, "On imperfect data", head)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks field",
        description="What happens to imperfect data, and what is said of them.",
    )
    options: Any
    for name, options in {"specimens": list(GOALS), "inputs": list(INPUTS)}.items():
        parser.add_argument(
            f"--{name}", nargs="+", default=options, choices=options, metavar="NAME"
        )
    parser.add_argument("--size", type=int, default=96, help="a multiple of 8 pixels")
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.set_defaults(tables=["field"])
    return parser


# --- measurement ------------------------------------------------------------------


def measure_inputs(arguments):
    """A table for each specimen, and one of what is worse without a word."""
    marked = []
    for name in arguments.specimens:
        rows = []
        for row, silent in measure_specimen(name, arguments):
            rows.append(row)
            if silent:
                marked.append([name, *row[:-1]])
        yield Table(name, HEADER, rows)
    yield Table(
        "Worse without a word",
        ["specimen", *HEADER[:-1]],
        marked,
        f"All rows with a ratio above {WORSE:g} of which nothing was said: "
        f"{len(marked)} of {len(arguments.specimens) * len(arguments.inputs)}.",
    )


def measure_specimen(name, arguments):
    """Row of each input, and whether it is worse without a word."""
    specimen = simulate(name, arguments.size)
    elements = [m.metadata.General.title for m in specimen.maps]
    best = as_measured(as_array(specimen.maps), specimen.haadf.data)
    clean, ordinary = fuse(best, elements)
    unknown = best._replace(options={"background": None})
    _, of_unknown = fuse(unknown, elements)  # exports are not blamed for that
    for title in arguments.inputs:
        say(f"{name}, {title}")
        spoil, simulated = INPUTS[title]
        specimen = simulate(name, arguments.size, **simulated)
        form = spoil(as_array(specimen.maps), specimen.haadf.data)
        truth = as_array(specimen.truth)
        fused, statements = fuse(form, elements)
        usual = ordinary if title in (UNKNOWN, MORE) else ordinary + of_unknown
        usual = {_first_words(statement) for statement in usual}
        said = [s for s in statements if _first_words(s) not in usual]
        found, reference, kept = judge(form, fused, clean, truth)
        silent = found > WORSE * reference and not said
        nothing, ratio = "nothing", number(found / reference, 2)
        if silent:
            nothing, ratio = f"**{nothing}**", f"**{ratio}**"
        row = [title, number(found), number(reference), ratio, number(kept)]
        yield [*row, in_short(said) or nothing], silent


def number(value, digits=3):
    """A number; a dash if there is none, of an input that was refused."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def in_short(statements):
    """The beginnings of statements, those that begin alike once."""
    alike = {}
    for statement in statements:
        alike.setdefault(_first_words(statement), []).append(statement)
    return "; ".join(
        textwrap.shorten(first, SHOWN, placeholder=" …")
        + (f" ({1 + len(others)})" if others else "")
        for first, *others in alike.values()
    )


def simulate(name, size, **simulated):
    """The specimen as it is measured."""
    specimen = getattr(hyperspy_fusion.data, name)
    return specimen(size, seed=SEED, **{"counts": COUNTS, **simulated})


def fuse(form, elements):
    """Fused maps as an array, and what was said; NaN if the input is refused."""
    options = {"background": BACKGROUND, **form.options}
    maps = [hs.signals.Signal2D(image) for image in form.maps]
    for signal, number in zip(maps, form.order, strict=True):
        signal.metadata.General.title = [*elements, "Ti"][number]
    haadf = hs.signals.Signal2D(form.haadf)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fused = hyperspy_fusion.fuse_multimodal(
                maps, haadf, show_progressbar=False, **options
            )
        except (TypeError, ValueError, FloatingPointError) as error:
            return np.full((len(maps), *haadf.data.shape), np.nan), [
                f"refused: {error}"
            ]
    record = fused[0].metadata.Multimodal_fusion
    warned = [*(str(c.message) for c in caught), *record.warnings.splitlines()]
    notes = [f"(note) {note}" for note in record.notes.splitlines()]
    return as_array(fused), [*dict.fromkeys(warned), *notes]


def _first_words(statement):
    """By what statements with other numbers are known to be the same."""
    return tuple(statement.split()[:COMPARED])


def judge(form, fused, clean, truth):
    """Errors of an input and of its best form, and the part of the counts kept."""
    added = form.rival and len(form.maps) > len(clean)
    judged = slice(len(clean) if added else 0, None)
    fused, moved = fused[judged], form.move(truth)[judged]
    measured = True if form.measured is None else form.measured
    measured = np.broadcast_to(measured, moved.shape)
    particles = measured & is_particle(truth if form.fractions else moved)
    if form.fractions:  # the fused maps are amounts
        measured = particles
        total = fused.sum(axis=0)
        whole = moved.sum(axis=0)[particles.any(axis=0)].mean()
        fused = whole * fused / np.where(total > 0, total, 1)
    if form.rival:
        net = form.maps[judged] - BACKGROUND
        filtered = [ndimage.gaussian_filter(net, (0, w, w)) for w in WIDTHS]
        reference = min(error(images, moved, measured) for images in filtered)
    else:
        best = scaled(form, form.move(clean), moved, measured)
        reference = error(best, moved, measured)
    kept = fused[particles].sum() / moved[particles].sum()
    found = error(scaled(form, fused, moved, measured), moved, measured)
    return found, reference, kept


def is_particle(truth):
    """Pixels where an element is, shape ``(y, x)``."""
    return (truth > PARTICLE * truth.max(axis=(1, 2), keepdims=True)).any(axis=0)


def scaled(form, images, truth, measured):
    """Fractions times the one factor that brings them nearest to the truth."""
    if not form.fractions:
        return images
    found = images[measured]
    return images * (found @ truth[measured]) / (found @ found)


def error(images, truth, measured):
    """Normalised root mean square error, mean over the elements.

    An absent element, without truth, is held to the mean of the others.
    """
    squares = np.sum((images - truth) ** 2, axis=(1, 2), where=measured)
    norms = np.sum(truth**2, axis=(1, 2), where=measured)
    norms[norms == 0] = norms[norms > 0].mean()
    return np.sqrt(squares / norms).mean()


# --- imperfect inputs -------------------------------------------------------------


def unmoved(images):
    """Images as they are."""
    return images


class Form(NamedTuple):
    """What is given to the fusion, and how its result compares with the truth.

    Attributes
    ----------
    maps, haadf : numpy.ndarray
        Shape ``(n_elements, y, x)``, or a list of images, and ``(y, x)``.
    options : dict
        Options of the fusion; the background of the counts unless it is among them.
    move : callable
        What happens to the true maps, shape ``(n_elements, y, x)``.
    measured : numpy.ndarray or None
        True where pixels are measured, shape ``(y, x)`` or ``(n_elements, y, x)``;
        None for all.
    fractions : bool
        Whether only shapes are compared, on the particles.
    rival : bool
        Whether a Gaussian filter of these maps is the form to compare with; of maps
        that were added, for these alone.
    order : sequence of int
        Numbers of the elements; ADDED is that of the added one.
    """

    maps: Any
    haadf: np.ndarray
    options: dict = {}  # noqa: RUF012 - never changed
    move: Callable = unmoved
    measured: np.ndarray | None = None
    fractions: bool = False
    rival: bool = False
    order: Sequence[int] = (0, 1, 2)


def as_measured(maps, haadf):
    """Counts as they are."""
    return Form(maps, haadf)


def with_option(maps, haadf, **options):
    """Counts as they are, with options of the fusion."""
    return Form(maps, haadf, options)


def few_counts(maps, haadf):
    """Counts as they are, which have no better form."""
    return Form(maps, haadf, rival=True)


def over_subtracted(maps, haadf, value, *, everywhere=False):
    """Too much background subtracted, where the image is dark or everywhere."""
    smooth = ndimage.gaussian_filter(haadf, 2)
    dark = smooth < smooth.min() + 0.1 * np.ptp(smooth)
    return Form(maps - value * (dark | everywhere), haadf, {"background": None})


def net_of_windows(maps, haadf):
    """Counts in windows beside the line subtracted, as eXSpy's background windows."""
    rng = np.random.default_rng(SEED)
    beside = 0.5 * rng.poisson(2 * BACKGROUND, maps.shape)
    return Form(maps - beside, haadf, {"background": None})


def with_more_background(maps, haadf, value):
    """A background of some counts a pixel, which is not given."""
    rng = np.random.default_rng(SEED)
    more = rng.poisson(value - BACKGROUND, maps.shape)
    return Form(maps + more, haadf, {"background": None})


def cut_off(maps, haadf):
    """Noise is added, as that of a subtraction, and what is below 0 cut off."""
    rng = np.random.default_rng(SEED)
    noisy = maps + rng.normal(0, 0.5, maps.shape)
    return Form(np.maximum(noisy, 0), haadf, {"background": None})


def with_offset(maps, haadf):
    """Scaled counts with an offset."""
    scale = 0.37
    return Form(
        scale * maps + 2,
        haadf,
        {"background": None},
        lambda images: scale * images,
    )


def cut_off_image(maps, haadf):
    """The HAADF image cut off a little above its darkest level."""
    return Form(maps, np.maximum(haadf, np.quantile(haadf, 0.3)))


def _of_rows(haadf, spread):
    """A normal number of mean 0 for each row."""
    return np.random.default_rng(0).normal(0, spread, (len(haadf), 1))


def with_varying_current(maps, haadf, spread):
    """Counts and image of a beam current that varies from row to row.

    It is at most the present one, so that counts are lost.
    """
    share = 1 + _of_rows(haadf, spread)
    share /= share.max()
    counts = np.random.default_rng(SEED).binomial(maps.astype(int), share)
    return Form(counts, haadf * share, move=lambda images: images * share.mean())


def with_gain_of_rows(maps, haadf, spread):
    """The HAADF image with a gain that varies from row to row."""
    return Form(maps, haadf * (1 + _of_rows(haadf, spread)))


def with_offset_of_rows(maps, haadf, spread):
    """The HAADF image with an offset that varies from row to row."""
    return Form(maps, haadf + np.ptp(haadf) * _of_rows(haadf, spread))


def with_offset_of_columns(maps, haadf, spread):
    """The HAADF image with an offset that varies from column to column."""
    return Form(maps, haadf + np.ptp(haadf) * _of_rows(haadf, spread).T)


def blurred_image(maps, haadf, width):
    """The HAADF image filtered by a Gaussian."""
    return Form(maps, ndimage.gaussian_filter(haadf, width))


def _third(haadf):
    """The right third of the field."""
    missing = np.zeros(haadf.shape, dtype=bool)
    missing[:, -(haadf.shape[1] // 3) :] = True
    return missing


def third_in_mask(maps, haadf):
    """A third of the field missing, by `mask`."""
    return Form(maps, haadf, {"mask": _third(haadf)}, measured=~_third(haadf))


def third_nan(maps, haadf):
    """A third of the field missing, by NaN."""
    missing = _third(haadf)
    return Form(np.where(missing, np.nan, maps), haadf, measured=~missing)


def third_masked(maps, haadf):
    """A third of the field missing, by masked arrays."""
    missing = _third(haadf)
    masked = [np.ma.array(image, mask=missing) for image in maps]
    return Form(masked, haadf, measured=~missing)


def scattered_nan(maps, haadf):
    """A fifth of the pixels of each map missing."""
    missing = np.random.default_rng(0).random(maps.shape) < 0.2
    return Form(np.where(missing, np.nan, maps), haadf, measured=~missing)


def half_an_image(maps, haadf):
    """The lower half of the HAADF image missing."""
    haadf = haadf.copy()
    haadf[len(haadf) // 2 :] = np.nan
    return Form(maps, haadf)


def mean_of_neighbours(maps, haadf):
    """Maps averaged over 3 x 3 pixels."""
    return Form(ndimage.uniform_filter(maps, (0, 3, 3)), haadf)


def mean_along_rows(maps, haadf):
    """Maps averaged over 3 pixels of each row."""
    return Form(ndimage.uniform_filter1d(maps, 3), haadf)


def median_of_neighbours(maps, haadf):
    """Maps after a median filter."""
    return Form(ndimage.median_filter(maps, (1, 3, 3)), haadf)


def blurred(maps, haadf, width):
    """Maps filtered by a Gaussian."""
    return Form(ndimage.gaussian_filter(maps, (0, width, width)), haadf)


def rotated(maps, haadf):
    """Maps and image rotated by 5 degrees with linear interpolation, NaN outside."""

    def move(images):
        return ndimage.rotate(
            images, 5, axes=(-1, -2), reshape=False, order=1, cval=np.nan
        )

    measured = np.isfinite(move(haadf))

    def filled(images):
        return np.where(measured, move(images), 0)

    return Form(move(maps), move(haadf), move=filled, measured=measured)


def resampled(maps, haadf, with_image):
    """Maps moved by half a pixel with linear interpolation, and perhaps the image."""

    def move(images):
        shift = (0,) * (images.ndim - 2) + (0.5, 0.5)
        return ndimage.shift(images, shift, order=1, mode="nearest")

    return Form(move(maps), move(haadf) if with_image else haadf, move=move)


def binned(maps, haadf):
    """Maps and image binned by 1.5, where pixels are shared by two."""
    size, step = len(haadf), 1.5
    first = np.arange(int(size / step))[:, np.newaxis] * step
    pixel = np.arange(size)
    shares = np.minimum(pixel + 1, first + step) - np.maximum(pixel, first)
    shares = np.maximum(shares, 0)

    def move(images):
        return shares @ images @ shares.T

    background = BACKGROUND * step**2
    return Form(move(maps), move(haadf) / step**2, {"background": background}, move)


def multiplied(maps, haadf, factor):
    """Counts times a number, and their background."""
    background = {"background": BACKGROUND * factor}
    return Form(maps * factor, haadf, background, lambda images: images * factor)


def _exported(image, kind):
    """Gain and offset of an image that fills a type of whole numbers."""
    gain = np.iinfo(kind).max / np.ptp(image)
    return gain, np.rint((image - image.min()) * gain).astype(kind)


def export_of_maps(maps, haadf, kind):
    """Each map scaled to the range of a type; its background is no longer known."""
    gains, images = zip(*(_exported(image, kind) for image in maps), strict=True)
    gains = np.array(gains)[:, np.newaxis, np.newaxis]
    return Form(images, haadf, {"background": None}, lambda true: true * gains)


def square_roots(maps, haadf):
    """Square roots of the counts."""
    return Form(np.sqrt(maps), haadf, {"background": None}, np.sqrt)


def after_wiener(maps, haadf):
    """Maps after a Wiener filter of 5 x 5 pixels."""
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing varies
        images = [np.nan_to_num(wiener(image.astype(float), 5)) for image in maps]
    return Form(np.stack(images), haadf)


def export_of_image(maps, haadf):
    """The HAADF image scaled to 0..255."""
    return Form(maps, _exported(haadf, np.uint8)[1])


def like_jpeg(maps, haadf):
    """Each map scaled to 16..235, in blocks of 8 x 8 rounded frequencies."""
    block, step, offset = 8, 12, 16
    gains = 219 / maps.max(axis=(1, 2), keepdims=True)
    n, size, _ = maps.shape
    blocks = (n, size // block, block, size // block, block)
    waves = fft.dctn((maps * gains).reshape(blocks), axes=(2, 4), norm="ortho")
    waves = step * np.rint(waves / step)
    images = fft.idctn(waves, axes=(2, 4), norm="ortho").reshape(maps.shape)
    images = np.clip(np.rint(images + offset), 0, 255).astype(np.uint8)
    return Form(images, haadf, {"background": None}, lambda true: true * gains)


def with_hot_pixel(maps, haadf):
    """A pixel of 500 counts in the first map."""
    maps = maps.copy()
    maps[0, len(haadf) // 3, len(haadf) // 3] = 500
    return Form(maps, haadf)


def with_dead_column(maps, haadf, which):
    """A column without counts."""
    maps = maps.copy()
    maps[which, :, len(haadf) // 2] = 0
    return Form(maps, haadf)


def with_stuck_row(maps, haadf):
    """A row of the HAADF image at its maximum."""
    image = haadf.copy()
    image[len(haadf) // 2] = haadf.max()
    return Form(maps, image)


def with_hot_pixel_of_image(maps, haadf):
    """A pixel of the HAADF image at ten times its maximum."""
    image = haadf.copy()
    image[len(haadf) // 3, len(haadf) // 3] = 10 * haadf.max()
    return Form(maps, image)


def saturated(maps, haadf):
    """The brightest tenth of the HAADF image clipped."""
    return Form(maps, np.minimum(haadf, np.quantile(haadf, 0.9)))


def noise_for_image(maps, haadf):
    """Noise in place of the HAADF image."""
    noise = np.random.default_rng(0).normal(haadf.mean(), haadf.std(), haadf.shape)
    return Form(maps, noise)


def _ramp(haadf):
    """A gradient along x over the range of the HAADF image."""
    ramp = np.linspace(haadf.min(), haadf.max(), haadf.shape[1])
    return np.broadcast_to(ramp, haadf.shape).copy()


def ramp_for_image(maps, haadf):
    """A gradient in place of the HAADF image."""
    return Form(maps, _ramp(haadf))


def image_on_ramp(maps, haadf):
    """The HAADF image on a gradient of half its range."""
    return Form(maps, haadf + 0.5 * _ramp(haadf))


def above_dark(haadf):
    """The HAADF image from 0 to 1."""
    return (haadf - haadf.min()) / np.ptp(haadf)


def with_gamma(maps, haadf, gamma):
    """The HAADF image with a gamma correction."""
    return Form(maps, above_dark(haadf) ** gamma)


def logarithm(maps, haadf):
    """Logarithm of the HAADF image."""
    return Form(maps, np.log1p(30 * above_dark(haadf)))


def inverted(maps, haadf):
    """The HAADF image with black for white."""
    return Form(maps, haadf.max() + haadf.min() - haadf)


def flipped_image(maps, haadf):
    """The HAADF image upside down."""
    return Form(maps, haadf[::-1])


def transposed_image(maps, haadf):
    """The HAADF image with rows for columns."""
    return Form(maps, haadf.T)


def flipped(maps, haadf):
    """Everything upside down, and views of the arrays."""
    return Form(maps[:, ::-1], haadf[::-1], move=lambda images: images[:, ::-1])


def transposed(maps, haadf):
    """Everything with rows for columns."""
    return Form(maps.swapaxes(1, 2), haadf.T, move=lambda images: images.swapaxes(1, 2))


def with_absent_element(maps, haadf):
    """One more map, of background only."""
    empty = np.random.default_rng(0).poisson(BACKGROUND, (1, *haadf.shape))
    return Form(
        np.concatenate([maps, empty]),
        haadf,
        move=lambda images: np.concatenate([images, np.zeros((1, *haadf.shape))]),
        order=(0, 1, 2, ADDED),
    )


def with_rare_element(maps, haadf):
    """One more element, in three particles of a few pixels."""
    size = len(haadf)
    y, x = np.ogrid[:size, :size]
    rare = np.zeros((1, size, size))
    for b_y, b_x in ((0.2, 0.5), (0.55, 0.8), (0.8, 0.3)):
        rare += 2 * np.exp(-((y - b_y * size) ** 2 + (x - b_x * size) ** 2) / 4.5)
    counts = np.random.default_rng(0).poisson(rare + BACKGROUND)
    return Form(
        np.concatenate([maps, counts]),
        haadf + rare[0] / 8 * np.ptp(haadf),
        move=lambda images: np.concatenate([images, rare]),
        order=(0, 1, 2, ADDED),
        rival=True,
    )


def fractions(maps, haadf, whole=1.0, empty=np.nan, digits=None):
    """Maps over their sum, of which empty pixels have none."""
    total = maps.sum(axis=0)
    parts = whole * np.divide(maps, total, out=np.zeros_like(maps), where=total > 0)
    if digits is not None:
        parts = np.round(parts, digits)

    def move(images):
        return whole * images / np.maximum(images.sum(axis=0), 1e-9)

    return Form(
        np.where(total > 0, parts, empty),
        haadf,
        {"background": None},
        move,
        total > 0 if np.isnan(empty) else None,
        fractions=True,
    )


def permuted(maps, haadf):
    """The maps in another order."""
    order = [2, 0, 1]
    return Form(maps[order], haadf, move=lambda images: images[order], order=order)


def one_element(maps, haadf):
    """The first map only."""
    return Form(maps[:1], haadf, move=lambda images: images[:1], order=(0,))


def by_components(maps, haadf):
    """Maps from two components of the three."""
    u, s, v = np.linalg.svd(maps.reshape(len(maps), -1), full_matrices=False)
    s[2:] = 0
    return Form(((u * s) @ v).reshape(maps.shape), haadf)


def of_type(maps, haadf, kind):
    """Maps and image of another type."""
    return Form(maps.astype(kind), np.rint(haadf).astype(kind))


UNKNOWN = "background not given"
MORE = "background of 0.3 counts not given"
# What is done to the measured arrays, and how the specimen is simulated.
INPUTS = {
    "raw counts, background known": (as_measured, {}),
    UNKNOWN: (partial(with_option, background=None), {}),
    **{
        f"{value:g} count{'s' * (value != 1)} too many subtracted in vacuum": (
            partial(over_subtracted, value=value),
            {},
        )
        for value in (0.25, 0.5, 1.0)
    },
    "0.5 counts too many subtracted everywhere": (
        partial(over_subtracted, value=0.5, everywhere=True),
        {},
    ),
    "counts of windows beside the lines subtracted": (net_of_windows, {}),
    MORE: (partial(with_more_background, value=0.3), {}),
    "values below 0 cut off": (cut_off, {}),
    "scaled counts with an offset": (with_offset, {}),
    "`background=1`, more than in vacuum": (partial(with_option, background=1.0), {}),
    "`background=50`, more than anywhere": (partial(with_option, background=50.0), {}),
    "third of the field in `mask`": (third_in_mask, {}),
    "third of the field NaN": (third_nan, {}),
    "third of the field in masked arrays": (third_masked, {}),
    "half of the HAADF image NaN": (half_an_image, {}),
    "20 % of the pixels NaN": (scattered_nan, {}),
    "maps averaged over 3 x 3 pixels": (mean_of_neighbours, {}),
    "maps averaged over 3 pixels of a row": (mean_along_rows, {}),
    "maps after a median of 3 x 3 pixels": (median_of_neighbours, {}),
    "maps filtered, Gaussian of 0.7 px": (partial(blurred, width=0.7), {}),
    "maps filtered, Gaussian of 1 px": (partial(blurred, width=1), {}),
    "maps of two components": (by_components, {}),
    "maps after a Wiener filter": (after_wiener, {}),
    "square roots of counts": (square_roots, {}),
    "all rotated by 5 degrees, interpolated": (rotated, {}),
    "all moved by half a pixel, interpolated": (
        partial(resampled, with_image=True),
        {},
    ),
    "maps moved by half a pixel, interpolated": (
        partial(resampled, with_image=False),
        {},
    ),
    "all binned by 1.5": (binned, {}),
    "maps times 3": (partial(multiplied, factor=3), {}),
    "maps times 0.37": (partial(multiplied, factor=0.37), {}),
    "each map exported as uint8": (partial(export_of_maps, kind=np.uint8), {}),
    "each map exported as uint16": (partial(export_of_maps, kind=np.uint16), {}),
    "maps like JPEG, with an offset": (like_jpeg, {}),
    "HAADF image exported as uint8": (export_of_image, {}),
    "pixel of 500 counts in a map": (with_hot_pixel, {}),
    "dead column in a map": (partial(with_dead_column, which=0), {}),
    "dead column in all maps": (partial(with_dead_column, which=slice(None)), {}),
    "stuck row in the HAADF image": (with_stuck_row, {}),
    "hot pixel in the HAADF image": (with_hot_pixel_of_image, {}),
    "HAADF image saturated at its 90 % quantile": (saturated, {}),
    "HAADF image cut off at its dark level": (cut_off_image, {}),
    "current of each row different by 10 %": (
        partial(with_varying_current, spread=0.1),
        {},
    ),
    "HAADF image with a gain of each row, 10 %": (
        partial(with_gain_of_rows, spread=0.1),
        {},
    ),
    "HAADF image with an offset of each row, 5 %": (
        partial(with_offset_of_rows, spread=0.05),
        {},
    ),
    "HAADF image with an offset of each column, 5 %": (
        partial(with_offset_of_columns, spread=0.05),
        {},
    ),
    "HAADF image filtered, Gaussian of 0.7 px": (
        partial(blurred_image, width=0.7),
        {},
    ),
    "HAADF image of noise": (noise_for_image, {}),
    "HAADF image of a gradient": (ramp_for_image, {}),
    "HAADF image on a gradient": (image_on_ramp, {}),
    "HAADF image with a gamma of 0.5": (partial(with_gamma, gamma=0.5), {}),
    "HAADF image with a gamma of 2": (partial(with_gamma, gamma=2.0), {}),
    "logarithm of the HAADF image": (logarithm, {}),
    "HAADF image inverted": (inverted, {}),
    "HAADF image upside down": (flipped_image, {}),
    "HAADF image transposed": (transposed_image, {}),
    **{
        f"HAADF image displaced by {shift}": (as_measured, {"shift": shift})
        for shift in ((1, 0), (0.5, 0.3), (5, -3), (9, 4))
    },
    "HAADF image nonlinear by 25 %": (as_measured, {"nonlinear": 0.25}),
    "element without a map": (as_measured, {"unmapped": True}),
    "map of an absent element": (with_absent_element, {}),
    "rare element": (with_rare_element, {}),
    f"{FEW_COUNTS:g} counts": (few_counts, {"counts": FEW_COUNTS}),
    "one map only": (one_element, {}),
    "fractions, NaN in empty pixels": (fractions, {}),
    "fractions, 0 in empty pixels": (partial(fractions, empty=0.0), {}),
    "per cent, NaN in empty pixels": (partial(fractions, whole=100.0), {}),
    "per cent, 0 in empty pixels": (partial(fractions, whole=100.0, empty=0.0), {}),
    "at.% rounded to 0.1, 0 in empty pixels": (
        partial(fractions, whole=100.0, empty=0.0, digits=1),
        {},
    ),
    "maps in another order": (permuted, {}),
    "all upside down": (flipped, {}),
    "all transposed": (transposed, {}),
    **{
        f"all of type {name}": (partial(of_type, kind=kind), {})
        for name, kind in {
            "float32": "float32",
            "int64": "int64",
            "uint16": "uint16",
            "float64, big-endian": ">f8",
        }.items()
    },
}


if __name__ == "__main__":
    main()
