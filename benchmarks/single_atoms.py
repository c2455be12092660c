"""What sharing does to what does not repeat: `python -m benchmarks single_atoms`.

Prints the table of the page ``docs/benchmarks/single_atoms.md``, and writes that page
with ``--markdown`` and its picture with ``--figure``.
"""

import argparse
import textwrap
from dataclasses import dataclass
from pathlib import Path

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from hyperspy_fusion.data import measure

from .sharing import fuse
from .table import Table, change, report, save_grey, say

PITCH, COLUMN = 16, 2.2  # pixels: unit cell, standard deviation of a column
REACH, WIDTH = 4, 2.0  # pixels: of a column around its centre; of a false peak
N_ODD, NEAR = 6, 8  # odd columns; pixels around what does not repeat

PAGE = """\
This page is what `python -m benchmarks single_atoms --markdown
docs/benchmarks/single_atoms.md --figure docs/_static/single_atoms.png` writes.
Specimens of {size} x {size} pixels with something that does not repeat are fused with
`share=True`, which also gives the maps before sharing; all else is chosen; seeds:
{seeds}. None of them was used when the method was made, but `grains` and `substituted`
for how pixels at the edges are compared. *Error* is the root mean square distance from
the truth over the root mean square of the truth, mean over elements and seeds, before
and after sharing, in the whole image and within {near} pixels of what
does not repeat. *Slope* is that of the contents of columns, or atoms, of the element in
brackets on the true ones: 1 if differences are kept, 0 if they are erased. *Measured on
fused* is that of the measured contents, whose noise counts, too, on the fused ones:
above 1 if these differ less. *False peak* is the largest excess over the truth, in the
mean over {width:g} pixels, over the largest true value. All of it took {minutes:.0f}
minutes on a shared machine."""

SPECIMENS = {}


@dataclass(frozen=True)
class Specimen:
    """Thickness of three elements, shape ``(3, y, x)``, and what to look at.

    `odd` is True where something does not repeat; `centres` are columns whose contents
    of element number `element` differ, shape ``(n, 2)``, or empty.
    """

    elements: dict
    thickness: np.ndarray
    odd: np.ndarray
    element: int = 0
    centres: np.ndarray = ()


def specimen(function):
    """Register a function that returns a specimen of some size."""
    SPECIMENS[function.__name__] = function
    return function


def main(argv=None):
    """Measure, print the table and write the page."""
    arguments = _parser().parse_args(argv)

    def head(minutes):
        return PAGE.format(
            size=arguments.size,
            seeds=", ".join(map(str, arguments.seeds)),
            near=NEAR,
            width=WIDTH,
            minutes=minutes,
        )

    report({"specimens": measure_all}, arguments, "Sharing and single atoms", head)
    if arguments.markdown and arguments.figure:
        with arguments.markdown.open("a", encoding="utf-8") as page:
            page.write(
                f"\n![HAADF image, and maps of one element]({_link(arguments)})\n"
                "\nOne element at 4 counts; the maps are grey from 0 to the largest "
                "true value.\n"
            )


def _link(arguments):
    return f"../_static/{arguments.figure.name}"


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks single_atoms",
        description="What sharing of counts does to what does not repeat.",
    )
    parser.add_argument(
        "--specimens", nargs="+", default=list(SPECIMENS), choices=list(SPECIMENS)
    )
    parser.add_argument("--counts", nargs="+", type=float, default=[1.0, 4.0, 16.0])
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.add_argument("--figure", type=Path, help="picture to write, at 4 counts")
    parser.set_defaults(tables=["specimens"])
    return parser


# --- specimens ---------------------------------------------------------------------


def columns(size, centres, amounts=None, places=None):
    """Image of columns at centres ``(y, x)``, of amounts 1 unless given.

    `places` are where the probe really was at each pixel, shape ``(2, y, x)``.
    """
    y, x = np.mgrid[:size, :size] if places is None else places
    image = np.zeros((size, size))
    for k, (v, u) in enumerate(centres):
        amount = 1 if amounts is None else amounts[k]
        image += amount * np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * COLUMN**2))
    return image


