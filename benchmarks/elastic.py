"""What a second elastic image gives: `python -m benchmarks elastic`.

Prints the tables of the page ``docs/benchmarks/elastic.md``, and writes that page with
``--markdown``.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from hyperspy.signals import Signal2D
from scipy.ndimage import gaussian_filter

import hyperspy_fusion
from hyperspy_fusion.data import elastic_image, measure
from hyperspy_fusion.detectors import SENSITIVITIES, detected
from hyperspy_fusion.inputs.elements import atomic_number

from .accuracy import BACKGROUND, as_array
from .table import Table, report, say

ELECTRONS = 2000.0
GOOD = "phase", "maadf", "bf"
BAD = (
    "noise",
    "texture",
    "other specimen",
    "displaced",
    "blurred",
    "saturated",
    "wave",
    "unmapped element",
    "bending contours",
    "diffraction contrast",
    "no low frequencies",
)

PAGE = """\
This page is what `python -m benchmarks elastic{options} --markdown
docs/benchmarks/elastic.md` writes. Specimens ({size} x {size} pixels, 2000 electrons in
each image, seed{plural} {seeds}) are fused with the background of 0.02 counts a pixel
and all else chosen: with the HAADF image alone, and with one more image by `elastic=`.
The first three specimens are those of {{mod}}`hyperspy_fusion.data`; `inclusions`,
`wells` and `wires` were written after the first version of the method. The second split
that has to show a gain, and when a slow part of an image is subtracted, were settled
with all of them, on 64 x 64 pixels with seed 1. *Ratio* is the error with the image
over that with HAADF alone, where error is the root mean square distance from the truth
over the root mean square of the truth, mean over elements; the largest ratio of all
elements is that of the *worst element*. *Used* tells in how many fusions the image got
a weight."""


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)

    def head(_):
        return PAGE.format(
            size=arguments.size,
            seeds=", ".join(map(str, arguments.seeds)),
            plural="s" * (len(arguments.seeds) > 1),
            options=_options(arguments),
        )

    measurers = {"good": measure_good, "bad": measure_bad}
    report(measurers, arguments, "Several elastic images", head)


def _options(arguments):
    """The options that are not the usual ones, as they are given in a shell."""
    found = ""
    for name in ("size", "seeds", "bad_size", "bad_seeds"):
        value = getattr(arguments, name)
        if value != _parser().get_default(name):
            values = value if isinstance(value, list) else [value]
            found += f" --{name.replace('_', '-')} {' '.join(map(str, values))}"
    return found


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks elastic",
        description="What a second elastic image beside HAADF gives.",
    )
    parser.add_argument(
        "--specimens", nargs="+", default=list(SPECIMENS), choices=list(SPECIMENS)
    )
    parser.add_argument("--tables", nargs="+", default=["good", "bad"])
    parser.add_argument("--counts", nargs="+", type=float, default=[1.0, 4.0, 16.0])
    parser.add_argument(
        "--bad-counts", nargs="+", type=float, default=[4.0], help="of the bad images"
    )
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument(
        "--bad-size", type=int, default=96, help="pixels a side with the bad images"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--bad-seeds", nargs="+", type=int, help="of the bad images; as --seeds if not"
    )
    parser.add_argument("--markdown", type=Path, help="page to write")
    return parser


# --- specimens ----------------------------------------------------------------------


def of_the_package(name):
    """A specimen of the package."""

    def simulate(size, counts, seed):
        specimen = getattr(hyperspy_fusion.data, name)(size, counts=counts, seed=seed)
        return specimen.maps, specimen.haadf, specimen.truth

    return simulate


def of_thickness(geometry):
    """A specimen whose thickness by elements is ``geometry(size)``."""

    def simulate(size, counts, seed):
        thickness = geometry(size)
        z = [atomic_number(element) for element in thickness]
        blurred = [gaussian_filter(array, 0.7) for array in thickness.values()]
        measured, haadf, truth = measure(np.stack(blurred), z, counts, ELECTRONS, seed)

        def signals(images):
            return [
                titled(*pair) for pair in zip(thickness, images, strict=True)
            ]  # fmt: skip

        return signals(measured), titled("HAADF", haadf), signals(truth)

    return simulate


def titled(title, image):
    """An image with a title, calibrated."""
    axes = [{"size": n, "name": name, "scale": 0.5, "units": "nm"}
            for n, name in zip(image.shape, "yx", strict=True)]  # fmt: skip
    signal = Signal2D(image, axes=axes)
    signal.metadata.General.title = title
    return signal


def inclusions(size):
    """Platinum particles and voids in a ceria film that thins to one side."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:size, :size] / size
    film = 0.5 + 0.3 * x + 0.1 * np.sin(5 * y)
    platinum = np.zeros((size, size))
    for k in range(14):
        centre, radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.03, 0.08)
        squares = radius**2 - (y - centre[0]) ** 2 - (x - centre[1]) ** 2
        chord = 2 * np.sqrt(np.maximum(squares, 0))
        film -= 2 * chord
        if k < 9:
            platinum += 2 * chord
    film = np.maximum(film, 0.05)
    return {"Pt": platinum, "Ce": film, "O": 2 * film}


