"""The command line: ``hyperspy-fusion demo``, ``fuse`` and ``info``."""

import argparse
import logging
import os
import signal as os_signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from hyperspy.signals import BaseSignal

import hyperspy_fusion

from .inputs.foreign import load_file
from .inputs.images import describe
from .inputs.measurement import measure
from .loading import find_candidates
from .loading.load import MultimodalData, compute_together
from .signals import ElementalMap

__all__ = ["main"]

_DEMO_FOLDER = "hyperspy-fusion-demo"
# Options of each method: name, type, placeholder and meaning.
_SHARED: list[tuple[str, Any, str, str]] = [
    ("lambda_tv", "weight", "X|auto", "weight of the total variation"),
    ("gamma", float, "X", "exponent of the Z-contrast"),
    ("tolerance", float, "X", "relative tolerance at which to stop"),
    ("match", str, "axes", "crop and rebin to the area that maps and image share"),
]
_OPTIONS: dict[str, list[tuple[str, Any, str, str]]] = {
    "calibrated": [
        ("lambda_haadf", "weight", "X|auto", "weight of the HAADF term"),
        ("background", float, "X", "known background of the maps"),
        ("regularizer", str, "NAME", "tgv or tv: total (generalised) variation"),
        ("max_iter", int, "N", "largest number of iterations"),
        ("haadf_offset", "weight", "X|auto", "HAADF intensity without matter"),
        ("seed", int, "N", "seed of the random split of the counts"),
        ("uncertainty", bool, "", "estimate the variance of each pixel"),
    ],
    "published": [
        ("lambda_haadf", "weight", "X", "weight of the HAADF term"),
        ("lambda_chem", float, "X", "weight of the Poisson term"),
        ("epsilon", float, "X", "epsilon of the Poisson term, fraction of the range"),
        ("initial_threshold", float, "X", "start with all pixels below this set to 0"),
        ("n_iter", int, "N", "number of iterations"),
        ("n_iter_tv", int, "N", "steps of the total-variation prox in each iteration"),
    ],
}
_USER_ERRORS = (ArithmeticError, ImportError, OSError, TypeError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the name of the program; by default those it was called with.

    Returns
    -------
    int
        0 when all went well, 2 when the user has to change something (one message on
        stderr says what), 130 when interrupted.
    """
    arguments = _parser().parse_args(argv)
    if plt.get_backend().lower() != "agg":
        plt.switch_backend("Agg")  # pictures go to files
    try:
        with _plain_warnings():
            arguments.run(arguments)
    except _USER_ERRORS as error:
        if arguments.traceback:
            raise
        print(f"hyperspy-fusion: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hyperspy-fusion: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hyperspy-fusion",
        description="Fuse elemental maps (EDX, EELS) with a HAADF image.",
        epilog="COMMAND --help lists the options of a command.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {hyperspy_fusion.__version__}"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="fuse a simulated specimen, to see that it works",
        description="Simulate core-shell particles, fuse their maps and compare the "
        "result with the truth.",
    )
    demo.add_argument(
        "--size", type=int, default=128, metavar="N", help="pixels a side, default 128"
    )
    _add_output(demo, f"folder to write, default {_DEMO_FOLDER}")
    demo.set_defaults(run=_demo)

    fuse = commands.add_parser(
        "fuse",
        usage="hyperspy-fusion fuse FILE [options]",
        help="fuse the maps and the HAADF image of a file",
        description="Fuse the maps and the HAADF image of any file that HyperSpy "
        "reads. Writes a folder with each fused map as .hspy and .tif, pictures, and "
        "the history of the cost.",
    )
    _add_input(fuse)
    fuse.add_argument(
        "--method",
        metavar="NAME",
        default="calibrated",
        help="calibrated (default) or published",
    )
    _add_options(fuse)
    _add_output(fuse, "folder to write, default the name of FILE with -fused")
    fuse.set_defaults(run=_fuse)

    info = commands.add_parser(
        "info",
        usage="hyperspy-fusion info FILE [options]",
        help="list what is in a file and what would be fused",
        description="List the maps, HAADF images and spectra of a file, and what "
        "'fuse' would take or why it would refuse.",
    )
    _add_input(info)
    info.set_defaults(run=_info)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    """Add what `_read` and `_load` need."""
    parser.add_argument("file", metavar="FILE", help="file that HyperSpy reads")
    parser.add_argument(
        "--elements",
        nargs="+",
        metavar="NAME",
        help="what to map: symbols, or titles of maps",
    )
    parser.add_argument(
        "--lines",
        nargs="+",
        metavar="LINE",
        help="lines or edges to map from spectra, such as Fe_Ka or Fe_L3",
    )
    parser.add_argument(
        "--haadf", metavar="IMAGE", help="title of the HAADF image, or another file"
    )
    parser.add_argument(
        "--file-format", metavar="NAME", help="format of FILE, where several would fit"
    )
    parser.add_argument(
        "--lazy",
        action="store_true",
        help="leave spectra on disk, for files larger than the memory",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the methods, in groups."""
    groups = {"of both methods": _SHARED}
    groups |= {f"of the {method} method": own for method, own in _OPTIONS.items()}
    known = set()
    for owner, options in groups.items():
        group = parser.add_argument_group(f"options {owner}")
        for name, kind, placeholder, meaning in options:
            if name in known:
                continue
            known.add(name)
            option = f"--{name.replace('_', '-')}"
            if kind is bool:
                group.add_argument(
                    option, action="store_const", const=True, help=meaning
                )
                continue
            group.add_argument(
                option,
                type=_weight if kind == "weight" else kind,
                metavar=placeholder,
                help=meaning,
            )


def _options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options that were given; an error for those that the method does not have."""
    if arguments.method not in _OPTIONS:
        raise ValueError(
            f"method is {arguments.method!r}: expected "
            f"{' or '.join(map(repr, _OPTIONS))}"
        )
    known = {name for name, *_ in (*_SHARED, *_OPTIONS[arguments.method])}
    every = known.union(*({name for name, *_ in own} for own in _OPTIONS.values()))
    given = {name: getattr(arguments, name) for name in every}
    given = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(given.keys() - known)
    if unknown:
        spelt = [f"--{name.replace('_', '-')}" for name in unknown]
        raise ValueError(
            f"the {arguments.method} method has no option {', '.join(spelt)}: see "
            "hyperspy-fusion fuse --help for the options of each method"
        )
    return given


def _weight(text: str) -> float | str:
    """Read a weight: a number, or "auto"."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number nor 'auto'"
        ) from None


