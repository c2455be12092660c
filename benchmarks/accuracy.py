"""How near to the truth the fused maps come: `python -m benchmarks accuracy`.

Prints the tables of the page ``docs/benchmarks/accuracy.md``, and writes that page with
``--markdown``. Needs scikit-image: ``pip install ".[tests]"``.
"""

import argparse
import itertools
import os
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_tv_chambolle

import hyperspy_fusion

from .table import Table, report, say

# Goals for the normalised RMSE at 128 x 128 pixels and 2000 electrons, by counts.
GOALS = {
    "core_shell": {0.5: 0.278, 1.0: 0.180, 4.0: 0.102, 16.0: 0.063},
    "lattice": {0.5: 0.324, 1.0: 0.240, 4.0: 0.159, 16.0: 0.104},
    "janus": {0.5: 0.142, 1.0: 0.112, 4.0: 0.075, 16.0: 0.047},
}
MISMATCHES = {
    "none": {},
    "nonlinear by 8 %": {"nonlinear": 0.08},
    "nonlinear by 25 %": {"nonlinear": 0.25},
    "shift (1, 0)": {"shift": (1, 0)},
    "shift (1, 2)": {"shift": (1, 2)},
    "unmapped element": {"unmapped": True},
    "wavy pedestal": {"wave": True},
}
MISMATCH_COUNTS = 4.0
BLOBS = (40 / 128, 80 / 128), (90 / 128, 45 / 128)  # of the unmapped element
REAL_DATA = {"DyScO3": "dysco3", "Co3O4-Mn3O4": "co3o4_mn3o4"}
BACKGROUND = 0.02  # counts a pixel, of the simulated maps
WIDTHS = 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6  # pixels, of the Gaussian filters
TV_WEIGHTS = np.geomspace(0.05, 4, 12)  # standard deviations of a map
HIDDEN = 0.2  # fraction of the pixels
DRAWS = 1, 2, 3
# Weights of the published method to choose from, besides its defaults.
PUBLISHED = [
    {
        "lambda_haadf": lambda_haadf,
        "lambda_chem": lambda_chem,
        "lambda_tv": lambda_tv,
        "n_iter_tv": n_iter_tv,
        "epsilon": 0.05,
    }
    for lambda_haadf, lambda_chem, (lambda_tv, n_iter_tv) in itertools.product(
        (0.03, 0.1, 0.33),
        (0.02, 0.08, 0.3),
        ((0.05, 3), (0.15, 3), (0.15, 10), (1, 10)),
    )
]

PAGE = """\
This page is what `python -m benchmarks accuracy --markdown docs/benchmarks/accuracy.md`
writes. The specimens of {{mod}}`hyperspy_fusion.data` ({size} x {size} pixels, 2000
electrons in the HAADF image) are measured with the seeds {seeds}; errors are the root
mean square distance from the truth over the root mean square of the truth, in absolute
counts, means over elements and seeds. *Raw* are the measured maps without their
background; *Gaussian* is the filter of the width that comes nearest to the truth;
*published* is `fuse_published` with its defaults, and with the best of
{n_published} sets of weights, both rescaled affinely map by map to come as near to the
truth as they can, without which they are worse. *Calibrated* is `fuse_multimodal`,
given the background of 0.02 counts a pixel and nothing of the truth; *shared* the same
with `share=True`. *Goal* is what the project set out to reach. All of it used {cores}
cores of a shared machine, and took {minutes:.0f} minutes."""


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)
    measurers = {
        "specimens": measure_specimens,
        "mismatches": measure_mismatches,
        "real": measure_real_data,
    }

    def head(minutes):
        return PAGE.format(
            size=arguments.size,
            seeds=", ".join(map(str, arguments.seeds)),
            n_published=len(PUBLISHED),
            cores=len(os.sched_getaffinity(0)),
            minutes=minutes,
        )

    report(measurers, arguments, "Accuracy", head)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accuracy",
        description="How near to the truth the fused maps come.",
    )
    options = [
        ("tables", str, ["specimens", "mismatches", "real"]),
        ("specimens", str, list(GOALS)),
        ("counts", float, [0.5, 1.0, 4.0, 16.0]),
        ("seeds", int, [1, 2, 3]),
    ]
    for name, kind, default in options:
        choices = default if kind is str else None
        parser.add_argument(
            f"--{name}", nargs="+", type=kind, default=default, choices=choices
        )
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--markdown", type=Path, help="page to write")
    return parser