def sites(size, offset=0.0, angle=0.0):
    """Centres of a square lattice, turned by an angle in degrees, beyond all edges."""
    n = 2 * size // PITCH
    grid = np.mgrid[-n:n, -n:n].reshape(2, -1).T
    grid = PITCH * (grid + np.asarray(offset)) + 0.3 * PITCH
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    grid = grid @ np.array([[c, s], [-s, c]])
    return grid[((grid > -PITCH) & (grid < size + PITCH)).all(axis=1)]


def oxygen(size, angle=0.0):
    """Oxygen between the columns along both directions."""
    along = sites(size, angle=angle)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    down, right = np.array([c, s]) * PITCH / 2, np.array([-s, c]) * PITCH / 2
    return columns(size, along + down) + columns(size, along + right)


def perovskite(size, shift=0.0, places=None):
    """Thickness of Dy, Sc and O, moved down by a part of a cell."""
    first, second = sites(size, (shift, 0)), sites(size, (shift + 0.5, 0.5))
    between = [sites(size, (shift + v, u)) for v, u in ((0.5, 0), (0, 0.5))]
    oxide = sum(columns(size, centres, None, places) for centres in between)
    heavy = [columns(size, centres, None, places) for centres in (first, second)]
    return np.stack([*heavy, 0.4 * oxide])


def inner(centres, size):
    """Those away from the edges, as whole pixels."""
    away = ((centres > PITCH) & (centres < size - PITCH)).all(axis=1)
    return away, np.rint(centres[away]).astype(int)


def near(shape, centres):
    """Pixels near some centres."""
    marked = np.ones(shape, bool)
    marked[tuple(np.asarray(centres).T)] = False
    return distance_transform_edt(marked) <= NEAR


def _with_amounts(size, amounts_of, elements, others=None):
    """A lattice whose first columns have amounts ``amounts_of(rng, centres, inner)``.

    `others` is what the second element has more where the first has less.
    """
    first, second = sites(size), sites(size, 0.5)
    away, places = inner(first, size)
    amounts = amounts_of(np.random.default_rng(0), first, away)
    thickness = np.stack(
        [columns(size, first, amounts), columns(size, second), 0.4 * oxygen(size)]
    )
    if others is not None:
        thickness[1] += others * columns(size, first, 1 - amounts)
    changed = places[np.abs(amounts[away] - 1) > 1e-6]
    return Specimen(elements, thickness, near((size, size), changed), 0, places)


def _some(fraction):
    def amounts(rng, centres, away):
        found = np.ones(len(centres))
        found[rng.choice(np.flatnonzero(away), N_ODD, replace=False)] = fraction
        return found

    return amounts


PEROVSKITE = {"Dy": 66, "Sc": 21, "O": 8}


@specimen
def substituted(size):
    """Dy columns that are Sc."""
    return _with_amounts(size, _some(0.0), PEROVSKITE, others=1.0)


@specimen
def vacant(size):
    """Dy columns of which half is missing."""
    return _with_amounts(size, _some(0.5), PEROVSKITE)


@specimen
def half_substituted(size):
    """La columns of which half is Ba, which the HAADF image does not show."""
    elements = {"La": 57, "Ba": 56, "O": 8}
    first = _with_amounts(size, _some(0.5), elements, others=1.0)
    # little Ba elsewhere
    first.thickness[1] -= 0.7 * columns(size, sites(size, 0.5))
    return first


def _scattered(size, spread):
    def amounts(rng, centres, _):
        return 1 + spread * rng.standard_normal(len(centres))

    return _with_amounts(size, amounts, PEROVSKITE)


@specimen
def variation(size):
    """Dy columns whose amounts scatter by a tenth."""
    return _scattered(size, 0.1)


@specimen
def variation_of_5_percent(size):
    """Dy columns whose amounts scatter by a twentieth."""
    return _scattered(size, 0.05)


@specimen
def variation_of_2_percent(size):
    """Dy columns whose amounts scatter by a fiftieth."""
    return _scattered(size, 0.02)


