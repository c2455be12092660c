"""Whether a bad image invents chemistry: `python -m benchmarks trust`.

Prints the tables of the page ``docs/benchmarks/trust.md``, and writes that page with
``--markdown``.
"""

import argparse
import textwrap
import warnings
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, label, map_coordinates

import hyperspy_fusion
from hyperspy_fusion.derived import flagged_pixels
from hyperspy_fusion.detectors import SENSITIVITIES, detected
from hyperspy_fusion.inputs.elements import atomic_number

from .accuracy import BACKGROUND, as_array
from .elastic import ELECTRONS, SPECIMENS, errors, titled
from .table import Table, report, say

WORSE = 1.03  # ratio of errors above which a fusion is worse than counts alone
WIDTH = 2.0  # pixels, of the windows in which features are looked for
STRENGTH = 3.0  # standard deviations of the raw counts in a window

PAGE = """\
This page is what `python -m benchmarks trust --markdown docs/benchmarks/trust.md`
writes. HAADF images, and maps, of six specimens (seed {seed}, {size} x {size}
pixels, {counts} counts) are spoilt in nine ways and fused by `fuse_multimodal`,
everything automatic. *Ratio* is the error of the fused maps against the truth over
that of the same method from the counts alone (`lambda_haadf=0`): geometric mean of
{n} cases, and the worst; *above {worse:g}* is in how many of them it is larger than
that. A *false feature* is a connected region in which the fused map, in Gaussian
windows of {width:g} pixels, is apart from the truth by more than {strength:g}
standard deviations of the raw counts in that window, outside of what the guard
flagged: mean number a map, fused and from counts alone, whose smoothing has such
regions, too. *Not used* is in how many cases the image was not used at all, *warned*
in how many a warning says that something is wrong. All of it took {minutes:.0f}
minutes on one core of a shared machine."""


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)

    def head(minutes):
        return PAGE.format(
            size=arguments.size,
            counts=", ".join(f"{counts:g}" for counts in arguments.counts),
            seed=arguments.seed,
            n=len(arguments.specimens) * len(arguments.counts),
            worse=WORSE,
            width=WIDTH,
            strength=STRENGTH,
            minutes=minutes,
        )

    report({"trust": measure_trust}, arguments, "Bad images against counts alone", head)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks trust",
        description="Fused maps against those of counts alone, with spoilt images.",
    )
    for name, choices in {"specimens": list(SPECIMENS), "faults": list(FAULTS)}.items():
        parser.add_argument(
            f"--{name}", nargs="+", default=choices, choices=choices, metavar="NAME"
        )
    parser.add_argument("--counts", nargs="+", type=float, default=[1.0, 4.0, 16.0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.set_defaults(tables=["trust"])
    return parser


# --- faults -------------------------------------------------------------------------


def matter(truth, z):
    """The image without noise, of at most 1."""
    image = np.tensordot(np.power(z, 1.7), truth / SENSITIVITIES[:, None, None], 1)
    return image / image.max()


def places(image):
    """Rows and columns, from 0 to 1."""
    n_y, n_x = image.shape
    y, x = np.mgrid[:n_y, :n_x]
    return y / n_y, x / n_x


def diffracting(image, rng):
    """Grains of other brightness, with bending contours."""
    y, x = places(image)
    centres = rng.uniform(0, 1, (12, 2))
    squares = (y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2
    grains = rng.uniform(0.7, 1.3, 12)[squares.argmin(axis=-1)]
    contours = 1 + 0.2 * np.sin(2 * np.pi * (3 * x + 4 * y))
    return image * gaussian_filter(grains, 0.7) * contours


def on_wedge(image, _):
    """A support without a map that becomes thicker to one side."""
    return image + 0.5 * places(image)[1]


def contaminated(image, _):
    """Hydrocarbon where the beam had been before: a square, thicker at its rim."""
    y, x = places(image)
    inside = np.maximum(np.abs(y - 0.55), np.abs(x - 0.45))
    return image + 0.25 * gaussian_filter((inside < 0.25) * (0.5 + 2 * inside), 1)


def blurred(image, _):
    """A probe that was not in focus."""
    return gaussian_filter(image, 2)


def saturated(image, _):
    """A detector with an end of its range."""
    return np.minimum(image, np.quantile(image, 0.8))


def distorted(image, _):
    """Drift to and fro during the scan."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    moved = x + 1.5 * np.sin(2 * np.pi * y / image.shape[0])
    return map_coordinates(image, [y, moved], order=1, mode="nearest")


# What is done to the image without noise; or to Z of the elements, or to the maps.
FAULTS = {
    "none": None,
    "element missing": "without the heaviest",
    "diffraction contrast": diffracting,
    "thickness wedge": on_wedge,
    "hydrocarbon": contaminated,
    "beam damage": "thinned",
    "equal Z": "equal",
    "saturated": saturated,
    "blurred": blurred,
    "distorted": distorted,
}


def spoilt(fault, maps, truth, rng):
    """Maps, image and truth with a fault."""
    z = np.array([atomic_number(m.metadata.General.title) for m in truth], float)
    expected, change = as_array(truth), FAULTS[fault]
    image = matter(expected, np.full(3, 20.0) if change == "equal" else z)
    if callable(change):
        image = change(image, rng)
    haadf = titled("HAADF", detected(rng, image, ELECTRONS))
    titles = [signal.metadata.General.title for signal in maps]
    measured, heaviest, lightest = as_array(maps), int(z.argmax()), int(z.argmin())
    if change == "thinned":  # row by row it loses more of its lightest element
        left = 1 - 0.5 * places(image)[0]
        expected[lightest] *= left
        measured[lightest] = rng.binomial(measured[lightest].astype(int), left)
    kept = [i for i in range(3) if change != "without the heaviest" or i != heaviest]
    pairs = [
        [titled(titles[i], images[i]) for i in kept] for images in (measured, expected)
    ]
    return pairs[0], haadf, pairs[1]


# --- measurement --------------------------------------------------------------------


def fuse(maps, haadf, **options):
    """Fused maps, quietly; what was said is in their record."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return hyperspy_fusion.fuse_multimodal(
            maps, haadf, BACKGROUND, show_progressbar=False, **options
        )


def false_features(fused, truth):
    """Number of regions of a map that are apart from the truth, and not flagged."""
    expected = as_array(truth)
    apart = gaussian_filter(as_array(fused) - expected, (0, WIDTH, WIDTH))
    # sum of the squares of the weights of the window
    narrower = WIDTH / np.sqrt(2)
    squares = gaussian_filter(expected + BACKGROUND, (0, narrower, narrower))
    sigma = np.sqrt(squares / (4 * np.pi * WIDTH**2))
    wrong = (np.abs(apart) > STRENGTH * sigma) & ~flagged_pixels(fused)
    return np.mean([label(image)[1] for image in wrong])


def measure_trust(arguments):
    """A row for each fault, and those cases that are worse than counts alone."""
    cases = {fault: [] for fault in arguments.faults}
    worse = []
    for name in arguments.specimens:
        for counts in arguments.counts:
            maps, _, truth = SPECIMENS[name](arguments.size, counts, arguments.seed)
            known = {}  # counts alone do not depend on the image
            for number, fault in enumerate(arguments.faults):
                rng = np.random.default_rng([arguments.seed, number])
                given, haadf, expected = spoilt(fault, maps, truth, rng)
                of_maps = fault if isinstance(FAULTS[fault], str) else "none"
                if of_maps not in known:
                    alone = fuse(given, haadf, lambda_haadf=0.0)
                    known[of_maps] = (
                        errors(alone, expected).mean(),
                        false_features(alone, expected),
                    )
                fused = fuse(given, haadf)
                record = fused[0].metadata.Multimodal_fusion
                ratio = errors(fused, expected).mean() / known[of_maps][0]
                features = false_features(fused, expected), known[of_maps][1]
                said = record.warnings.splitlines()
                cases[fault].append(
                    (ratio, *features, record.lambda_haadf == 0, bool(said))
                )
                say(f"{name}, {counts:g} counts, {fault}: {ratio:.3f}")
                if ratio > WORSE:
                    first = "**nothing**"
                    if said:
                        first = textwrap.shorten(said[0], 80, placeholder=" …")
                    row = [name, f"{counts:g}", fault, f"{ratio:.3f}", first]
                    worse.append(row)
    header = ["fault", "ratio", "worst", f"above {WORSE:g}"]
    header += ["false features fused", "counts alone", "not used", "warned"]
    rows = []
    for fault, every in cases.items():
        ratios, fused, alone, unused, warned = np.transpose(every)
        row = [fault, f"{np.exp(np.log(ratios).mean()):.3f}", f"{ratios.max():.3f}"]
        row += [f"{np.sum(ratios > WORSE)} of {len(ratios)}"]
        row += [f"{fused.mean():.2f}", f"{alone.mean():.2f}"]
        rows.append([*row, f"{unused.sum():.0f}", f"{warned.sum():.0f}"])
    yield Table("All specimens and doses together", header, rows)
    yield Table(
        f"Worse than counts alone by more than {100 * (WORSE - 1):.0f} %",
        ["specimen", "counts", "fault", "ratio", "first warning"],
        worse,
    )