# --- simulated specimens --------------------------------------------------------


def measure_specimens(arguments):
    """Errors of all methods, and what the calibrated one decided."""
    errors, decisions, ratios = [], [], []
    for name, counts in itertools.product(arguments.specimens, arguments.counts):
        say(f"{name}, {counts:g} counts")
        specimens = simulate(name, counts, arguments)
        fused, records, seconds = zip(*map(calibrated, specimens), strict=True)
        found = list(map(error, fused, specimens))
        shared = [calibrated(specimen, share=True)[0] for specimen in specimens]
        goal = GOALS[name].get(counts, np.nan) if arguments.size == 128 else np.nan
        ratios.append(np.mean(found) / goal)
        raw = np.mean([error(net_counts(s), s) for s in specimens])
        width, filtered = best_gaussian(specimens)
        errors.append(
            [
                name,
                f"{counts:g}",
                f"{raw:.3f}",
                f"{filtered:.3f} ({width:g} px)",
                *(f"{value:.3f}" for value in published(specimens)),
                f"**{np.mean(found):.3f}**",
                f"{np.mean(list(map(error, shared, specimens))):.3f}",
                f"{goal:.3f}",
                f"{ratios[-1]:.3f}",
            ]
        )
        decisions.append(
            [
                name,
                f"{counts:g}",
                " ".join(f"{value:.3f}" for value in found),
                f"{max(map(flux_error, fused, specimens)):.2%}",
                *(
                    per_seed(records, entry)
                    for entry in ("lambda_tv", "lambda_haadf", "haadf_gain", "guard")
                ),
                f"{np.mean(seconds):.1f}",
            ]
        )
    yield Table(
        "Error against the truth",
        [
            "specimen",
            "counts",
            "raw",
            "Gaussian",
            "published",
            "published, tuned",
            "calibrated",
            "shared",
            "goal",
            "of goal",
        ],
        errors,
        f"The calibrated method is at {np.mean(ratios):.3f} of the goal in the mean.",
    )
    yield Table(
        "What the calibrated method decided",
        [
            "specimen",
            "counts",
            "errors",
            "fluxes",
            "λ_TV",
            "λ_HAADF",
            "gain z",
            "guard",
            "s",
        ],
        decisions,
        "Each seed has its number. *Fluxes* is the largest difference of the sum of a "
        "fused map from that of the measured one, *gain z* what the HAADF image is "
        "worth in standard deviations of the prediction of held-out counts, *guard* "
        "the largest local misfit in standard deviations, *s* the time of a fusion in "
        "seconds.",
    )


def simulate(name, counts, arguments, **mismatch):
    """The specimen as measured with each seed."""
    specimen = getattr(hyperspy_fusion.data, name)
    return [
        specimen(arguments.size, counts=counts, seed=seed, **mismatch)
        for seed in arguments.seeds
    ]