@specimen
def gradient(size):
    """Columns whose La gives way to Sr from left to right."""

    def amounts(_, centres, __):
        return np.clip(0.8 - 0.6 * centres[:, 1] / size, 0, 1)

    return _with_amounts(size, amounts, {"La": 57, "Sr": 38, "O": 8}, others=1.0)


@specimen
def antiphase(size):
    """Dy and Sc change places at a boundary."""
    first, second = columns(size, sites(size)), columns(size, sites(size, 0.5))
    right = np.arange(size) > size / 2 + 3
    thickness = [np.where(right, second, first), np.where(right, first, second)]
    distance = np.abs(np.arange(size) - (size / 2 + 3.5))
    odd = np.broadcast_to(distance <= NEAR, (size, size))
    return Specimen(PEROVSKITE, np.stack([*thickness, 0.4 * oxygen(size)]), odd)


@specimen
def grains(size):
    """Two grains, turned by 25 degrees against each other."""
    y, x = np.mgrid[:size, :size]
    distance = (x - size / 2) + 0.2 * (y - size / 2)
    both = [
        np.stack(
            [
                columns(size, sites(size, angle=angle)),
                columns(size, sites(size, 0.5, angle)),
                0.4 * oxygen(size, angle),
            ]
        )
        for angle in (0.0, 25.0)
    ]
    odd = np.abs(distance) <= NEAR
    return Specimen(PEROVSKITE, np.where(distance > 0, both[1], both[0]), odd)


@specimen
def stacking_fault(size):
    """The right of the crystal is moved down by half a cell."""
    left, right = perovskite(size), perovskite(size, 0.5)
    distance = np.abs(np.arange(size) - (size / 2 + 3.5))
    odd = np.broadcast_to(distance <= NEAR, (size, size))
    thickness = np.where(np.arange(size) > size / 2 + 3, right, left)
    return Specimen(PEROVSKITE, thickness, odd)


@specimen
def strain(size):
    """A cell that shrinks by an eighth from left to right."""
    y, x = np.mgrid[:size, :size].astype(float)
    thickness = perovskite(size, places=(y, x * (1 + x / (16 * size))))
    return Specimen(PEROVSKITE, thickness, np.ones((size, size), bool))


@specimen
def scan_distortion(size):
    """Drift, and rows that are displaced by 0.5 pixels (standard deviation)."""
    y, x = np.mgrid[:size, :size].astype(float)
    jitter = 0.5 * np.random.default_rng(0).standard_normal((size, 1))
    places = 1.03 * y, x + 0.05 * y + jitter
    thickness = perovskite(size, places=places)
    return Specimen(PEROVSKITE, thickness, np.ones((size, size), bool))


