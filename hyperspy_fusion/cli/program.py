"""The program ``hyperspy-fusion``: its commands and their arguments."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

from ..inputs.images import describe
from ..warm_up import warm_up
from . import batch, files, interrupts, options
from .assumed import lines_about, lines_about_spectra

_DEMO_FOLDER = "hyperspy-fusion-demo"
_ABOUT_FUSE = (
    "Fuse the maps and the HAADF image of any file that HyperSpy reads, or of .npz "
    "and .h5 files of named arrays. Writes a folder with each fused map as .hspy and "
    f".tif, pictures, {files.REPORT}, the history of the cost, and {files.CONFIG}, "
    "with which it can be repeated. Of several files, writes a folder for each, and "
    f"{files.INDEX} about all of them."
)
_EXIT = """\
exit status:
  0    all went well
  2    something has to be changed, a message on stderr says what; of several files,
       one or more failed
  3    a result was written, but the HAADF image contradicts the maps somewhere and
       was not used there: see the warnings
  4    a result was written, but the tolerance was not met
  130  interrupted
  143  terminated
The first of 2, 4 and 3 that holds for any file is that of several files.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the name of the program; by default those it was called with.

    Returns
    -------
    int
        The exit status; ``hyperspy-fusion fuse --help`` lists them.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names that a console cannot show
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(options.about_unknown(unknown, vars(arguments)))
    if plt.get_backend().lower() != "agg":
        plt.switch_backend("Agg")  # pictures go to files
    files.written.clear()
    try:
        with _patient_output(), batch.plain_warnings():
            try:
                return arguments.run(arguments, parser)
            finally:
                interrupts.check()
    except Exception as error:  # of any kind, from a damaged file
        if arguments.traceback:
            raise
        _print_error(error)
        return batch.WRONG
    except KeyboardInterrupt as interrupt:
        left = "nothing was written"
        if getattr(arguments, "several", False):
            left = "go on with --resume"
        elif files.written:
            left = f"{files.written[-1]} is complete"
        return interrupts.tell(interrupt, left)


def _print_error(error: Exception) -> None:
    print(f"hyperspy-fusion: error: {batch.error_message(error)}", file=sys.stderr)


@contextmanager
def _patient_output() -> Iterator[None]:
    """Go on when nobody reads what is printed any more, as after ``| head``."""
    output = _Output(sys.stdout)
    with redirect_stdout(output):
        try:
            yield
        finally:
            output.flush()


