"""What sharing of counts gives: `python -m benchmarks sharing`.

Prints the tables of the page ``docs/benchmarks/sharing.md``, and writes that page with
``--markdown``.
"""

import argparse
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, uniform_filter

import hyperspy_fusion
from hyperspy_fusion.core.calibrated.noise import cumulant_of_mean, noise_residual
from hyperspy_fusion.data import measure

from .accuracy import BACKGROUND, GOALS, REAL_DATA, as_array
from .table import Table, change, report, save_grey, say

ATOMIC_NUMBERS = 66, 21, 8  # of the lattice
LARGER = (256, 3), (1024, 1)  # pixels a side, and how often it is measured
# Images that do not belong to the maps, or are not a sum over the elements.
BAD_IMAGES = {
    "shifted by (1, 2) pixels": {"shift": (1, 2)},
    "wavy background": {"wave": True},
    "nonlinear by 25 %": {"nonlinear": 0.25},
    "two unmapped blobs": {"unmapped": True},
}
UNRELATED = "of another specimen"
N_ODD, HALF_WIDTH = 6, 4  # odd columns, and pixels around the centre of each

# Of DyScO3: elements with columns of their own, width of a column, and what is shown.
COLUMNS, COLUMN_WIDTH, SHOWN = ("Sc", "Dy"), 13, slice(40, 136)
LOCAL = 2  # pixels, of the Gaussian of local means
CAPTION = """\
Fractions of DyScO3: measured; `fuse_published` with its defaults; `fuse_multimodal`
before and after sharing. Each panel is grey from 0 to its own 99.8 % quantile."""

PAGE = """\
This page is what `python -m benchmarks sharing --markdown docs/benchmarks/sharing.md
--figure docs/_static/sharing_dysco3.png` writes. Specimens of
{{mod}}`hyperspy_fusion.data` ({size} x {size} pixels, 2000 electrons in the HAADF
image, seeds {seeds}) are fused with the background of 0.02 counts a pixel and all else
chosen, with `share=False` and with `share=True`. *Error* is the root mean square
distance from the truth over the root mean square of the truth,
mean over elements and seeds; *worst element* is the largest ratio of the errors of one
element in one measurement. *Gain* is that of held-out counts on the two splits, in
standard deviations. *Times as long* compares the two calls. All of it took
{minutes:.0f} minutes on a shared machine; the tables of measured data, and the figure,
are those of `--tables measured`, which needs these data."""


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)

    def head(minutes):
        return PAGE.format(
            size=arguments.size,
            seeds=", ".join(map(str, arguments.seeds)),
            minutes=minutes,
        )

    measurers = {
        "specimens": measure_specimens,
        "images": measure_bad_images,
        "times": measure_times,
        "odd": measure_odd_columns,
        "measured": measure_measured,
    }
    report(measurers, arguments, "Shared counts", head)
    if arguments.markdown and arguments.figure:
        with arguments.markdown.open("a", encoding="utf-8") as page:
            picture = f"![Fractions of DyScO3](../_static/{arguments.figure.name})"
            page.write(f"\n{picture}\n\n{CAPTION}\n")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sharing",
        description="What it gives that pixels that look alike share their counts.",
    )
    parser.add_argument(
        "--specimens", nargs="+", default=list(GOALS), choices=list(GOALS)
    )
    parser.add_argument(
        "--tables", nargs="+", default=["specimens", "images", "times", "odd"]
    )
    parser.add_argument("--counts", nargs="+", type=float, default=[1.0, 4.0, 16.0])
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.add_argument("--figure", type=Path, help="picture of DyScO3 to write")
    return parser


