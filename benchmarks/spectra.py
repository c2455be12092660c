"""What fusion of whole spectra gives: `python -m benchmarks spectra`.

Prints the table of the page ``docs/benchmarks/spectra.md``, and writes that page with
``--markdown``.
"""

import argparse
import re
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
the lines, mean over the seeds; it is that of the fit of the sum spectrum, and few seeds
tell little of it: over 12 seeds the largest error of that fit is 0.006 in the mean for
BaTiO3 at 2 counts. The table of shared counts is printed with `--tables sharing`, that
of imperfect spectra with `--tables imperfect --counts 10 --size 64 --seeds 1`. All of
it took {minutes:.0f} minutes on a shared machine."""


def main(argv=None):
    """Measure, print the table and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks spectra",
        description="Fusion of whole spectra against that of windows.",
    )
    parser.add_argument(
        "--specimens", nargs="+", default=list(SPECIMENS), choices=list(SPECIMENS)
    )
    tables = {
        "errors": measure,
        "sharing": measure_sharing,
        "imperfect": measure_imperfect,
    }
    parser.add_argument("--tables", nargs="+", default=["errors"], choices=list(tables))
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

    report(tables, arguments, "Whole spectra", head)


def measure_sharing(arguments):
    """Errors of spectra with and without shared counts."""
    rows = []
    for name in arguments.specimens:
        elements = list(SPECIMENS[name])
        for counts in arguments.counts:
            say(f"{name}, {counts:g} counts, shared")
            pairs, gains, accepted = [], [], 0
            for seed in arguments.seeds:
                spectra, haadf, truth = simulate(name, counts, arguments.size, seed)
                fused = fused_spectra(name, spectra, haadf, share=True)
                first = [image.get_unshared() for image in fused]
                pairs.append([errors(maps, truth)[0] for maps in (first, fused)])
                record = fused[0].metadata.Multimodal_fusion
                gains += [z for z in record.sharing_gain if np.isfinite(z)]
                accepted += int(record.sharing)
            first, second = np.mean(pairs, axis=(0, 2))
            ratios = np.max([after / before for before, after in pairs], axis=0)
            worst = ratios.argmax()
            rows.append(
                [
                    name,
                    f"{counts:g}",
                    f"{first:.3f}",
                    f"{second:.3f}",
                    f"{second / first:.2f}",
                    f"{ratios[worst]:.2f} ({elements[worst]})",
                    f"{accepted} of {len(pairs)}",
                    f"{min(gains):.1f} to {max(gains):.1f}",
                ]
            )
    header = ["specimen", "counts", "spectra", "shared", "ratio", "worst element"]
    header += ["accepted", "gain"]
    remark = (
        "Spectra fused with `share=True`: pixels that look alike share the counts of "
        "their bins where that predicts held-out counts better. *Worst element* is the "
        "largest ratio of the errors of one element in one measurement, *gain* that of "
        "held-out counts in standard deviations; 3 on both splits are required."
    )
    yield Table("Shared counts", header, rows, remark)


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


def simulate(name, counts, size, seed, n_channels=1024):
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
        maps, lines, n_channels=n_channels, continuum=CONTINUUM, seed=seed
    )
    haadf = data.janus(size).haadf
    rng = np.random.default_rng([seed, 1])
    haadf.data = detected(rng, image / image.max(), ELECTRONS)
    return spectra, haadf, thickness


def with_escape_peaks(rng, counts, energy, truth):
    """Of each count above the K edge of silicon 1 % lose 1.74 keV."""
    escaped = rng.binomial(counts, 0.01 * (energy > 1.84))
    shift = round(1.74 / (energy[1] - energy[0]))
    new = counts - escaped
    new[..., :-shift] += escaped[..., shift:]
    return new, truth


def with_sum_peaks(rng, counts, energy, truth):
    """Of the counts 1 % arrive together with another one, and count as their sum."""
    mean = counts.sum(axis=(0, 1)) / counts.sum()
    met = rng.binomial(counts, 0.01)
    *place, channel = np.repeat(np.nonzero(met), met[met > 0], axis=1)
    other = rng.choice(len(energy), len(channel), p=mean)
    both = np.minimum(channel + other + 1, len(energy) - 1)
    new = counts - met
    np.add.at(new, (*place, both), 1)
    return new, truth