def _add_output(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=meaning)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of an earlier run in the folder; leave all others",
    )


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings to a user of the shell, without lines of code."""

    def show(message: Any, *_args: Any, **_kwargs: Any) -> None:
        print(f"hyperspy-fusion: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning)
        warnings.showwarning = show
        yield


def _demo(arguments: argparse.Namespace) -> None:
    output = arguments.output or Path(_DEMO_FOLDER)
    _check_output(output, overwrite=arguments.overwrite)
    specimen = hyperspy_fusion.data.core_shell(arguments.size)
    print(f"Simulated core-shell particles, HAADF image {describe(specimen.haadf)}")
    fused = _timed_fusion(specimen.maps, specimen.haadf)
    print("Error against the truth (normalised root mean square), integrated counts:")
    _print_table(
        ["element", "error measured", "fused", "counts measured", "fused"],
        [
            (
                _element(truth),
                f"{_error(before, truth):.3f}",
                f"{_error(after, truth):.3f}",
                f"{before.data.sum():.0f}",
                f"{after.data.sum():.0f}",
            )
            for before, after, truth in zip(
                specimen.maps, fused, specimen.truth, strict=True
            )
        ],
    )
    _write(output, specimen.maps, fused, specimen.haadf)


def _fuse(arguments: argparse.Namespace) -> None:
    output = arguments.output or Path(f"{Path(arguments.file).stem}-fused")
    _check_output(output, overwrite=arguments.overwrite)
    options = _options_of(arguments)
    maps, haadf, background = _load(_read(arguments), arguments)
    print(f"{', '.join(map(_element, maps))} with {describe(haadf)}")
    background = options.pop("background", background)
    if background is not None and arguments.method == "published":
        maps = [one - other for one, other in zip(maps, background, strict=True)]
        background = None
        print("The background was subtracted: the published method has none")
    fused = _timed_fusion(maps, haadf, background, method=arguments.method, **options)
    _print_table(
        ["element", "mean measured", "mean fused", "max measured", "max fused"],
        [
            (
                _element(before),
                f"{np.nanmean(before.data):.4g}",
                f"{np.nanmean(after.data):.4g}",
                f"{np.nanmax(before.data):.4g}",
                f"{np.nanmax(after.data):.4g}",
            )
            for before, after in zip(maps, fused, strict=True)
        ],
    )
    _write(output, maps, fused, haadf, background)


def _info(arguments: argparse.Namespace) -> None:
    signals = _read(arguments)
    try:
        maps, haadf, background = _load(signals, arguments)
    except (TypeError, ValueError) as error:
        print(f"Would be refused: {error}")  # the error lists what there is
        return
    print(find_candidates(signals))
    try:
        measure(maps, haadf, background)
    except ValueError as error:
        print(f"Would be refused: {error}")
    else:
        print(f"Would fuse {', '.join(map(_element, maps))} with {describe(haadf)}")


def _read(arguments: argparse.Namespace) -> list:
    """List the signals of the file."""
    path = arguments.file
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    logger = logging.getLogger("hyperspy.io")
    logger.disabled = True  # what it says of unreadable files is for developers
    try:
        return load_file(path, lazy=arguments.lazy, file_format=arguments.file_format)
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    finally:
        logger.disabled = False


def _load(signals: list, arguments: argparse.Namespace) -> MultimodalData:
    """Choose maps, HAADF image and background among signals, and compute them."""
    loaded = hyperspy_fusion.load_multimodal(
        signals, arguments.elements, arguments.lines, haadf=arguments.haadf
    )
    compute_together([*loaded.maps, loaded.haadf, *(loaded.background or ())])
    return loaded


def _timed_fusion(
    maps: Any,
    haadf: Any,
    background: Any = None,
    *,
    method: str = "calibrated",
    **options: Any,
) -> list[ElementalMap]:
    """Fuse, and say how long it took and why it stopped."""
    # into a file a bar would write hundreds of lines
    options["show_progressbar"] = None if sys.stderr.isatty() else False
    start = time.perf_counter()
    if method == "published":
        fused = hyperspy_fusion.fuse_published(maps, haadf, **options)
    else:
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background, **options)
    seconds = time.perf_counter() - start
    record = fused[0].metadata.Multimodal_fusion
    print(f"Fused by the {record.method} method in {seconds:.2f} s: {record.status}")
    print(record.summary)
    return fused


def _write(
    output: Path, maps: Any, fused: Any, haadf: Any, background: Any = None
) -> None:
    """Write all results into a folder, or nothing if anything fails."""
    target = output.resolve()
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}-", dir=_base(output)
    ) as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        _write_signals(folder, fused)
        _write_pictures(folder, maps, fused, haadf, background)
        names = sorted(path.name for path in folder.iterdir())
        with _uninterrupted():
            if target.exists():
                for name in names:
                    (folder / name).replace(target / name)
            else:
                folder.rename(target)
            print(f"Wrote to {output}: {', '.join(names)}")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a Ctrl-C come too late: half of the files may be in place already."""
    handler = os_signal.signal(os_signal.SIGINT, os_signal.SIG_IGN)
    try:
        yield
    finally:
        os_signal.signal(os_signal.SIGINT, handler)


