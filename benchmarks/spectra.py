"""What fusion of whole spectra gives: `python -m benchmarks spectra`.

Prints the table of the page ``docs/benchmarks/spectra.md``, and writes that page with
``--markdown``.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np

import hyperspy_fusion
from hyperspy_fusion import data
from hyperspy_fusion.detectors import detected
from hyperspy_fusion.inputs.elements import atomic_number
from hyperspy_fusion.loading.lines import lines_of

from .accuracy import as_array
from .table import Table, report, say

ELECTRONS = 2000
EXPONENT = 1.7  # of Z, of the HAADF image
CONTINUUM = 0.1  # of the simulation, some half of the counts of the lines
OTHERS = {"C": 0.08, "Cu": 0.06}  # counts of K lines over those of the specimen
# Counts of the families of each element per thickness; that of its line is the first.
SPECIMENS = {
    "BaTiO3": {"Ba": {"L": 1.0}, "Ti": {"K": 1.0, "L": 0.15}, "O": {"K": 1.0}},
    "MnFeCoNi": {e: {"K": 1.0, "L": 0.4} for e in ("Mn", "Fe", "Co", "Ni")},
    "Pt/CeO2": {
        "Pt": {"L": 1.0, "M": 1.6},
        "Ce": {"L": 1.0, "M": 0.7},
        "O": {"K": 1.0},
    },
}

PAGE = """\
This page is what `python -m benchmarks spectra --markdown docs/benchmarks/spectra.md`
writes. Spectra of 1024 channels of 20 eV are simulated ({size} x {size} pixels, seeds
{seeds}, {electrons} electrons in the HAADF image) with several families of lines of
each element, a continuum, and C and Cu that are the same everywhere; `counts` are those
of all lines of the specimen, mean over the pixels. *Windows* are maps of one line of
each element with `background_windows="auto"`, fused by `fuse_multimodal`; *spectra* is
`fuse_spectra`. Both choose all else. *Error* is the root mean square distance from the
expected counts of that line over the root mean square of these, mean over elements and
seeds; *worst element* is the largest ratio of the errors of one element, mean over the
seeds. *Composition* is the largest error of the share of an element in the counts of
the lines, mean over the seeds. All of it took {minutes:.0f} minutes on a shared
machine."""


def main(argv=None):
    """Measure, print the table and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks spectra",
        description="Fusion of whole spectra against that of windows.",
    )
    parser.add_argument(
        "--specimens", nargs="+", default=list(SPECIMENS), choices=list(SPECIMENS)
    )
    parser.add_argument("--tables", nargs="+", default=["errors"], choices=["errors"])
    parser.add_argument("--counts", nargs="+", type=float, default=[0.5, 2.0, 10.0])
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--markdown", type=Path, help="page to write")
    arguments = parser.parse_args(argv)

    def head(minutes):
        return PAGE.format(
            size=arguments.size,
            seeds=", ".join(map(str, arguments.seeds)),
            electrons=ELECTRONS,
            minutes=minutes,
        )

    report({"errors": measure}, arguments, "Whole spectra", head)


def thickness_of(name, size):
    """Maps of the elements of a specimen, in any unit, shape ``(n, y, x)``."""
    if name == "BaTiO3":
        return as_array(data.lattice(size).truth)
    particles = as_array(data.janus(size).truth)
    if name == "Pt/CeO2":
        return particles
    others = as_array(data.core_shell(size).truth)
    found = np.stack([*others[:2], *particles[:2]])
    return found / found.max(axis=(1, 2), keepdims=True) + 0.1


def line_of(element, family):
    """The line that stands for a family: its α line, the one of weight 1."""
    return f"{element}_{family}a"


def counts_of(element, family):
    """Counts of all lines of a family for one of its α line."""
    every = lines_of(element).items()
    return sum(w for name, (_, w) in every if name.startswith(f"{element}_{family}"))


def simulate(name, counts, size, seed):
    """Spectra, HAADF image, and expected counts of the line of each element."""
    families = SPECIMENS[name]
    thickness = thickness_of(name, size)
    dose = sum(
        sum(weight * counts_of(element, f) for f, weight in own.items()) * image.mean()
        for (element, own), image in zip(families.items(), thickness, strict=True)
    )
    numbers = np.array([float(atomic_number(element)) for element in families])
    image = np.tensordot(numbers**EXPONENT, thickness, 1)
    thickness = thickness * counts / dose
    like = data.janus(size).truth[0]

    def signal(values):
        one = like.deepcopy()
        one.data = values
        return one

    maps, lines = [], []
    for (element, own), each in zip(families.items(), thickness, strict=True):
        for family, weight in own.items():
            maps.append(signal(weight * each))
            lines.append(line_of(element, family))
    for element, share in OTHERS.items():
        maps.append(signal(np.full((size, size), share * counts)))
        lines.append(line_of(element, "K"))
    spectra = data.xray_spectra(
        maps, lines, n_channels=1024, continuum=CONTINUUM, seed=seed
    )
    haadf = data.janus(size).haadf
    rng = np.random.default_rng([seed, 1])
    haadf.data = detected(rng, image / image.max(), ELECTRONS)
    return spectra, haadf, thickness


def fused_both_ways(name, spectra, haadf):
    """Maps from windows and from spectra, and the seconds of each."""
    elements = list(SPECIMENS[name])
    lines = [line_of(e, next(iter(own))) for e, own in SPECIMENS[name].items()]
    options = {"show_progressbar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        start = time.perf_counter()
        maps, image, background = hyperspy_fusion.load_multimodal(
            [spectra, haadf], elements, lines, background_windows="auto"
        )
        windows = hyperspy_fusion.fuse_multimodal(maps, image, background, **options)
        middle = time.perf_counter()
        whole = hyperspy_fusion.fuse_spectra(
            spectra, haadf, elements, list(OTHERS), lines=lines, **options
        )
        end = time.perf_counter()
    return windows, whole, (middle - start, end - middle)


def errors(fused, truth):
    """Error of each element, and the largest one of their shares."""
    maps = as_array(fused)
    square = (1, 2)
    difference = np.sqrt(((maps - truth) ** 2).mean(square) / (truth**2).mean(square))
    found, known = (a.sum(square) / a.sum() for a in (maps, truth))
    return difference, abs(found - known).max()


def measure(arguments):
    """Errors of windows and of spectra."""
    rows = []
    for name in arguments.specimens:
        for counts in arguments.counts:
            say(f"{name}, {counts:g} counts")
            each, shares, times = [], [], []
            for seed in arguments.seeds:
                spectra, haadf, truth = simulate(name, counts, arguments.size, seed)
                *both, seconds = fused_both_ways(name, spectra, haadf)
                found = [errors(fused, truth) for fused in both]
                each.append([error for error, _ in found])
                shares.append([share for _, share in found])
                times.append(seconds[1] / seconds[0])
            windows, whole = np.mean(each, axis=0)
            before, after = np.mean(shares, axis=0)
            worst = (whole / windows).argmax()
            rows.append(
                [
                    name,
                    f"{counts:g}",
                    f"{windows.mean():.3f}",
                    f"{whole.mean():.3f}",
                    f"{whole.mean() / windows.mean():.2f}",
                    f"{(whole / windows)[worst]:.2f} ({list(SPECIMENS[name])[worst]})",
                    f"{before:.3f}",
                    f"{after:.3f}",
                    f"{np.median(times):.1f}",
                ]
            )
    header = ["specimen", "counts", "windows", "spectra", "ratio", "worst element"]
    header += ["composition, windows", "spectra", "times as long"]
    yield Table("Errors", header, rows)