def wells(size):
    """Quantum wells of InGaN with rough interfaces, in a wedge."""
    rng = np.random.default_rng(12)
    y, x = np.mgrid[:size, :size] / size
    share = np.zeros((size, size))
    for k, width in enumerate((0.03, 0.05, 0.08)):
        rough = gaussian_filter(rng.normal(size=size), 4)
        place = 0.25 * (k + 1) + 0.03 * rough / rough.std() / 3
        share += 0.35 * (abs(y - place) < width)
    thickness = 0.6 + 0.4 * x
    return {
        "In": share * thickness,
        "Ga": (1 - share) * thickness,
        "N": thickness,
    }


def wires(size):
    """Crossed wires with a germanium core, a silicon shell and an oxide skin."""
    y, x = np.mgrid[:size, :size] / size
    core, shell, skin = np.zeros((3, size, size))
    wires_of = [(0.3, 0.2, 0.11), (0.8, -0.4, 0.09), (0.55, 1.3, 0.13)]
    for place, slope, radius in wires_of:
        away = (y - place - slope * (x - 0.5)) / np.hypot(1, slope)
        outer, middle, inner = (
            2 * np.sqrt(np.maximum((part * radius) ** 2 - away**2, 0))
            for part in (1.2, 1.0, 0.6)
        )
        core += inner
        shell += middle - inner
        skin += outer - middle
    return {"Ge": core, "Si": shell + skin / 3, "O": 2 / 3 * skin + 0.02}


SPECIMENS = {
    **{name: of_the_package(name) for name in ("lattice", "core_shell", "janus")},
    **{each.__name__: of_thickness(each) for each in (inclusions, wells, wires)},
}


# --- images -------------------------------------------------------------------------


def second_image(kind, truth, seed):
    """A second image, titled by its kind."""
    mismatch = {"displaced": {"shift": (2, -1)}, "saturated": {"nonlinear": 0.3}}
    mismatch |= {"wave": {"wave": True}, "unmapped element": {"unmapped": True}}
    if kind in GOOD:
        return elastic_image(truth, kind, ELECTRONS, seed)
    if kind in mismatch:
        image = elastic_image(truth, "phase", ELECTRONS, seed, **mismatch[kind])
    else:
        rng = np.random.default_rng([seed, BAD.index(kind)])
        data = detected(rng, _spoilt(kind, truth, rng), ELECTRONS)
        image = elastic_image(truth, "phase", ELECTRONS, seed)
        image.data = data
    image.metadata.General.title = kind
    return image


