"""Series, tiles and clusters: `python -m benchmarks scale`.

Prints the tables of the page ``docs/benchmarks/scale.md``, and writes that page with
``--markdown``. Needs ``pip install ".[distributed,zspy]"``, and 10 GB of disk for an
image of 16384 x 16384 pixels.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import dask
import dask.array as da
import hyperspy.api as hs
import numpy as np
from distributed import Client, LocalCluster

import hyperspy_fusion

from .accuracy import BACKGROUND, GOALS, as_array, calibrated, error
from .table import Table, report, say

WEIGHTS = {"lambda_tv": 3.0, "lambda_haadf": 0.1, "background": BACKGROUND}
SERIES_TARGET = 1.15
DIFFERENCE_TARGET = 0.01
ERROR_TARGET = 0.005
MEMORY_TARGET = 4.0  # GiB
CLUSTER_TARGET = 1.7
FRAME = 256  # pixels a side
BATCH = 50  # frames of a series that are timed together, by turns
SHARED = 40  # frames that a cluster shares
CHUNK = 2048  # pixels a side of the chunks of the large image

PAGE = """\
This page is what `python -m benchmarks scale --markdown docs/benchmarks/scale.md`
writes. What is compared was measured by turns in one run,
on {cores} cores that are shared with others. *Target* is what the project set out to
reach. It took {minutes:.0f} minutes."""


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)
    hs.preferences.General.show_progressbar = False
    measurers = {
        "series": measure_series,
        "tiles": measure_tiles,
        "cluster": measure_cluster,
        "large": measure_large,
    }

    def head(minutes):
        cores = len(os.sched_getaffinity(0))
        return PAGE.format(cores=cores, minutes=minutes)

    report(measurers, arguments, "Series, tiles and clusters", head)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scale",
        description="Series, tiles and clusters.",
    )
    names = ["series", "tiles", "cluster", "large"]
    parser.add_argument(
        "--tables", nargs="+", choices=names, default=names, help="by default all"
    )
    parser.add_argument("--frames", type=int, default=200, help="of the series")
    parser.add_argument("--tiled", type=int, default=2048, help="pixels a side")
    parser.add_argument("--large", type=int, default=16384, help="pixels a side")
    parser.add_argument("--markdown", type=Path, help="page to write")
    return parser


def met(holds):
    """What stands in the last column."""
    return "yes" if holds else "**no**"


def seconds(call):
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# --- series -----------------------------------------------------------------------


def frames(n):
    """Maps and HAADF images of a series; the noise of each frame is its own."""
    specimens = [
        hyperspy_fusion.data.core_shell(FRAME, seed=seed % 5 + 1) for seed in range(n)
    ]
    maps = [
        hs.stack([s.maps[i] for s in specimens], show_progressbar=False)
        for i in range(3)
    ]
    haadf = hs.stack([s.haadf for s in specimens], show_progressbar=False)
    return specimens, maps, haadf


def measure_series(arguments):
    """A series against its frames one by one."""
    specimens, maps, haadf = frames(BATCH)
    cores = len(os.sched_getaffinity(0))

    def singly():
        for specimen in specimens:
            hyperspy_fusion.fuse_multimodal(
                specimen.maps, specimen.haadf, num_workers=1, **WEIGHTS
            )

    def together(num_workers):
        hyperspy_fusion.fuse_multimodal(maps, haadf, num_workers=num_workers, **WEIGHTS)

    singly()  # what the first call loads is not the question
    numbers = sorted({1, cores})
    spent = dict.fromkeys(["singly", *numbers], 0.0)
    n_batches = max(arguments.frames // BATCH, 1)
    for k in range(n_batches):
        say(f"series, frames from {k * BATCH}")
        spent["singly"] += seconds(singly)
        for num_workers in numbers:
            spent[num_workers] += seconds(lambda n=num_workers: together(n))
    rows = []
    for num_workers in numbers:
        ratio = spent[num_workers] / (spent["singly"] / num_workers)
        rows.append(
            [
                str(n_batches * BATCH),
                str(num_workers),
                f"{spent['singly']:.1f}",
                f"{spent[num_workers]:.1f}",
                f"**{ratio:.2f}**",
                f"≤ {SERIES_TARGET:.2f}",
                met(ratio <= SERIES_TARGET),
            ]
        )
    yield Table(
        "A series against its images one by one",
        ["images", "num_workers", "one by one s", "series s", "ratio", "target", "met"],
        rows,
        f"Images of {FRAME} x {FRAME} pixels and three elements. *One by one* is the "
        "sum of single fusions on one thread; the ratio is the time of the series over "
        "that sum divided by `num_workers`.",
    )


# --- tiles ------------------------------------------------------------------------


def measure_tiles(arguments):
    """Tiles against the whole image."""
    rows = []
    for name in GOALS:
        specimen = getattr(hyperspy_fusion.data, name)(arguments.tiled)
        say(f"tiles, {name}, weights")
        record = calibrated(specimen)[1]
        weights = {key: record[key] for key in ("lambda_tv", "lambda_haadf")}
        for tolerance in (1e-3, 1e-4):
            say(f"tiles, {name}, tolerance {tolerance:g}")
            whole, tiled = (
                hyperspy_fusion.fuse_multimodal(
                    specimen.maps,
                    specimen.haadf,
                    tile_size=tile_size,
                    tolerance=tolerance,
                    background=BACKGROUND,
                    **weights,
                )
                for tile_size in (None, arguments.tiled // 2)
            )
            images, parts = as_array(whole), as_array(tiled)
            high = np.percentile(images, 99, axis=(1, 2))
            most = (np.abs(parts - images).max(axis=(1, 2)) / high).max()
            errors = error(parts, specimen), error(images, specimen)
            flux = parts.sum(axis=(1, 2)) / images.sum(axis=(1, 2)) - 1
            rows.append(
                [
                    name,
                    f"{weights['lambda_tv']:.2g}, {weights['lambda_haadf']:g}",
                    f"{tolerance:g}",
                    f"**{most:.2%}**",
                    f"{errors[1]:.4f}",
                    f"**{errors[0] / errors[1] - 1:+.2%}**",
                    f"{np.abs(flux).max():.0e}",
                    met(
                        most <= DIFFERENCE_TARGET
                        and errors[0] / errors[1] - 1 <= ERROR_TARGET
                    ),
                ]
            )
    yield Table(
        "Tiles against the whole image",
        [
            "specimen",
            "λ_TV, λ_HAADF",
            "tolerance",
            "largest difference",
            "error of the whole",
            "error of the tiles",
            "fluxes",
            "met",
        ],
        rows,
        f"{arguments.tiled} x {arguments.tiled} pixels, four tiles, with the weights "
        "that the whole image chooses. Differences are parts of the 99th percentile of "
        "a map; the errors are those of the accuracy "
        f"page. Targets: {DIFFERENCE_TARGET:.0%}, and an error at most "
        f"{ERROR_TARGET:.1%} larger. *Fluxes* is the largest difference of a sum.",
    )


# --- cluster ----------------------------------------------------------------------


def measure_cluster(_arguments):
    """Two distributed workers against one."""
    _, maps, haadf = frames(SHARED)
    spent = {1: [], 2: []}
    for k in range(2):
        for n_workers, found in spent.items():
            say(f"cluster, {n_workers} workers, run {k + 1}")
            options = {"threads_per_worker": 1, "dashboard_address": None}
            with (
                LocalCluster(n_workers=n_workers, **options) as cluster,
                Client(cluster),
            ):
                few = [m.inav[:n_workers] for m in maps], haadf.inav[:n_workers]
                # loads what each worker needs once
                hyperspy_fusion.fuse_multimodal(*few, **WEIGHTS)
                found.append(
                    seconds(
                        lambda: hyperspy_fusion.fuse_multimodal(maps, haadf, **WEIGHTS)
                    )
                )
    one, two = (min(spent[n]) for n in (1, 2))
    yield Table(
        "Two distributed workers against one",
        ["images", "one worker s", "two workers s", "times as fast", "target", "met"],
        [
            [
                str(SHARED),
                f"{one:.1f}",
                f"{two:.1f}",
                f"**{one / two:.2f}**",
                f"≥ {CLUSTER_TARGET}",
                met(one / two >= CLUSTER_TARGET),
            ]
        ],
        "Processes of one thread each; the better of two runs.",
    )


# --- a large image ----------------------------------------------------------------


def simulate_large(folder, size):
    """Write maps and HAADF image of a large lattice and particles, chunk by chunk."""
    specimen = hyperspy_fusion.data.core_shell(CHUNK)
    truth = as_array(specimen.truth).astype(np.float32)
    clean = np.tensordot(np.array([27.0, 25.0, 8.0]) ** 1.7, truth, axes=1)
    n = -(-size // CHUNK)
    chunks = (n * (CHUNK,),) * 2

    def noisy(mean, block_info, stream):
        seed = [stream, *block_info[None]["chunk-location"]]
        return np.random.default_rng(seed).poisson(mean)

    def image(mean, stream, dtype):
        return da.map_blocks(
            lambda block_info=None: noisy(mean, block_info, stream).astype(dtype),
            chunks=chunks,
            dtype=dtype,
            meta=np.empty((0, 0), dtype),
        )[:size, :size]

    images = [image(mean + BACKGROUND, k, np.uint8) for k, mean in enumerate(truth)] + [
        image(2000 * (clean / clean.max() + 0.1), 3, np.uint16)
    ]
    for title, data in zip([*("Co", "Mn", "O"), "HAADF"], images, strict=True):
        signal = hs.signals.Signal2D(data).as_lazy()
        signal.metadata.General.title = title
        signal.save(folder / f"{title}.zspy", chunks=(CHUNK, CHUNK), overwrite=True)


def fuse_large(folder):
    """Fuse what :func:`simulate_large` wrote, lazily; seconds and peak memory."""
    warnings.simplefilter("ignore", UserWarning)
    hs.preferences.General.show_progressbar = False
    names = "Co", "Mn", "O"
    maps = [hs.load(folder / f"{name}.zspy", lazy=True) for name in names]
    haadf = hs.load(folder / "HAADF.zspy", lazy=True)
    start = time.perf_counter()
    with dask.config.set({"temporary-directory": str(folder)}):
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf, **WEIGHTS)
        decided = time.perf_counter()
        hs.stack(fused).save(folder / "fused.zspy", overwrite=True)
    end = time.perf_counter()
    return {
        "decided": decided - start,
        "seconds": end - start,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "tiles": int(np.prod(fused[0].data.numblocks)),
    }


def measure_large(arguments):
    """A large image from disk to disk, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"large, simulation of {arguments.large} pixels a side")
        _in_process("simulate_large", folder, arguments.large)
        say("large, fusion")
        found = _in_process("fuse_large", folder)
        fused = hs.load(folder / "fused.zspy", lazy=True)
        sums = fused.data.sum(axis=(1, 2), dtype=np.float64).compute()
        expected = [
            (hs.load(folder / f"{n}.zspy", lazy=True).data - BACKGROUND).sum().compute()
            for n in ("Co", "Mn", "O")
        ]
    yield Table(
        "A large image from disk to disk",
        [
            "pixels a side",
            "tiles",
            "statistics s",
            "s",
            "peak memory GiB",
            "target",
            "met",
            "fluxes",
        ],
        [
            [
                str(arguments.large),
                str(found["tiles"]),
                f"{found['decided']:.0f}",
                f"{found['seconds']:.0f}",
                f"**{found['memory']:.2f}**",
                f"≤ {MEMORY_TARGET:g}",
                met(found["memory"] <= MEMORY_TARGET),
                f"{np.abs(sums / expected - 1).max():.0e}",
            ]
        ],
        "Three maps of counts and a HAADF image, lazily from `.zspy` to `.zspy` in "
        f"chunks of {CHUNK} x {CHUNK} pixels. *Statistics* is what is computed at the "
        "call, *peak memory* that of the whole process, Python and HyperSpy included.",
    )


def _in_process(function, folder, *arguments):
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        f"from benchmarks.scale import {function}\n"
        f"found = {function}(Path(sys.argv[1]), *map(int, sys.argv[2:]))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, folder, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