def calibrated(specimen, **options):
    """Fused maps as an array, their record, and seconds."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the tables tell of the guard
        fused = hyperspy_fusion.fuse_multimodal(
            specimen.maps, specimen.haadf, background=BACKGROUND, **options
        )
    seconds = time.perf_counter() - start
    return as_array(fused), fused[0].metadata.Multimodal_fusion, seconds


def published(specimens):
    """Error of the published method with its defaults, and with its best weights.

    The weights are chosen by the truth of the first seed.
    """

    def rescaled_error(specimen, weights):
        fused = hyperspy_fusion.fuse_published(specimen.maps, specimen.haadf, **weights)
        truth = as_array(specimen.truth)
        return error(list(map(rescale, as_array(fused), truth)), specimen)

    found = [rescaled_error(specimens[0], weights) for weights in PUBLISHED]
    for weights in ({}, PUBLISHED[int(np.argmin(found))]):
        yield np.mean([rescaled_error(specimen, weights) for specimen in specimens])


def best_gaussian(specimens):
    """Width and error of the Gaussian filter that comes nearest to the truth."""
    errors = [
        np.mean(
            [error(gaussian_filter(net_counts(s), (0, w, w)), s) for s in specimens]
        )
        for w in WIDTHS
    ]
    best = int(np.argmin(errors))
    return WIDTHS[best], errors[best]


def as_array(signals):
    """Images as an array, shape ``(n, y, x)``."""
    return np.stack([signal.data for signal in signals]).astype(float)


def per_seed(records, entry):
    """What the records hold, one number after the other."""
    return " ".join(f"{record.get_item(entry, np.nan):.2g}" for record in records)


def net_counts(specimen):
    """Measured maps without background."""
    return as_array(specimen.maps) - BACKGROUND


def error(maps, specimen):
    """Normalised root mean square error, mean over the elements."""
    truth = as_array(specimen.truth)
    squares = ((maps - truth) ** 2).mean(axis=(1, 2)) / (truth**2).mean(axis=(1, 2))
    return np.sqrt(squares).mean()


def flux_error(maps, specimen):
    """Largest relative difference of the sum of a map from the measured one."""
    measured = net_counts(specimen).sum(axis=(1, 2))
    return np.abs(maps.sum(axis=(1, 2)) / measured - 1).max()


def rescale(image, truth):
    """The affine function of an image that is nearest to the truth."""
    slope, intercept = np.polyfit(image.ravel(), truth.ravel(), 1)
    return slope * image + intercept


# --- images that do not match the maps ------------------------------------------


def measure_mismatches(arguments):
    """Fused maps against those of counts alone where the HAADF image misleads."""
    rows = []
    for name, mismatch in itertools.product(arguments.specimens, MISMATCHES):
        say(f"{name}, {mismatch}")
        specimens = simulate(name, MISMATCH_COUNTS, arguments, **MISMATCHES[mismatch])
        fused, records, _ = zip(*map(calibrated, specimens), strict=True)
        alone = [calibrated(specimen, lambda_haadf=0.0)[0] for specimen in specimens]
        with_image, without = (
            np.mean(list(map(error, maps, specimens))) for maps in (fused, alone)
        )
        invention = ""
        if mismatch == "unmapped element":
            invention = " / ".join(
                f"{np.mean(list(map(invented, maps, specimens))):.0%}"
                for maps in (fused, alone)
            )
        rows.append(
            [
                name,
                mismatch,
                f"{with_image:.3f}",
                f"{without:.3f}",
                f"{with_image / without:.3f}",
                *(
                    per_seed(records, entry)
                    for entry in ("haadf_gain", "guard", "flagged")
                ),
                invention,
            ]
        )
    yield Table(
        "Images that do not match the maps",
        [
            "specimen",
            "mismatch",
            "fused",
            "counts alone",
            "ratio",
            "gain z",
            "guard",
            "flagged",
            "invented",
        ],
        rows,
        f"At {MISMATCH_COUNTS:g} counts. *Counts alone* is the same method with "
        "`lambda_haadf=0`, *flagged* the fraction of the pixels whose HAADF image the "
        "guard put aside. *Invented* is how far, at worst, the maps exceed the truth "
        "where an element without a map lies, as a fraction of their maximum: fused / "
        "counts alone.",
    )


def invented(maps, specimen):
    """Largest mean excess over the truth in a blob, as a fraction of its maximum."""
    truth = as_array(specimen.truth)
    n_y, n_x = truth.shape[1:]
    y, x = np.ogrid[:n_y, :n_x]
    excess = (maps - truth) / truth.max(axis=(1, 2), keepdims=True)
    radius = 5  # pixels, the width of a blob
    return max(
        excess[:, np.hypot(y - b_y * n_y, x - b_x * n_x) < radius].mean(axis=1).max()
        for b_y, b_x in BLOBS
    )


# --- real data ------------------------------------------------------------------


def measure_real_data(_arguments):
    """Prediction of hidden pixels of real maps."""
    rows = []
    for name, function in REAL_DATA.items():
        say(name)
        maps, haadf = getattr(hyperspy_fusion.data, function)()
        images = as_array(maps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            whole = hyperspy_fusion.fuse_multimodal(maps, haadf)
            draws = [hidden_errors(maps, haadf, images, draw) for draw in DRAWS]
        record = whole[0].metadata.Multimodal_fusion
        fluxes = as_array(whole).sum(axis=(1, 2)) / images.sum(axis=(1, 2)) - 1
        rows.append(
            [
                name,
                *(
                    f"{np.mean(ratios):.4f} ("
                    + " ".join(f"{ratio:.4f}" for ratio in ratios)
                    + ")"
                    for ratios in zip(*draws, strict=True)
                ),
                *(
                    f"{record.get_item(key, np.nan):.2g}".replace("nan", "-")
                    for key in ("haadf_gain", "guard")
                ),
                f"{record.lambda_tv:.2g}",
                f"{record.lambda_haadf:.2g}",
                f"{np.abs(fluxes).max():.2%}",
            ]
        )
    yield Table(
        "Real data",
        [
            "data",
            "error against Gaussian",
            "error against TV",
            "gain z",
            "guard",
            "λ_TV",
            "λ_HAADF",
            "fluxes",
        ],
        rows,
        f"{100 * HIDDEN:.0f} % of the pixels of each map are hidden and predicted. "
        "The errors are mean squares on these pixels, noise included, relative to "
        "those of the best Gaussian filter (a normalised convolution) and of the best "
        "`skimage.restoration.denoise_tv_chambolle`, both chosen on the hidden pixels "
        "themselves, map by map: mean over the maps and over three draws of the "
        "pixels, and each draw in brackets. Most of the error is the noise of the "
        "hidden pixels themselves, so that a small part counts. *Fluxes* is the "
        "largest change of a sum, of all pixels: fractions have none that could be "
        "kept, and of Co3O4-Mn3O4 the background found in the vacuum is subtracted.",
    )


def hidden_errors(maps, haadf, images, draw):
    """Errors on hidden pixels against the best Gaussian and TV filter, mean of maps."""
    # a seed of its own: with 0 the fusion would hold out the very same pixels
    hidden = np.random.default_rng([2024, draw]).random(images.shape) < HIDDEN
    fractions = np.allclose(images.sum(axis=0), 1)
    if fractions:  # a pixel without one of them has none
        hidden[:] = hidden[0]
    shown = np.where(hidden, np.nan, images)
    fused = hyperspy_fusion.fuse_multimodal(
        [_with_data(m, s) for m, s in zip(maps, shown, strict=True)], haadf
    )
    if fractions:
        fused = hyperspy_fusion.get_fractions(fused)
    found = squared_errors(as_array(fused), images, hidden)
    rivals = []
    for image, known, target in zip(shown, ~hidden, images, strict=True):
        smooth, gaussian = best_smooth(image, known, target)
        _, tv = best_tv(image, known, target, smooth)
        rivals.append([gaussian, tv])
    return (found[:, None] / rivals).mean(axis=0)


def _with_data(signal, data):
    return signal._deepcopy_with_new_data(data)  # noqa: SLF001


def squared_errors(predicted, images, hidden):
    """Mean squared error on the hidden pixels of each map, shape ``(n_elements,)``."""
    return np.array(
        [
            np.mean((p - i)[h] ** 2)
            for p, i, h in zip(predicted, images, hidden, strict=True)
        ]
    )


def best_smooth(image, known, target):
    """The normalised convolution that predicts hidden pixels best, and its error."""
    filled = np.where(known, image, 0)
    candidates = [
        gaussian_filter(filled, width) / gaussian_filter(known.astype(float), width)
        for width in WIDTHS
    ]
    return _best(candidates, known, target)


def best_tv(image, known, target, smooth):
    """The total-variation filter that predicts hidden pixels best, and its error.

    Hidden pixels are filled by the best Gaussian filter, then by the result itself.
    """
    candidates = []
    for weight in TV_WEIGHTS * image[known].std():
        guess = smooth
        for _ in range(2):
            guess = denoise_tv_chambolle(
                np.where(known, image, guess), weight, eps=1e-5, max_num_iter=500
            )
        candidates.append(guess)
    return _best(candidates, known, target)


def _best(candidates, known, target):
    errors = [np.mean((guess - target)[~known] ** 2) for guess in candidates]
    best = int(np.argmin(errors))
    return candidates[best], errors[best]


if __name__ == "__main__":
    main()