def _spoilt(kind, truth, rng):
    """An image without noise, of at most 1."""
    atoms = as_array(truth) / SENSITIVITIES[:, None, None]
    z = [atomic_number(signal.metadata.General.title) for signal in truth]
    image = np.tensordot(np.power(z, 0.7), atoms, 1)
    image /= image.max()
    n_y, n_x = image.shape
    y, x = np.mgrid[:n_y, :n_x]
    contours = np.sin(2 * np.pi * (0.6 * x + 0.8 * y) / 40)
    if kind == "noise":
        return np.full(image.shape, 0.5)
    if kind == "texture":
        smooth = gaussian_filter(rng.normal(size=image.shape), 2)
        return np.clip(0.5 + 0.15 * smooth / smooth.std(), 0, None)
    if kind == "other specimen":
        other = "janus" if "Co" in str(truth) else "core_shell"
        other = as_array(SPECIMENS[other](n_x, 1.0, 1)[2]).sum(axis=0)
        return other / other.max()
    if kind in ("blurred", "no low frequencies"):
        blurred = gaussian_filter(image, 2 if kind == "blurred" else 20)
        image = blurred if kind == "blurred" else image - 0.8 * blurred
        return image - min(image.min(), 0)
    if kind == "bending contours":
        return image * (1 + 0.15 * contours)
    centres = rng.uniform(0, 1, (20, 2)) * image.shape  # of grains
    squares = (y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2
    grains = rng.uniform(0.5, 1.5, 20)[squares.argmin(axis=-1)]
    return gaussian_filter(image * grains * (1 + 0.3 * contours), 0.7)


# --- measurements -------------------------------------------------------------------


def fuse(maps, haadf, elastic=None):
    """Fused maps, and the seconds that it took."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fused = hyperspy_fusion.fuse_multimodal(
            maps, haadf, BACKGROUND, elastic=elastic, show_progressbar=False
        )
    return fused, time.perf_counter() - start


def errors(fused, truth):
    """Error of each element."""
    square, truth = (1, 2), as_array(truth)
    difference = as_array(fused) - truth
    return np.sqrt((difference**2).mean(square) / (truth**2).mean(square))


def ratios(name, counts, seed, kinds, size):
    """Ratio, that of the worst element, weight and time of each kind of image."""
    maps, haadf, truth = SPECIMENS[name](size, counts, seed)
    alone, seconds = fuse(maps, haadf)
    before = errors(alone, truth)
    found = {}
    for kind in kinds:
        fused, taken = fuse(maps, haadf, second_image(kind, truth, seed))
        after = errors(fused, truth)
        weight = float(fused[0].metadata.Multimodal_fusion.lambda_elastic[0])
        found[kind] = (
            after.mean() / before.mean(),
            (after / before).max(),
            weight > 0,
            taken / seconds,
        )
        say(f"{name}, {counts:g} counts, seed {seed}, {kind}: {found[kind][0]:.3f}")
    return before.mean(), found


def measure_good(arguments):
    """Images that see the specimen in another way."""
    rows, every = [], {kind: [] for kind in GOOD}
    times = []
    for name in arguments.specimens:
        for counts in arguments.counts:
            cells = [
                ratios(name, counts, seed, GOOD, arguments.size)
                for seed in arguments.seeds
            ]
            row = [name, f"{counts:g}", f"{np.mean([e for e, _ in cells]):.4f}"]
            for kind in GOOD:
                of_kind = [found[kind] for _, found in cells]
                every[kind] += of_kind
                row.append(f"{_mean([one[0] for one in of_kind]):.2f}")
            times += [found[kind][3] for _, found in cells for kind in GOOD]
            rows.append(row)
    header = ["specimen", "counts", "HAADF alone", *(f"with {kind}" for kind in GOOD)]
    yield Table("Good images: error with HAADF alone, and ratios", header, rows)
    yield _summary("Good images, all together", every, times)


def measure_bad(arguments):
    """Images that show something else."""
    every, times = {kind: [] for kind in BAD}, []
    seeds = arguments.bad_seeds or arguments.seeds
    for name in arguments.specimens:
        for counts in arguments.bad_counts:
            for seed in seeds:
                _, found = ratios(name, counts, seed, BAD, arguments.bad_size)
                for kind in BAD:
                    every[kind].append(found[kind])
                    times.append(found[kind][3])
    counts = " and ".join(f"{n:g}" for n in arguments.bad_counts)
    size = f"{arguments.bad_size} x {arguments.bad_size}"
    drawn = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    which = f"Of all specimens with {counts} counts, {drawn}, on {size} pixels. "
    yield _summary("Bad images, all together", every, times, which)


def _summary(title, every, times, which=""):
    rows = []
    for kind, found in every.items():
        ratio, worst, used, _ = zip(*found, strict=True)
        rows.append(
            [
                kind,
                f"{_mean(ratio):.3f}",
                f"{min(ratio):.2f}",
                f"{max(ratio):.3f}",
                f"{max(worst):.2f}",
                f"{sum(used)} of {len(used)}",
            ]
        )
    header = ["image", "ratio", "least", "largest", "worst element", "used"]
    return Table(
        title,
        header,
        rows,
        f"{which}Geometric mean, least and largest of the ratios. The fusion with the "
        f"image took {np.median(times):.1f} times as long as with HAADF alone.",
    )


def _mean(ratio):
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(ratio))))