@specimen
def single_atoms(size):
    """Single Pt atoms on a carbon film of varying thickness, with some oxygen."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((2, size, size)), (0, 12, 12))
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    centres = []
    while len(centres) < 2 * N_ODD:
        new = rng.integers(PITCH, size - PITCH, 2)
        if all(np.hypot(*(new - old)) > PITCH for old in centres):
            centres.append(new)
    # atoms and empty places
    present = np.arange(len(centres)) < N_ODD
    atoms = columns(size, centres, 0.5 * present)
    film, oxide = 1 + 0.15 * smooth[0], 0.2 * (1 + 0.2 * smooth[1])
    thickness = np.stack([atoms, film, oxide])
    centres = np.array(centres)
    odd = near((size, size), centres[present])
    return Specimen({"Pt": 78, "C": 6, "O": 8}, thickness, odd, 0, centres)


# --- what is measured --------------------------------------------------------------


def contents(image, centres):
    """Sums of an image around centres."""
    return np.array(
        [
            image[y - REACH : y + REACH + 1, x - REACH : x + REACH + 1].sum()
            for y, x in centres
        ]
    )


def figures(found, truth, one, measured):
    """Error, error near what is odd, slopes, and false peak of maps."""
    squares = (truth**2).mean(axis=(1, 2))
    error = np.sqrt(((found - truth) ** 2).mean(axis=(1, 2)) / squares).mean()
    beside = ((found - truth) ** 2)[:, one.odd].mean(axis=1)
    beside = np.sqrt(beside / squares).mean()
    slope = of_measured = np.nan
    if len(one.centres):
        maps = (each[one.element] for each in (found, truth, measured))
        got, true, raw = (contents(image, one.centres) for image in maps)
        slope, of_measured = _slope(true, got), _slope(got, raw)
    excess, level = (
        gaussian_filter(a, (0, WIDTH, WIDTH)) for a in (found - truth, truth)
    )
    false = (excess.max(axis=(1, 2)) / level.max(axis=(1, 2))).max()
    return error, beside, slope, of_measured, false


def _slope(x, y):
    x = x - x.mean()
    squares = (x**2).sum()
    return (x * y).sum() / squares if squares > 0 else np.nan


def measure_all(arguments):
    """Figures of all specimens before and after sharing."""
    rows, shown = [], []
    for name in arguments.specimens:
        one = SPECIMENS[name](arguments.size)
        for counts in arguments.counts:
            say(f"{name}, {counts:g} counts")
            both, accepted = [], 0
            for seed in arguments.seeds:
                numbers = list(one.elements.values())
                measured, haadf, truth = measure(
                    one.thickness, numbers, counts, 2000, seed
                )
                fused, _ = fuse(
                    [hs.signals.Signal2D(image) for image in measured],
                    hs.signals.Signal2D(haadf),
                    elements=list(one.elements),
                    share=True,
                )
                maps = [
                    np.stack([signal.data for signal in each])
                    for each in ([m.get_unshared() for m in fused], fused)
                ]
                both.append([figures(x, truth, one, measured) for x in maps])
                accepted += int(fused[0].metadata.Multimodal_fusion.sharing)
                if counts == 4 and seed == arguments.seeds[0]:
                    i = one.element
                    images = haadf, measured[i], maps[0][i], maps[1][i], truth[i]
                    shown.append((name, list(one.elements)[i], images))
            before, after = np.mean(both, axis=0)
            symbol = list(one.elements)[one.element]
            slope = of_measured = "-"
            if len(one.centres):
                slope = change(f"{before[2]:.2f}", f"{after[2]:.2f}") + f" ({symbol})"
                of_measured = change(f"{before[3]:.2f}", f"{after[3]:.2f}")
            rows.append(
                [
                    name.replace("_", " "),
                    f"{counts:g}",
                    change(f"{before[0]:.3f}", f"{after[0]:.3f}"),
                    f"{after[0] / before[0]:.2f}",
                    change(f"{before[1]:.3f}", f"{after[1]:.3f}"),
                    slope,
                    of_measured,
                    change(f"{before[4]:.2f}", f"{after[4]:.2f}"),
                    f"{accepted} of {len(both)}",
                ]
            )
    if arguments.figure and shown:
        _draw(shown, arguments.figure)
    header = ["specimen", "counts", "error", "ratio", "error near", "slope"]
    header += ["measured on fused", "false peak", "accepted"]
    yield Table("Figures", header, rows)


def _draw(shown, path):
    titles = "HAADF", "measured", "before sharing", "shared", "truth"
    figure, panels = plt.subplots(
        len(shown),
        len(titles),
        figsize=(1.6 * len(titles), 1.6 * len(shown) + 0.3),
        layout="constrained",
        squeeze=False,
    )
    for row, (name, symbol, images) in zip(panels, shown, strict=True):
        top = images[-1].max()
        for panel, title, image in zip(row, titles, images, strict=True):
            limits = (None, None) if image is images[0] else (0, top)
            panel.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
            panel.set(xticks=[], yticks=[])
            if panel in panels[0]:
                panel.set_title(title, fontsize="large")
        lines = textwrap.fill(name.replace("_", " "), 14)
        row[0].set_ylabel(f"{lines}\n({symbol})", fontsize="large")
    save_grey(figure, path, 80)