def fuse(maps, haadf, background=BACKGROUND, **options):
    """Fused maps, and the seconds that it took."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fused = hyperspy_fusion.fuse_multimodal(
            maps, haadf, background, show_progressbar=False, **options
        )
    return fused, time.perf_counter() - start


def errors(fused, truth):
    """Error of each element."""
    square = (1, 2)
    difference = as_array(fused) - truth
    return np.sqrt((difference**2).mean(square) / (truth**2).mean(square))


def measure_specimens(arguments):
    """Errors with and without shared counts."""
    rows = []
    for name in arguments.specimens:
        for counts in arguments.counts:
            say(f"{name}, {counts:g} counts")
            pairs, gains, accepted, times = [], [], 0, []
            for seed in arguments.seeds:
                simulate = getattr(hyperspy_fusion.data, name)
                maps, haadf, truth = simulate(arguments.size, counts=counts, seed=seed)
                first, alone = fuse(maps, haadf)
                second, both = fuse(maps, haadf, share=True)
                record = second[0].metadata.Multimodal_fusion
                pairs.append([errors(x, as_array(truth)) for x in (first, second)])
                gains += [z for z in record.sharing_gain if np.isfinite(z)]
                accepted += int(record.sharing)
                times.append(both / alone)
            first, second = np.mean(pairs, axis=(0, 2))
            worst = max((after / before).max() for before, after in pairs)
            rows.append(
                [
                    name,
                    f"{counts:g}",
                    f"{first:.4f}",
                    f"{second:.4f}",
                    f"{second / first:.2f}",
                    f"{worst:.2f}",
                    f"{accepted} of {len(pairs)}",
                    f"{min(gains):.1f} to {max(gains):.1f}",
                    f"{np.median(times):.0f}",
                ]
            )
    header = ["specimen", "counts", "error", "shared", "ratio", "worst element"]
    header += ["accepted", "gain", "times as long"]
    yield Table("Errors", header, rows)


def measure_bad_images(arguments):
    """Errors before and after sharing with images that mislead."""
    rows = []
    for name in arguments.specimens:
        simulate = getattr(hyperspy_fusion.data, name)
        for kind in (UNRELATED, *BAD_IMAGES):
            say(f"{name}, image {kind}")
            ratios, accepted = [], 0
            for seed in arguments.seeds:
                maps, haadf, truth = simulate(
                    arguments.size, counts=4, seed=seed, **BAD_IMAGES.get(kind, {})
                )
                if kind == UNRELATED:
                    other = "core_shell" if name == "lattice" else "lattice"
                    other = getattr(hyperspy_fusion.data, other)
                    haadf.data = other(arguments.size, counts=4, seed=seed).haadf.data
                fused, _ = fuse(maps, haadf, share=True)
                first = [signal.get_unshared() for signal in fused]
                after, before = (errors(x, as_array(truth)) for x in (fused, first))
                ratios.append((after.mean() / before.mean(), (after / before).max()))
                accepted += int(fused[0].metadata.Multimodal_fusion.sharing)
            ratio, worst = np.max(ratios, axis=0)
            shown = f"{ratio:.2f}", f"{worst:.2f}", f"{accepted} of {len(ratios)}"
            rows.append([name, kind, *shown])
    yield Table(
        "Images that mislead",
        ["specimen", "image", "largest ratio", "worst element", "accepted"],
        rows,
        "4 counts. Errors over those before sharing; the largest of all seeds.",
    )


def measure_times(_):
    """How much longer fusions of larger images take."""
    rows = []
    for name in ("core_shell", "lattice"):  # janus does not share
        for size, times in LARGER:
            say(f"{name}, {size} pixels")
            simulate = getattr(hyperspy_fusion.data, name)
            maps, haadf, _ = simulate(size, counts=4, seed=1)
            seconds = []
            for _ in range(times):
                _, alone = fuse(maps, haadf)
                second, both = fuse(maps, haadf, share=True)
                seconds.append((alone, both))
            accepted = second[0].metadata.Multimodal_fusion.sharing
            ratio = np.median([both / alone for alone, both in seconds])
            rows.append([name, f"{size}", "yes" if accepted else "no", f"{ratio:.1f}"])
    yield Table(
        "Larger images",
        ["specimen", "pixels a side", "accepted", "times as long"],
        rows,
        "4 counts, seed 1.",
    )


def odd_lattice(size, counts, seed):
    """A lattice with columns of which half of the heavy element is another one."""
    perfect = as_array(hyperspy_fusion.data.lattice(size, counts=100).truth)
    heavy = perfect[0]
    peaks = (heavy == maximum_filter(heavy, 9)) & (heavy > 0.7 * heavy.max())
    edge = 3 * HALF_WIDTH
    peaks[:edge] = peaks[-edge:] = False
    peaks[:, :edge] = peaks[:, -edge:] = False
    places = np.argwhere(peaks)
    rng = np.random.default_rng(seed)
    odd = rng.choice(len(places), N_ODD, replace=False)
    thickness = perfect / np.array([1.0, 1.3, 1.6])[:, None, None]
    for place in places[odd]:
        around = tuple(slice(n - HALF_WIDTH, n + HALF_WIDTH + 1) for n in place)
        half = thickness[0][around] / 2
        thickness[0][around] -= half
        thickness[1][around] += half
    measured, haadf, truth = measure(thickness, ATOMIC_NUMBERS, counts, 2000, seed)
    return measured, haadf, truth, places, odd


def measure_odd_columns(arguments):
    """How much of the contrast of odd columns is kept."""
    rows = []
    for counts in arguments.counts:
        say(f"odd columns, {counts:g} counts")
        kept = []
        for seed in arguments.seeds:
            measured, haadf, truth, places, odd = odd_lattice(
                arguments.size, counts, seed
            )
            signals = hyperspy_fusion.data.lattice(arguments.size)
            for signal, image in zip(signals.maps, measured, strict=True):
                signal.data = image
            signals.haadf.data = haadf

            def contrast(heavy, places=places, odd=odd):
                columns = np.array(
                    [
                        heavy[
                            y - HALF_WIDTH : y + HALF_WIDTH + 1,
                            x - HALF_WIDTH : x + HALF_WIDTH + 1,
                        ].sum()
                        for y, x in places
                    ]
                )
                return np.delete(columns, odd).mean() - columns[odd]

            wanted = contrast(truth[0])
            for share in (False, True):
                fused, _ = fuse(signals.maps, signals.haadf, share=share)
                kept.append(contrast(fused[0].data) / wanted)
        first, second = (np.concatenate(kept[k::2]) for k in (0, 1))
        rows.append(
            [
                f"{counts:g}",
                *(
                    f"{each.mean():.2f} ({np.sqrt(np.mean((each - 1) ** 2)):.2f})"
                    for each in (first, second)
                ),
                f"{first.min():.2f}",
                f"{second.min():.2f}",
            ]
        )
    header = ["counts", "kept", "kept, shared", "least", "least, shared"]
    yield Table(
        "Single odd columns",
        header,
        rows,
        f"In {N_ODD} columns of the lattice half of the Dy is Sc. Their difference "
        "from the mean of the other columns, of Dy, over the true one: mean, root mean "
        "square distance from 1, and least.",
    )


def columns_of(image):
    """Centres of the columns in an image, away from its edges."""
    smooth = gaussian_filter(image, 2)
    peaks = smooth == maximum_filter(smooth, COLUMN_WIDTH)
    peaks &= smooth > np.quantile(smooth, 0.99) / 2
    inner = np.zeros_like(peaks)
    inner[10:-10, 10:-10] = True
    return np.argwhere(peaks & inner)


def slope_of_columns(measured, fused, centres):
    """Slope of measured contents of columns on the fused ones."""
    raw, found = (
        uniform_filter(image, 7)[tuple(centres.T)] for image in (measured, fused)
    )
    found = found - found.mean()
    return (raw * found).sum() / (found**2).sum()


def measure_measured(arguments):
    """Decisions on measured maps, and what becomes of the columns of DyScO3."""
    rows = []
    for name, function in REAL_DATA.items():
        say(name)
        maps, haadf = getattr(hyperspy_fusion.data, function)()
        fused, _ = fuse(maps, haadf, None, share=True)
        record = fused[0].metadata.Multimodal_fusion
        slopes = "-"
        if name == "DyScO3":
            measured = as_array(maps)
            first = as_array([image.get_unshared() for image in fused])
            both = [x / x.sum(axis=0) for x in (first, as_array(fused))]
            symbols = record.elements.split(",")
            slopes = []
            for symbol in COLUMNS:
                i = symbols.index(symbol)
                # Dy is what is bright in HAADF
                seen = haadf.data if symbol == "Dy" else measured[i]
                centres = columns_of(seen)
                each = [slope_of_columns(measured[i], x[i], centres) for x in both]
                slopes.append(f"{symbol} {change(*(f'{x:.2f}' for x in each))}")
            slopes = ", ".join(slopes)
            shown = {
                "measured": measured,
                "as published": as_published(maps, haadf),
                "before sharing": both[0],
                "shared": both[1],
            }
            if arguments.figure:
                _draw(shown, symbols, arguments.figure)
        gains = [z for z in record.sharing_gain if np.isfinite(z)]
        rows.append(
            [
                name,
                "yes" if record.sharing else "no",
                " and ".join(f"{z:.1f}" for z in gains),
                f"{record.sharing_lower:.1%}",
                slopes,
            ]
        )
    yield Table(
        "Measured data",
        ["specimen", "accepted", "gain", "squared errors lower by", "slopes"],
        rows,
        "The squared errors are those of held-out data, noise included. Slopes are "
        "those of the contents of columns (7 x 7 pixels, measured fractions on fused "
        "ones), before and after sharing: above 1 where differences that are measured "
        "are smaller in the fused maps.",
    )
    _, *others = shown
    yield Table(
        "Fractions of DyScO3, fused and measured",
        ["fractions", *symbols],
        [
            [title, *(f"{z:.1f}" for z in map(local_misfit, measured, shown[title]))]
            for title in others
        ],
        f"Root mean square of their difference, averaged by a Gaussian of {LOCAL} "
        "pixels, in standard deviations of the noise of such averages: about 1, if "
        "nothing that was measured is lost.",
    )


def as_published(maps, haadf):
    """Fractions of `fuse_published` with its defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fused = hyperspy_fusion.fuse_published(maps, haadf, show_progressbar=False)
    return as_array(fused) / as_array(fused).sum(axis=0)


def local_misfit(measured, fused):
    """Root mean square of local means of `measured` - `fused`, in those of noise."""
    residual, whole = noise_residual(measured, None)
    noise = cumulant_of_mean(np.full_like(measured, np.var(residual[whole])), LOCAL)
    return np.sqrt(np.mean(gaussian_filter(measured - fused, LOCAL) ** 2 / noise))


def _draw(columns, symbols, path):
    figure, panels = plt.subplots(
        len(symbols), len(columns), figsize=(8, 6.2), layout="constrained"
    )
    for i, row in enumerate(panels):
        for panel, (title, images) in zip(row, columns.items(), strict=True):
            image = images[i][SHOWN, SHOWN]
            panel.imshow(image, cmap="gray", vmin=0, vmax=np.quantile(image, 0.998))
            panel.set(xticks=[], yticks=[])
            if i == 0:
                panel.set_title(title, fontsize="small")
        row[0].set_ylabel(symbols[i], fontsize="small")
    save_grey(figure, path, 90)