class _Output:
    """Standard output, whose reader may be gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or forget what nobody reads."""
        with self._unread():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or forget what nobody reads."""
        with self._unread():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _unread(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # what is left in the buffer would be an error at exit
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


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
    for add in (_add_demo, _add_fuse, _add_info, _add_warm_up):
        add(commands).add_argument(  # it may follow the command, too
            "--traceback",
            action="store_true",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
    return parser


def _add_demo(commands: Any) -> argparse.ArgumentParser:
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
    return demo


def _add_fuse(commands: Any) -> argparse.ArgumentParser:
    fuse = commands.add_parser(
        "fuse",
        usage="hyperspy-fusion fuse FILE [FILE ...] [options]",
        help="fuse the maps and the HAADF image of files",
        description=fill(_ABOUT_FUSE, 80),
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fuse.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="files, or patterns such as 'night/*.emd'",
    )
    options.add(fuse, options.INPUT)
    fuse.add_argument(
        "--method", metavar="NAME", help="calibrated (default) or published"
    )
    options.add_of_methods(fuse)
    many = fuse.add_argument_group("runs")
    many.add_argument(
        "--config",
        type=Path,
        metavar="TOML",
        help=f"take files and options from a file such as {files.CONFIG} of an earlier "
        "run; those on the command line come first",
    )
    many.add_argument(
        "--resume",
        action="store_true",
        help="leave out files that have the result of an earlier run",
    )
    many.add_argument(
        "--jobs", type=int, metavar="N", help="files fused at a time, default 1"
    )
    _add_output(
        many,
        "folder to write, default the name of FILE with -fused; of several files the "
        "folder for their folders, default fused",
    )
    fuse.set_defaults(run=_fuse)
    return fuse


def _add_info(commands: Any) -> argparse.ArgumentParser:
    info = commands.add_parser(
        "info",
        usage="hyperspy-fusion info FILE [FILE ...] [options]",
        help="list what is in a file and what would be fused",
        description="List the maps, HAADF images and spectra of a file, what 'fuse' "
        "would take and assume, or why it would refuse.",
    )
    info.add_argument("files", nargs="+", metavar="FILE", help="files or patterns")
    options.add(info, [*options.INPUT, *options.MATCH])
    options.add_of_spectra(info)
    info.set_defaults(run=_info)
    return info


def _add_warm_up(commands: Any) -> argparse.ArgumentParser:
    warm = commands.add_parser(
        "warm-up",
        help="compile all kernels, so that no later call has to",
        description="Compile all kernels and keep them on disk. Otherwise the first "
        "fusion does, which takes about a minute.",
    )
    warm.set_defaults(run=_warm_up)
    return warm


def _add_output(parser: Any, meaning: str) -> None:
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=meaning)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of an earlier run in the folder; leave all others",
    )


def _demo(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    output = arguments.output or Path(_DEMO_FOLDER)
    files.check_output(output, overwrite=arguments.overwrite)
    specimen = hyperspy_fusion.data.core_shell(arguments.size)
    print(f"Simulated core-shell particles, HAADF image {describe(specimen.haadf)}")
    fused = batch.fuse(specimen.maps, specimen.haadf)
    print("Error against the truth (normalised root mean square), integrated counts:")
    batch.print_table(
        ["element", "error measured", "fused", "counts measured", "fused"],
        [
            (
                files.symbol_of(truth),
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
    fusion = specimen.maps, fused, specimen.haadf, None
    batch.write(output, "Simulated core-shell particles", fusion, settings="")
    return batch.DONE


def _fuse(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.config:
        argv = ["fuse", *options.as_argv(arguments.config)]
        defaults = vars(parser.parse_args(["fuse"]))
        for name, value in vars(parser.parse_args(argv)).items():
            if getattr(arguments, name) == defaults[name]:  # it was not given
                setattr(arguments, name, value)
    arguments.method = arguments.method or "calibrated"
    if not arguments.files:
        parser.error("fuse: there is no FILE: give one, or --config")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"--jobs is {arguments.jobs}: expected at least 1")
    paths = files.expand(arguments.files)
    arguments.several = len(paths) > 1 or paths != arguments.files
    arguments.several &= not arguments.together
    if arguments.several:
        return batch.fuse_files(arguments, paths)
    output = arguments.output or Path(f"{Path(paths[0]).stem}-fused")
    return batch.fuse_file(arguments, paths, output).code


def _info(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    paths = files.expand(arguments.files)
    code = batch.DONE
    for one in [paths] if arguments.together else [[path] for path in paths]:
        if len(paths) > 1:
            print(f"{', '.join(one)}:")
        try:
            signals = [s for path in one for s in files.read(arguments, path)]
            found = _lines_about(signals, arguments)
        except Exception as error:  # of any kind, from a damaged file
            interrupts.check()
            if arguments.traceback:
                raise
            _print_error(error)
            code = batch.WRONG
        else:
            print("\n".join(map(options.for_shell, found)))
    return code


def _lines_about(signals: list, arguments: argparse.Namespace) -> list[str]:
    """Lines about what would be fused of some signals, or why it would be refused."""
    try:
        loaded = files.load(signals, arguments)
        if arguments.maps == "spectra":
            given = options.for_spectra(arguments)
            names, how = files.elements_in(loaded, arguments), arguments.match
            return lines_about_spectra(signals, loaded, names, match=how, **given)
        return lines_about(signals, loaded, arguments.match)
    except (TypeError, ValueError) as error:  # which lists what there is
        return [f"Would be refused: {error}"]


def _warm_up(_arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    start = time.perf_counter()
    compiled = warm_up()
    seconds = time.perf_counter() - start
    print(
        f"Compiled {len(compiled)} kernels in {seconds:.0f} s: {', '.join(compiled)}"
        if compiled
        else "Nothing to do: all kernels have been compiled before"
    )
    return batch.DONE


def _error(image: Any, truth: Any) -> float:
    """Root mean square of the error over that of the truth, dimensionless."""
    return np.sqrt(np.mean((image.data - truth.data) ** 2) / np.mean(truth.data**2))