def _write_signals(folder: Path, fused: Any) -> None:
    """Write fused maps as .hspy and, but for series of series, as .tif; and costs."""
    for signal in fused:
        path = folder / _element(signal)
        signal.save(path.with_suffix(".hspy"))
        if signal.axes_manager.navigation_dimension <= 1:
            signal.save(path.with_suffix(".tif"))
    fused[0].get_cost_history().save(folder / "cost_history.hspy")


def _write_pictures(
    folder: Path, maps: Any, fused: Any, haadf: Any, background: Any
) -> None:
    """Draw the fusion, its weights and its convergence, of a series the first one."""
    first = (0,) * haadf.axes_manager.navigation_dimension or None
    pictures = {
        "fusion.png": hyperspy_fusion.plot_fusion(
            maps, fused, haadf, inav=first, background=background
        ),
        "convergence.png": hyperspy_fusion.plot_convergence(fused),
    }
    if fused[0].metadata.Multimodal_fusion.has_item("weights_tried"):
        pictures["weights.png"] = [hyperspy_fusion.plot_weights(fused, inav=first)]
    for name, axes in pictures.items():
        figure = axes[0].figure
        figure.savefig(folder / name, dpi=150)
        plt.close(figure)


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse, before the work is done, a folder that cannot be written."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file: choose another --output")
    if output.exists() and not overwrite:
        raise FileExistsError(
            f"the folder {output} exists: choose another --output, or replace the "
            "files of an earlier run in it with --overwrite"
        )
    base = _base(output)
    if not os.access(base, os.W_OK):
        raise PermissionError(
            f"the folder {base} does not exist or cannot be written: choose another "
            "--output"
        )


def _base(output: Path) -> Path:
    """The folder that has to be written: the output, or where it will be made."""
    target = output.resolve()
    return target if target.is_dir() else target.parent


def _element(signal: BaseSignal) -> str:
    return signal.metadata.Sample.elements[0]


def _error(image: BaseSignal, truth: BaseSignal) -> float:
    """Root mean square of the error over that of the truth, dimensionless."""
    return np.sqrt(np.mean((image.data - truth.data) ** 2) / np.mean(truth.data**2))


def _print_table(header: Sequence[str], rows: Any) -> None:
    """Print columns below their titles, numbers aligned at the right."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *numbers in table:
        cells = [first.ljust(widths[0])]
        cells += [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
        print("  ".join(cells))