def with_absorption(rng, counts, energy, truth):
    """A wedge absorbs up to 30 % of O K, and less of higher energies.

    The maps that are expected are those of their lines as they leave it.
    """
    depth = np.linspace(0, 1, counts.shape[1])[None, :, None]
    left = np.exp(-0.36 * depth * (0.525 / np.maximum(energy, 0.2)) ** 3)
    lines = [ENERGIES[element] for element in truth]
    at_lines = np.array([left[0, :, abs(energy - e).argmin()] for e in lines])
    maps = np.stack(list(truth.values())) * at_lines[:, None]
    return rng.binomial(counts, left), dict(zip(truth, maps, strict=True))


FAULTS = {
    "escape peaks of 1 %": with_escape_peaks,
    "sum peaks of 1 %": with_sum_peaks,
    "absorption in a wedge": with_absorption,
}
ENERGIES = {
    element: lines_of(element)[line_of(element, next(iter(own)))][0]
    for families in SPECIMENS.values()
    for element, own in families.items()
}


def measure_imperfect(arguments):
    """Errors where the spectra are not what the model takes them for."""
    rows = []
    for name in arguments.specimens:
        for counts in arguments.counts:
            for seed in arguments.seeds:
                rows += imperfect_rows(name, counts, arguments.size, seed)
    remark = (
        f"{arguments.size} x {arguments.size} pixels. Error of the fused spectra over "
        "that without the fault, mean over elements, and the largest of an element; "
        "chi2 of the sum spectrum, and the peaks that its warnings name. Escape peaks: "
        "1 % of all counts above 1.84 keV lose 1.74 keV. Sum peaks: 1 % of all counts "
        "arrive with another one. Absorption: a wedge takes up to 30 % of O K, and "
        "less of higher energies, from all lines and the continuum."
    )
    header = ["specimen", "counts", "seed", "fault", "ratio", "worst element"]
    header += ["χ²", "warnings name"]
    yield Table("Imperfect spectra", header, rows, remark)


def imperfect_rows(name, counts, size, seed):
    """Rows of the table for one simulated specimen."""
    elements = list(SPECIMENS[name])
    rng = np.random.default_rng([seed, 2])
    spectra, haadf, truth = simulate(name, counts, size, seed)
    energy = spectra.axes_manager.signal_axes[0].axis
    expected = dict(zip(elements, truth, strict=True))
    cases = {"none": (spectra, truth)}
    for fault, change in FAULTS.items():
        signal = spectra.deepcopy()
        signal.data, maps = change(rng, spectra.data.astype(int), energy, expected)
        cases[fault] = signal, np.stack(list(maps.values()))
    longer = simulate(name, counts, size, seed, n_channels=2048)
    cases["range to 41 keV"] = longer[0], truth
    rows, clean = [], None
    for fault, (signal, maps) in cases.items():
        say(f"{name}, {counts:g} counts, {fault}")
        fused = fused_spectra(name, signal, haadf)
        record = fused[0].metadata.Multimodal_fusion
        found, _ = errors(fused, maps)
        clean = found if clean is None else clean
        worst = (found / clean).argmax()
        told = [text for text in record.warnings.splitlines() if "sum spec" in text]
        places = re.findall(r"peak at ([\d.]+) keV", " ".join(told))
        rows.append(
            [
                name,
                f"{counts:g}",
                f"{seed}",
                fault,
                f"{found.mean() / clean.mean():.2f}",
                f"{(found / clean)[worst]:.2f} ({elements[worst]})",
                f"{record.sum_spectrum_chi2:.2f}",
                ", ".join(f"{place} keV" for place in places) or "nothing",
            ]
        )
    return rows


def fused_spectra(name, spectra, haadf, **options):
    """Maps from spectra, of the line of each element."""
    elements = list(SPECIMENS[name])
    lines = [line_of(e, next(iter(own))) for e, own in SPECIMENS[name].items()]
    options = {"lines": lines, "show_progressbar": False, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return hyperspy_fusion.fuse_spectra(
            spectra, haadf, elements, list(OTHERS), **options
        )


def fused_both_ways(name, spectra, haadf):
    """Maps from windows and from spectra, and the seconds of each."""
    elements = list(SPECIMENS[name])
    lines = [line_of(e, next(iter(own))) for e, own in SPECIMENS[name].items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        start = time.perf_counter()
        maps, image, background = hyperspy_fusion.load_multimodal(
            [spectra, haadf], elements, lines, background_windows="auto"
        )
        windows = hyperspy_fusion.fuse_multimodal(
            maps, image, background, show_progressbar=False
        )
    middle = time.perf_counter()
    whole = fused_spectra(name, spectra, haadf)
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
    header += ["composition, windows", "composition, spectra", "times as long"]
    yield Table("Errors", header, rows)
