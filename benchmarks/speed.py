"""How fast the package is, always against something: `python -m benchmarks speed`.

Prints the tables of the page ``docs/benchmarks/speed.md``, and writes that page with
``--markdown``. What stands in a ratio is measured by turns in one run. Needs
scikit-image: ``pip install ".[tests]"``.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
import venv
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
from skimage.restoration import denoise_tv_chambolle

import hyperspy_fusion
from hyperspy_fusion.core.calibrated import method as calibrated
from hyperspy_fusion.core.calibrated.convex.iteration import Iteration, cold_start
from hyperspy_fusion.core.calibrated.convex.problem import Problem, for_kernels
from hyperspy_fusion.core.calibrated.given import Chemistry, Pixels
from hyperspy_fusion.core.common.threads import workers
from hyperspy_fusion.core.published import method as published
from hyperspy_fusion.core.published.tv_prox import total_variation_prox

from .table import Table, report, say

PEER = "multimodal-fusion==0.6.0", "scikit-image", "requests"  # it declares not all
# (iterations, steps of the TV prox): of the tutorial, and the peer's default
SETTINGS = (30, 3), (50, 15)
# What the project set out to reach, by pixels a side, and at any other size.
PUBLISHED_TARGETS = {256: 50, 1024: 50}
CALIBRATED_TARGETS = {
    "automatic": {256: 1.5, 1024: 12},
    "given": {256: 25, 1024: 60},
}
BANDWIDTH_TARGET = 0.60
EXPONENT_TARGET = 1.1
MEMORY_TARGETS = {"tgv": 12, "tv": 7}
IMPORT_TARGET = 50  # ms
FIRST_CALL_TARGETS = {"cold": 20, "warm": 1}  # s
WRAPPER_TARGET = 1.10
SPARSE_TARGET = 1.2
# Weights to give to the calibrated method, about what it chooses itself.
WEIGHTS = {"lambda_tv": 3.0, "lambda_haadf": 0.1}
Z = {"Dy": 66, "Sc": 21, "O": 8}  # of the lattice
PROX_WEIGHT = 0.15
PROX_ERROR = 1e-2  # of the norm, from a long run
EXPONENT_FROM = 512  # pixels a side; smaller images are ruled by what a call costs
MEMORY_FROM = 1024
MOST_ELEMENTS = 12
ELEMENTS_SIZE = 512
WAKE_UP = 0.1  # s
STEPS = 20  # iterations that are timed together

PAGE = """\
This page is what `python -m benchmarks speed --markdown docs/benchmarks/speed.md`
writes. What is compared was measured by turns in one run; times are medians of
{repeats} runs, or of fewer where {budget:g} s did not suffice. The machine has {cores}
cores, shared with others, and moves {triad:.0f} GB/s in a STREAM triad. *Target* is
what the project set out to reach. It took {minutes:.0f} minutes."""


def main(argv=None):
    """Measure, print the tables and write the page."""
    arguments = _parser().parse_args(argv)
    measurers = {
        "peers": measure_peers,
        "prox": measure_prox,
        "bandwidth": measure_bandwidth,
        "growth": measure_growth,
        "start": measure_start,
        "wrapper": measure_wrapper,
        "sparse": measure_sparse,
    }

    def head(minutes):
        return PAGE.format(
            repeats=arguments.repeats,
            budget=arguments.budget,
            cores=len(os.sched_getaffinity(0)),
            triad=triad_bandwidth(arguments) / 1e9,
            minutes=minutes,
        )

    report(measurers, arguments, "Speed", head)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks speed",
        description="How fast the package is, always against something.",
    )
    names = ["peers", "prox", "bandwidth", "growth", "start", "wrapper", "sparse"]
    parser.add_argument(
        "--tables", nargs="+", choices=names, default=names, help="by default all"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        help="pixels a side; by default those of each table",
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs, at most")
    parser.add_argument(
        "--budget", type=float, default=12, help="seconds for the runs of a row"
    )
    parser.add_argument(
        "--peer", type=Path, help="Python that has the peer, instead of a new one"
    )
    parser.add_argument("--markdown", type=Path, help="page to write")
    return parser


def alternate(calls, arguments):
    """Median seconds of calls that are run by turns.

    Parameters
    ----------
    calls : dict of callable
        What to time. A call that returns a float has measured itself.
    arguments : argparse.Namespace
        With `repeats` and `budget`.

    Returns
    -------
    dict of float
        Seconds.
    """
    seconds = {name: [] for name in calls}
    start = time.perf_counter()
    for n in range(1, arguments.repeats + 1):
        for name, call in calls.items():
            gc.collect()  # what one call left is not for the next to clear away
            wake_up()
            begin = time.perf_counter()
            own = call()
            elapsed = time.perf_counter() - begin
            seconds[name].append(own if isinstance(own, float) else elapsed)
        elapsed = time.perf_counter() - start
        if elapsed * (n + 1) / n > arguments.budget:
            break
    return {name: float(np.median(values)) for name, values in seconds.items()}


def wake_up():
    """Keep a core busy for a moment, as a program that is at work does.

    A process that has slept while another one ran begins slowly: its threads share a
    core until the operating system sees that they could do with more.
    """
    end = time.perf_counter() + WAKE_UP
    while time.perf_counter() < end:
        pass


def verdict(figure, target, digits="{:.3g}", *, at_most=False):
    """Cells of a figure: itself, its target, and whether it is met."""
    if target is None:
        return [digits.format(figure), "", ""]
    met = figure <= target if at_most else figure >= target
    sign = "≤" if at_most else "≥"
    return [
        f"**{digits.format(figure)}**",
        f"{sign} {digits.format(target)}",
        "yes" if met else "**no**",
    ]


def milliseconds(seconds):
    """Seconds as a cell in ms."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def measurement(size):
    """Counts of three elements and the HAADF image of a lattice, float64 arrays."""
    # a tile that is simulated once, so that large images do not take long
    specimen = hyperspy_fusion.data.lattice(min(size, 256))
    tiles = -(-size // min(size, 256))
    maps = np.stack([np.tile(m.data, (tiles, tiles)) for m in specimen.maps])
    haadf = np.tile(specimen.haadf.data, (tiles, tiles))
    return (
        np.ascontiguousarray(maps[:, :size, :size], float),
        np.ascontiguousarray(haadf[:size, :size], float),
    )


def solve_published(maps, haadf, **options):
    """The published method, from arrays to arrays."""
    options = published.PublishedOptions(**options)
    return published.solve(maps, haadf, tuple(Z.values()), options)


def solve_calibrated(maps, haadf, z=None, **options):
    """The calibrated method, from arrays to arrays."""
    options = calibrated.CalibratedOptions(**options)
    chemistry = Chemistry(atomic_numbers=z or tuple(Z.values()))
    return calibrated.solve(Pixels(maps=maps, haadf=haadf), chemistry, options)


# --- other packages ---------------------------------------------------------------


@contextlib.contextmanager
def peer(arguments):
    """Start the peer; gives a function that times it on the arrays of a file."""
    with contextlib.ExitStack() as stack:
        python = arguments.peer
        if python is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            say(f"an environment for {PEER[0]}")
            venv.create(folder, with_pip=True)
            binaries = "Scripts" if os.name == "nt" else "bin"
            python = Path(folder) / binaries / "python"
            subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
        process = stack.enter_context(
            subprocess.Popen(
                [python, Path(__file__).with_name("peer.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )

        def seconds(path, n_iter, n_iter_tv):
            print(path, WAKE_UP, n_iter, n_iter_tv, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield seconds


def measure_peers(arguments):
    """Both methods against the peer, from arrays to arrays."""
    published_rows, calibrated_rows = [], []
    with peer(arguments) as seconds, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measurement.npz"
        small = measurement(32)
        solve_published(*small)
        solve_calibrated(*small)
        for size in arguments.sizes or (256, 512, 1024):
            maps, haadf = measurement(size)
            np.savez(path, HAADF=haadf, **dict(zip(Z, maps, strict=True)))

            for n_iter, n_iter_tv in SETTINGS:
                say(f"peers, {size} pixels, {n_iter} x {n_iter_tv}")
                calls = {
                    "published": partial(
                        solve_published, maps, haadf, n_iter=n_iter, n_iter_tv=n_iter_tv
                    ),
                    "peer": partial(seconds, path, n_iter, n_iter_tv),
                }
                if (n_iter, n_iter_tv) == SETTINGS[-1]:
                    calls |= {
                        "automatic": partial(solve_calibrated, maps, haadf),
                        "given": partial(solve_calibrated, maps, haadf, **WEIGHTS),
                    }
                found = alternate(calls, arguments)
                published_rows.append(
                    [
                        str(size),
                        f"{n_iter} x {n_iter_tv}",
                        milliseconds(found["published"]),
                        milliseconds(found["peer"]),
                        *verdict(
                            found["peer"] / found["published"],
                            PUBLISHED_TARGETS.get(size),
                        ),
                    ]
                )
            for weights, targets in CALIBRATED_TARGETS.items():
                calibrated_rows.append(
                    [
                        str(size),
                        weights,
                        milliseconds(found[weights]),
                        milliseconds(found["peer"]),
                        *verdict(found["peer"] / found[weights], targets.get(size)),
                    ]
                )
    verdicts = ["times as fast", "target", "met"]
    yield Table(
        "The published method against multimodal-fusion 0.6.0",
        ["pixels a side", "iterations x TV steps", "ms", "its ms", *verdicts],
        published_rows,
        "Three elements, from arrays to arrays: scaling of the inputs, construction of "
        "matrices and the history of the costs are part of it on both sides, plots are "
        "not. The peer runs in an environment of its own.",
    )
    yield Table(
        "The calibrated method against multimodal-fusion 0.6.0",
        ["pixels a side", "weights", "ms", "its ms", *verdicts],
        calibrated_rows,
        "The same, against the default of the peer, {} x {}. With automatic weights "
        "the method solves the problem some dozen times to find them.".format(
            *SETTINGS[-1]
        ),
    )


def measure_prox(arguments):
    """The TV prox against that of scikit-image, at equal accuracy."""
    rows = []
    for size in arguments.sizes or (256, 1024):
        say(f"prox, {size} pixels")
        image = measurement(size)[0][0]
        image = (image / image.max()).astype(np.float32)
        best = total_variation_prox(image, PROX_WEIGHT, 3000)
        calls = {
            "ours": partial(total_variation_prox, image, PROX_WEIGHT),
            "theirs": partial(_chambolle, image, PROX_WEIGHT),
        }
        counts = {name: _iterations(call, best) for name, call in calls.items()}
        found = alternate(
            {name: partial(call, counts[name]) for name, call in calls.items()},
            arguments,
        )
        rows.append(
            [
                str(size),
                *map(str, counts.values()),
                *map(milliseconds, found.values()),
                f"{found['theirs'] / found['ours']:.3g}",
            ]
        )
    yield Table(
        "The TV prox against scikit-image",
        ["pixels a side", "steps", "its steps", "ms", "its ms", "times as fast"],
        rows,
        f"`denoise_tv_chambolle` solves the same problem; both take λ = {PROX_WEIGHT} "
        f"and as many steps as bring them within {PROX_ERROR:g} of a long run. Ours "
        "uses one thread here.",
    )


def _chambolle(image, weight, n_iter):
    return denoise_tv_chambolle(image, weight, eps=0, max_num_iter=n_iter)


def _iterations(prox, best):
    """As many steps as bring a prox near to the best, within 25 %."""
    n_iter = 2
    while np.linalg.norm(prox(n_iter) - best) > PROX_ERROR * np.linalg.norm(best):
        n_iter = int(np.ceil(1.25 * n_iter))
    return n_iter


# --- the memory's speed -----------------------------------------------------------


@numba.njit(nogil=True, fastmath=True, error_model="numpy")
def _triad_rows(a, b, c, scale, start, stop):
    for x in range(start, stop):
        a[x] = b[x] + scale * c[x]


def triad_of(n_bytes, run):
    """A function that moves so many bytes in a STREAM triad, with all threads."""
    length = n_bytes // 12
    arrays = np.ones((3, length), np.float32)
    n_threads = numba.config.NUMBA_NUM_THREADS
    blocks = list(pairwise(np.arange(n_threads + 1) * length // n_threads))
    return partial(run, _triad_rows, blocks, *arrays, np.float32(3))


def triad_bandwidth(arguments, n_bytes=1 << 28):
    """Bytes a second of a STREAM triad."""
    with workers() as run:
        triad = triad_of(n_bytes, run)
        triad()
        return n_bytes / alternate({"triad": triad}, arguments)["triad"]


def problem_of(maps, haadf, alpha):
    """A problem of the calibrated method, with weights of the usual size."""
    n_elements = len(maps)
    mean = maps.mean(axis=(1, 2))
    tv_scale = WEIGHTS["lambda_tv"] / np.sqrt(mean)
    coefficients = np.full(n_elements, haadf.mean() / mean.sum())
    variance = np.var(haadf) / 10
    return Problem(
        data=for_kernels(maps),
        background=np.zeros((n_elements, 1, 1), np.float32),
        pedestal=0.2 * mean,
        variance=None,
        haadf=for_kernels(haadf),
        haadf_precision=np.full(haadf.shape, 1 / variance, np.float32),
        lambda_haadf=WEIGHTS["lambda_haadf"],
        coefficients=coefficients,
        tv_scale=tv_scale,
        typical=float(np.mean(tv_scale * mean)),
        flux=maps.sum(axis=(1, 2)),
        alpha=alpha,
    )


def steps_of(problem, run):
    """State of a problem after some iterations, and a function that does some more."""
    state = cold_start(problem)
    iteration = Iteration(problem, state, run)

    def steps():
        iteration.advance(STEPS)

    for _ in range(3):  # compiles, and lets small values decay
        steps()
    return state, steps


def measure_bandwidth(arguments):
    """Bytes that an iteration must move over its time, against a STREAM triad."""
    rows = []
    for size in arguments.sizes or (1024, 2048):
        for name, alpha in (("tgv", 0.25), ("tv", None)):
            say(f"bandwidth, {size} pixels, {name}")
            maps, haadf = measurement(size)
            with workers() as run:
                state, steps = steps_of(problem_of(maps, haadf, alpha), run)
                moved = [state.u, state.p, state.haadf_dual]
                if alpha is not None:
                    moved += [state.v, state.q]
                # the state goes both ways; data, HAADF image and its weight come in
                n_bytes = 2 * sum(array.nbytes for array in moved)
                n_bytes += state.u.nbytes + 2 * state.haadf_dual.nbytes
                triad = triad_of(n_bytes, run)
                calls = {
                    "iteration": steps,
                    "triad": lambda triad=triad: [triad() for _ in range(STEPS)],
                }
                calls["triad"]()
                found = alternate(calls, arguments)
            speeds = [STEPS * n_bytes / found[key] / 1e9 for key in found]
            rows.append(
                [
                    str(size),
                    name,
                    f"{n_bytes / state.haadf_dual.nbytes:g}",
                    milliseconds(found["iteration"] / STEPS),
                    *(f"{speed:.1f}" for speed in speeds),
                    *verdict(speeds[0] / speeds[1], BANDWIDTH_TARGET, "{:.2f}"),
                ]
            )
    yield Table(
        "An iteration of the calibrated method against the memory",
        [
            "pixels a side",
            "regularizer",
            "floats a pixel",
            "ms",
            "GB/s",
            "triad GB/s",
            "of the triad",
            "target",
            "met",
        ],
        rows,
        "*Floats a pixel* is what an iteration must move at least for three elements: "
        "maps, slopes and all dual variables read and written once, the measured data, "
        "the image and its weight read once. The triad moves as many bytes on as many "
        "threads.",
    )


# --- growth -------------------------------------------------------------------------


def grow(size, n_elements, regularizer):
    """Seconds and peak memory of a fusion with weights given, in a new process.

    The memory is what NumPy allocates beyond the inputs, at its most, in arrays of
    float32 of the shape of the maps. What the process has at its most would not do:
    simulation and imports need more than the fusion of small maps.
    """
    small = measurement(32)
    options = {**WEIGHTS, "regularizer": regularizer}
    solve_calibrated(*small, **options)
    maps, haadf = (array.astype(np.float32) for array in measurement(size))
    maps = np.concatenate([maps] * -(-n_elements // 3))[:n_elements]
    # different maps, of which the image is the sum
    maps = np.stack([np.roll(image, 5 * i) for i, image in enumerate(maps)])
    z = tuple(range(20, 20 + n_elements))
    tracemalloc.start()
    start = time.perf_counter()
    solution = solve_calibrated(maps, haadf, z, **options)
    return {
        "seconds": time.perf_counter() - start,
        "n_iter": solution.n_iter,
        "arrays": tracemalloc.get_traced_memory()[1] / (4 * maps.size),
    }


def measure_growth(arguments):
    """Time and memory as images grow and elements are added."""
    rows, seconds = [], {}
    sizes = arguments.sizes or (256, 512, 1024, 2048, 4096)
    for regularizer, most in MEMORY_TARGETS.items():
        for size in sizes:
            say(f"growth, {size} pixels, {regularizer}")
            found = in_new_process("grow", size, 3, regularizer)
            seconds[regularizer, size] = found["seconds"]
            rows.append(
                [
                    regularizer,
                    str(size),
                    "3",
                    *_grown(found, most if size >= MEMORY_FROM else None),
                ]
            )
    counts = (1, 2, 3, 6, MOST_ELEMENTS)
    of_elements = []
    size = min(ELEMENTS_SIZE, max(sizes))
    for n_elements in counts:
        say(f"growth, {n_elements} elements")
        found = in_new_process("grow", size, n_elements, "tgv")
        of_elements.append(found["seconds"])
        rows.append(["tgv", str(size), str(n_elements), *_grown(found, None)])
    yield Table(
        "Time and memory as images grow",
        [
            "regularizer",
            "pixels a side",
            "elements",
            "s",
            "iterations",
            "arrays",
            "target",
            "met",
        ],
        rows,
        "Calibrated method, weights given, each in a process of its own. *Arrays* is "
        "the most that NumPy allocates at a time beyond the inputs, in float32 arrays "
        "of the shape of all maps; there are targets from "
        f"{MEMORY_FROM} pixels a side on.",
    )
    exponents = [
        ["elements", f"1 to {MOST_ELEMENTS}", "tgv", counts, of_elements],
    ]
    for regularizer in MEMORY_TARGETS:
        large = [size for size in sizes if size >= EXPONENT_FROM] or sizes
        exponents.insert(
            -1,
            [
                "pixels",
                f"{large[0]}² to {large[-1]}²",
                regularizer,
                [size**2 for size in large],
                [seconds[regularizer, size] for size in large],
            ],
        )
    yield Table(
        "How time grows",
        ["with", "from", "regularizer", "exponent", "target", "met"],
        [
            [*labels, *verdict(_exponent(*data), EXPONENT_TARGET, at_most=True)]
            for *labels, numbers, times in exponents
            if len(numbers) > 1
            for data in [(numbers, times)]
        ],
        "Slope of a straight line through the logarithms of the times above.",
    )


def _grown(found, most):
    return [
        f"{found['seconds']:.3g}",
        str(found["n_iter"]),
        *verdict(found["arrays"], most, "{:.1f}", at_most=True),
    ]


def _exponent(numbers, times):
    return np.polyfit(np.log(numbers), np.log(times), 1)[0]


def in_new_process(name, *values, **environment):
    """Call a function of this module in a process of its own."""
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore');"
        f"from benchmarks import speed; found = speed.{name}(*{values!r});"
        "print(json.dumps(found))"
    )
    return json.loads(_python(code, **environment))


def _python(code, **environment):
    """Standard output of a piece of Python, run where this package is."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


# --- the start ----------------------------------------------------------------------


def first_call(method):
    """Seconds of the first fusion in a process, of 64 x 64 pixels."""
    specimen = hyperspy_fusion.data.lattice(64)
    start = time.perf_counter()
    if method == "calibrated":
        hyperspy_fusion.fuse_multimodal(specimen.maps, specimen.haadf, **WEIGHTS)
    else:
        hyperspy_fusion.fuse_published(specimen.maps, specimen.haadf)
    return time.perf_counter() - start


def measure_start(arguments):
    """What a user waits for before the first result."""
    rows = []
    for method in ("published", "calibrated"):
        for state, target in FIRST_CALL_TARGETS.items():
            say(f"start, {method}, {state}")
            found = []
            for _ in range(1 if state == "cold" else arguments.repeats):
                if state == "cold":
                    cache = tempfile.TemporaryDirectory()
                found.append(
                    in_new_process("first_call", method, NUMBA_CACHE_DIR=cache.name)
                )
            rows.append(
                [
                    f"first call, {method}",
                    f"{state} cache",
                    f"{np.median(found):.2f} s",
                    *verdict(np.median(found), target, "{:.2f}", at_most=True)[1:],
                ]
            )
        cache.cleanup()
    code = (
        "import time; import hyperspy.api; start = time.perf_counter();"
        "import hyperspy_fusion; print(time.perf_counter() - start)"
    )
    found = 1e3 * np.median([float(_python(code)) for _ in range(arguments.repeats)])
    rows.append(
        [
            "`import hyperspy_fusion`",
            "after `import hyperspy.api`",
            f"{found:.1f} ms",
            *verdict(found, IMPORT_TARGET, at_most=True)[1:],
        ]
    )
    yield Table(
        "The start",
        ["what", "when", "time", "target", "met"],
        rows,
        "Each in a process of its own. The first call fuses maps of 64 x 64 pixels, "
        "the calibrated method with weights given; with a cold cache Numba compiles "
        "all that it needs, with a warm one it loads it.",
    )


# --- signals ------------------------------------------------------------------------


def measure_wrapper(arguments):
    """`fuse_multimodal` on signals against the core on arrays."""
    rows = []
    for size in arguments.sizes or (1024,):
        say(f"wrapper, {size} pixels")
        specimen = hyperspy_fusion.data.lattice(size)
        maps = np.stack([signal.data for signal in specimen.maps])
        haadf = specimen.haadf.data

        signals = specimen.maps, specimen.haadf
        calls = {
            "published": (
                partial(hyperspy_fusion.fuse_published, *signals),
                partial(solve_published, maps, haadf),
            ),
            "calibrated": (
                partial(hyperspy_fusion.fuse_multimodal, *signals, **WEIGHTS),
                partial(solve_calibrated, maps, haadf, **WEIGHTS),
            ),
        }
        for method, (signals, arrays) in calls.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                signals()
                found = alternate({"signals": signals, "arrays": arrays}, arguments)
            rows.append(
                [
                    str(size),
                    method,
                    *map(milliseconds, found.values()),
                    *verdict(
                        found["signals"] / found["arrays"],
                        WRAPPER_TARGET,
                        "{:.3f}",
                        at_most=True,
                    ),
                ]
            )
    yield Table(
        "What signals cost",
        ["pixels a side", "method", "ms", "arrays ms", "ratio", "target", "met"],
        rows,
        "Both functions on signals, with their checks, units and record, against the "
        "same methods on arrays; weights given.",
    )


def measure_sparse(arguments):
    """Maps that are empty nearly everywhere against dense ones."""
    rows = []
    signals, image = hyperspy_fusion.data.co3o4_mn3o4()
    size = max(arguments.sizes or (1200,))
    n_y, n_x = image.data.shape
    tiles = -(-size // n_y), -(-size // n_x)

    def tiled(data):
        return np.tile(data, tiles)[:size, :size].astype(float)

    sparse = np.stack([tiled(signal.data) for signal in signals]), tiled(image.data)
    dense = measurement(size)
    # the published weights of these maps, whose threshold empties most pixels
    options = {
        "lambda_chem": 0.006,
        "lambda_tv": 0.022,
        "epsilon": 0.01,
        "n_iter_tv": 6,
        "initial_threshold": 0.2,
    }
    empty = np.mean(sparse[0] < 0.2 * sparse[0].max(axis=(1, 2), keepdims=True))
    say(f"sparse, {size} pixels")
    solve_published(*measurement(32))
    images = {"sparse": sparse, "dense": dense}
    calls = {
        name: partial(solve_published, *arrays, **options)
        for name, arrays in images.items()
    }
    timings = [("published", published.PublishedOptions.n_iter, calls)]
    # as counts, for the problem of counts: four where there is most
    maps, haadf = sparse
    maps = np.maximum(maps, 0) * (4 / maps.max(axis=(1, 2), keepdims=True))
    images["sparse"] = maps, haadf
    with workers() as run:
        for name, alpha in (("tgv", 0.25), ("tv", None)):
            calls = {
                kind: steps_of(problem_of(*arrays, alpha), run)[1]
                for kind, arrays in images.items()
            }
            timings.append((f"calibrated, {name}", STEPS, calls))
        for method, n_iter, calls in timings:
            found = alternate(calls, arguments)
            rows.append(
                [
                    method,
                    *(milliseconds(found[kind] / n_iter) for kind in calls),
                    *verdict(
                        found["sparse"] / found["dense"],
                        SPARSE_TARGET,
                        "{:.2f}",
                        at_most=True,
                    ),
                ]
            )
    yield Table(
        "Sparse maps",
        ["method", "sparse ms", "dense ms", "ratio", "target", "met"],
        rows,
        f"An iteration on the maps of Co3O4-Mn3O4, tiled to {size} x {size} pixels, "
        f"of which {empty:.0%} are below 0.2 of the maximum, against the lattice. "
        "Values that decay below the normal numbers of float32 would make it many "
        "times slower.",
    )


if __name__ == "__main__":
    main()
