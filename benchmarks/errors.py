"""Whether errors are what they say: `python -m benchmarks errors`.

Prints the tables of the page ``docs/benchmarks/errors.md``, and writes that page with
``--markdown``. Needs eXSpy: ``pip install ".[tests]"``.
"""

import argparse
import warnings
from pathlib import Path

import exspy
import numpy as np

import hyperspy_fusion

from .accuracy import BACKGROUND, GOALS, as_array
from .table import Table, report, say

WIDTH, REGION = 4, 16  # pixels, of profiles and regions
SEEN = 0.05  # of the largest value of a map: less is vacuum
MATTER = 0.1  # of the largest sum of the maps: no composition where there is less
SENSITIVITIES = np.array([1.0, 1.3, 1.6])  # of the simulated specimens
LEAST, MOST = 90, 98  # per cent within two standard deviations

PAGE = """\
This page is what `python -m benchmarks errors --markdown docs/benchmarks/errors.md`
writes. Specimens of {{mod}}`hyperspy_fusion.data` ({size} x {size} pixels, 2000
electrons in the HAADF image, {seeds} seeds from {seed}) are fused with the background
of 0.02 counts a pixel and `n_replicas={n_replicas}`.
{{func}}`~hyperspy_fusion.propagate` gives the standard deviation σ of pixels, of
profiles summed over {width} pixels, of the sums of {region} x {region} pixels, and of
the at.% of each of these by the method of Cliff and Lorimer with the true factors,
where there is matter. *Within 2σ* is how many of them are not further from
the truth than 2σ: {least} to {most} % are expected of an honest error, and what is
outside is in bold. *σ / error* is the root mean square of σ over that of the true
errors; *naive* is the same where the errors of pixels are taken for independent. The
weight of the smoothing in the replicas was chosen on the same specimens and doses
with the seeds 11 to 14. All of it took {minutes:.0f} minutes on a shared machine."""

HEADER = ["specimen", "counts", "of", "values", "within 2σ, %", "σ / error", "naive"]


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)

    def head(minutes):
        return PAGE.format(
            **vars(arguments),
            width=WIDTH,
            region=REGION,
            least=LEAST,
            most=MOST,
            minutes=minutes,
        )

    report({"errors": measure_errors}, arguments, "Errors", head)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks errors",
        description="How often the truth is within two standard deviations.",
    )
    parser.add_argument(
        "--specimens", nargs="+", default=list(GOALS), choices=list(GOALS)
    )
    parser.add_argument("--counts", nargs="+", type=float, default=[1.0, 4.0, 16.0])
    parser.add_argument("--size", type=int, default=64, help="a multiple of 16 pixels")
    parser.add_argument("--seeds", type=int, default=12, help="number of measurements")
    parser.add_argument("--seed", type=int, default=101, help="the first")
    parser.add_argument("--n-replicas", type=int, default=20)
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.set_defaults(tables=["errors"])
    return parser


def measure_errors(arguments):
    """A table of all specimens and doses."""
    rows = []
    for name in arguments.specimens:
        for counts in arguments.counts:
            say(f"{name}, {counts:g} counts")
            found = measure_specimen(name, counts, arguments)
            rows += [[name, f"{counts:g}", *row] for row in found]
    inside = sum("*" not in row[4] for row in rows)
    yield Table(
        "Truth within two standard deviations",
        HEADER,
        rows,
        f"{inside} of {len(rows)} are within {LEAST} to {MOST} %.",
    )


def measure_specimen(name, counts, arguments):
    """Errors, standard deviations and naive ones of each quantity, over all seeds."""
    found = {title: [] for title in QUANTITIES}
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        simulate = getattr(hyperspy_fusion.data, name)
        specimen = simulate(arguments.size, counts=counts, seed=seed)
        fused = fuse(specimen, arguments.n_replicas)
        for title, (quantity, seen) in QUANTITIES.items():
            value, std = hyperspy_fusion.propagate(quantity, fused)
            truth = quantity(specimen.truth)
            chosen = seen(specimen.truth)
            alone = std
            if "%" not in title:  # a sum
                alone = np.sqrt(quantity([m.get_noise_variance() for m in fused]))
            each = value - truth, std, alone
            found[title].append([array[chosen] for array in each])
    for title, each in found.items():
        errors, std, alone = map(np.concatenate, zip(*each, strict=True))
        share = f"{100 * np.mean(np.abs(errors) <= 2 * std):.1f}"
        if not LEAST <= float(share) <= MOST:
            share = f"**{share}**"
        size = rms(errors)
        naive = "" if "%" in title else f"{rms(alone) / size:.2f}"
        yield [title, f"{errors.size}", share, f"{rms(std) / size:.2f}", naive]


def rms(values):
    """Root mean square."""
    return np.sqrt(np.mean(values**2))


def fuse(specimen, n_replicas):
    """Fused maps with replicas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the guard
        return hyperspy_fusion.fuse_multimodal(
            specimen.maps,
            specimen.haadf,
            background=BACKGROUND,
            n_replicas=n_replicas,
            show_progressbar=False,
        )


# --- what is computed from the maps ------------------------------------------------


def pixels(maps):
    """The maps themselves, as arrays; so are the others, shape ``(n, y, x)``."""
    return as_array(maps)


def profiles(maps):
    """Sums over some pixels along y: profiles along x."""
    return as_array([signal.rebin(scale=(1, WIDTH)) for signal in maps])


def regions(maps):
    """Sums over squares of pixels."""
    return as_array([signal.rebin(scale=(REGION, REGION)) for signal in maps])


def composition_of(sums):
    """Function of maps that computes the composition of sums of pixels."""
    return lambda maps: composition(
        sums(maps), [signal.metadata.Sample.elements[0] for signal in maps]
    )


def composition(intensities, elements):
    """Atomic per cent by the method of Cliff and Lorimer.

    As eXSpy's ``quantification``, but for its threshold of 0.1 counts.
    """
    weights = k_factors(elements)[:, None, None] * np.maximum(intensities, 1e-9)
    return exspy.material.weight_to_atomic(weights / weights.sum(axis=0), elements)


def k_factors(elements):
    """k-factors of the simulated specimens."""
    properties = [exspy.material.elements[e].General_properties for e in elements]
    return np.array([each.atomic_weight for each in properties]) / SENSITIVITIES


def where_it_is(sums):
    """Where each element is, by the true maps."""

    def seen(truth):
        each = sums(truth)
        most = as_array(truth).max(axis=(1, 2), keepdims=True)
        return each > SEEN * most * pixels_in(each, truth)

    return seen


def where_matter_is(sums):
    """Where there is enough of anything, by the true maps, for each of them."""

    def seen(truth):
        each = sums(truth)
        most = as_array(truth).sum(axis=0).max()
        there = each.sum(axis=0) > MATTER * most * pixels_in(each, truth)
        return np.broadcast_to(there, each.shape)

    return seen


def pixels_in(sums, truth):
    """Number of pixels in each of some sums."""
    return as_array(truth).size / sums.size


# Function of a list of maps, and where it is judged.
SUMS = {"pixels": pixels, "profiles": profiles, "regions": regions}
QUANTITIES = {name: (sums, where_it_is(sums)) for name, sums in SUMS.items()} | {
    f"at.% of {name}": (composition_of(sums), where_matter_is(sums))
    for name, sums in SUMS.items()
}


if __name__ == "__main__":
    main()
