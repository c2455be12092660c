"""Fusion of one file or of many: fuse, write, report, and resume."""

import argparse
import ctypes
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO
from multiprocessing import active_children, get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from zlib import crc32

import matplotlib.pyplot as plt
import numba
import numpy as np

import hyperspy_fusion

from ..derived import windows_of
from ..inputs.images import describe
from ..loading.load import compute_together
from ..report import compared, composition, index_page, report_page
from . import files, interrupts, options

DONE, WRONG, GUARDED, NOT_CONVERGED = 0, files.WRONG, 3, 4
_PATIENCE = 2  # seconds, after which a process is interrupted again
STATES = {
    DONE: "fused",
    WRONG: "failed",
    GUARDED: "fused, see the warnings",
    NOT_CONVERGED: "not converged",
}
USER_ERRORS = (
    ArithmeticError,
    ImportError,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
)


class _Job:
    """What a process of a pool knows: whether it is at work, and whether all ends."""

    at_work = False
    # Shared by all processes, without a lock: a signal can come while one is held, and
    # its handler would wait for ever.
    stop: Any = ctypes.c_bool()


def _begin_job(n_threads: int, stop: Any) -> None:
    """Prepare a process of a pool, in which Ctrl-C has waited so far."""
    numba.set_num_threads(n_threads)
    plt.switch_backend("Agg")
    _Job.stop = stop
    signal.signal(signal.SIGINT, _interrupt)
    interrupts.unmask()


def _interrupt(*_: Any) -> None:
    """End the work of this process, if there is any, and begin with no other file."""
    _Job.stop.value = True
    if _Job.at_work:
        interrupts.arrive()


@dataclass(frozen=True)
class Outcome:
    """What became of a file: its exit status, and what is said of it."""

    code: int
    message: str
    printed: str = ""  # by another process
    earlier: bool = False  # of an earlier run, which is kept

    @property
    def state(self) -> str:
        """In words."""
        before = ", in an earlier run" if self.earlier else ""
        return f"{STATES[self.code]}{before}"


def fuse_files(arguments: argparse.Namespace, paths: Sequence[str]) -> int:
    """Fuse several files into folders below one; return the exit status."""
    base = arguments.output or Path("fused")
    files.check_output(base, overwrite=True)
    base.mkdir(exist_ok=True)
    outputs = _outputs(base, paths)
    rows: dict[str, dict[str, str]] = {}
    codes = []
    for path, outcome in _outcomes(arguments, outputs):
        codes.append(outcome.code)
        if outcome.printed:
            print(outcome.printed, end="")
        print(f"[{len(codes)}/{len(paths)}] {path}: {outcome.state}")
        if outcome.code == WRONG:
            where = "" if path in outcome.message else f"{path}: "
            print(f"hyperspy-fusion: error: {where}{outcome.message}", file=sys.stderr)
        rows[path] = _row(path, outputs[path], outcome, base)
        listed = [rows[one] for one in outputs if one in rows]
        files.write_text(base / files.INDEX, index_page(listed))
    n_wrong = codes.count(WRONG)
    if n_wrong == len(paths) > 1 and all(Path(path).exists() for path in paths):
        print(
            "hyperspy-fusion: each file was taken for a specimen of its own: give "
            "--together if they hold maps and images of one",
            file=sys.stderr,
        )
    failed = f", {n_wrong} failed" if n_wrong else ""
    print(
        f"{len(codes) - n_wrong} of {len(codes)} files fused{failed}: "
        f"see {base / files.INDEX}"
    )
    return next((c for c in (WRONG, NOT_CONVERGED, GUARDED) if c in codes), DONE)


def _outputs(base: Path, paths: Sequence[str]) -> dict[str, Path]:
    """A folder for each file: that of an earlier run, else one named after it.

    Of the names of a file the shortest is taken that no other file has, so that it does
    not depend on their order, and that is not the folder of another file.
    """
    owners = _owners(base)
    earlier = {source: folder for folder, source in owners.items()}
    taken = {folder for folder, source in owners.items() if source.exists()}
    sources = [files.whole(path) for path in paths]
    names = [name for source in sources for name in set(_names(source))]
    found: dict[str, Path] = {}
    for path, source in zip(paths, sources, strict=True):
        folder = earlier.get(source)
        if folder is None:
            free = (base / name for name in _names(source) if names.count(name) == 1)
            folder = next(one for one in free if one not in taken)
        found[path] = folder
    return found


def _owners(base: Path) -> dict[Path, Path]:
    """The file of which each folder below one holds the result."""
    owners = {}
    for path in sorted(base.glob(f"*/{files.CONFIG}")):
        with suppress(ValueError):  # it is said when it is that file's turn
            (source,) = options.read(path).get("files", [])
            owners[path.parent] = Path(source)
    return owners


def _names(source: Path) -> Iterator[str]:
    """Names for the result of a file, from short to those that nothing else has."""
    yield source.stem
    yield source.name
    yield f"{source.parent.name}-{source.name}"
    yield f"{source.stem}-{crc32(str(source).encode()):08x}"


def _row(path: str, output: Path, outcome: Outcome, base: Path) -> dict[str, str]:
    row = {"file": path, "state": outcome.state, "message": outcome.message}
    earlier = outcome.code == WRONG and (output / files.REPORT).exists()
    if earlier:
        row["state"] += "; the result is that of an earlier run"
    if earlier or outcome.code != WRONG:
        folder = output.relative_to(base).as_posix()
        row["report"] = f"{folder}/{files.REPORT}"
        row["picture"] = f"{folder}/fusion.png"
    return row


def _outcomes(
    arguments: argparse.Namespace, outputs: dict[str, Path]
) -> Iterator[tuple[str, Outcome]]:
    """Fuse the files one by one, or several at a time in processes of their own."""
    jobs = min(arguments.jobs or 1, len(outputs))
    if jobs <= 1:
        for path, output in outputs.items():
            yield path, _try(arguments, path, output)
        return
    threads = max(numba.get_num_threads() // jobs, 1)
    context = get_context("spawn")  # a fork would copy locks of other threads
    stop = context.RawValue(ctypes.c_bool)
    with ProcessPoolExecutor(
        jobs, context, initializer=_begin_job, initargs=(threads, stop)
    ) as pool:
        with interrupts.masked():  # in the processes, too, until they are ready
            waiting: dict[str, Future] = {
                path: pool.submit(_apart, arguments, path, output)
                for path, output in outputs.items()
            }
        try:
            for path, future in waiting.items():
                error = future.exception()
                failed = error and Outcome(WRONG, error_message(error))
                yield path, failed or future.result()
        except BaseException:
            stop.value = True
            jobs = active_children()
            pool.shutdown(wait=False, cancel_futures=True)
            _end(jobs)
            raise


def _end(jobs: Sequence[BaseProcess]) -> None:
    """Interrupt processes until they end.

    Ctrl-C reaches them, SIGTERM does not; and what they call may swallow an interrupt.
    """
    while running := [job for job in jobs if job.is_alive()]:
        for job in running:
            with suppress(ProcessLookupError):
                os.kill(job.pid or 0, signal.SIGINT)
        wait([job.sentinel for job in running], _PATIENCE)


def _apart(arguments: argparse.Namespace, path: str, output: Path) -> Outcome:
    """Fuse a file in a process of its own, and hand back what is printed."""
    printed = StringIO()
    _Job.at_work = True
    try:
        if _Job.stop.value:
            raise KeyboardInterrupt
        with redirect_stdout(printed), redirect_stderr(printed), plain_warnings():
            outcome = _try(arguments, path, output)
    finally:
        _Job.at_work = False
    return replace(outcome, printed=printed.getvalue())


def _try(arguments: argparse.Namespace, path: str, output: Path) -> Outcome:
    """Fuse a file; an error becomes a message, and the next file follows."""
    try:
        return fuse_file(arguments, [path], output)
    except Exception as error:  # noqa: BLE001 - one file must not stop the others
        interrupts.check()
        if arguments.traceback:
            traceback.print_exc()
        return Outcome(WRONG, error_message(error, shown=arguments.traceback))


def error_message(error: BaseException, *, shown: bool = False) -> str:
    """The message about an error; `shown` tells that there is a traceback."""
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {error}' if str(error) else ''}"
    if isinstance(error, USER_ERRORS):
        return options.for_shell(error)
    hint = "" if shown else " (--traceback shows where)"
    return f"{type(error).__name__}: {error}{hint}"


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings to a user of the shell, without lines of code."""

    def show(message: Any, *_args: Any, **_kwargs: Any) -> None:
        print(
            f"hyperspy-fusion: warning: {options.for_shell(message)}", file=sys.stderr
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning)
        warnings.showwarning = show
        yield


# --- one file --------------------------------------------------------------------


def fuse_file(
    arguments: argparse.Namespace, paths: Sequence[str], output: Path
) -> Outcome:
    """Fuse a file, or several with maps and images of one specimen, into a folder."""
    sources = [str(files.whole(path)) for path in paths]
    settings = {"files": sources, **options.given_of(arguments)}
    if arguments.resume and (output / files.CONFIG).exists():
        before = _as_before(output, settings, overwrite=arguments.overwrite)
        if before is not None:
            return before
    files.check_output(output, overwrite=arguments.overwrite)
    given = options.for_fusion(arguments)
    signals = [signal for path in paths for signal in files.read(arguments, path)]
    loaded = files.load(signals, arguments)
    interrupts.check()
    maps, haadf, background = loaded
    images = ", ".join(map(describe, (haadf, *loaded.elastic)))
    whole = arguments.maps == "spectra"
    if whole:
        names = files.elements_in(loaded, arguments)
        given["elements"] = names
    else:
        names = list(map(files.symbol_of, maps))
    print(f"{', '.join(names)} with {images}")
    if loaded.elastic:
        given["elastic"] = loaded.elastic
    background = given.pop("background", background)
    if background is not None and arguments.method == "published":
        maps = [one - other for one, other in zip(maps, background, strict=True)]
        background = None
        print("The background was subtracted: the published method has none")
    start = time.perf_counter()
    method = "spectra" if whole else arguments.method
    fused = fuse(maps, haadf, background, method=method, **given)
    seconds = time.perf_counter() - start
    record = fused[0].metadata.Multimodal_fusion
    if whole:
        maps = windows_of(maps, record.lines.split(","))
        compute_together(maps)  # once for all that follows
        print("Measured are windows of the lines, with the background and other lines")
    arrays = compared(maps, fused, haadf, background, given.get("mask"))
    pairs = zip(*arrays, strict=True)
    print_table(
        ["element", "mean measured", "mean fused", "max measured", "max fused"],
        [
            (name, *(f"{of(a):.4g}" for of in (np.nanmean, np.nanmax) for a in pair))
            for name, pair in zip(record.elements.split(","), pairs, strict=True)
        ],
    )
    outcome = Outcome(_code_of(record), options.for_shell(record.warnings))
    result = outcome.code, outcome.message, record.version, round(seconds, 2)
    table = dict(zip(options.OF_RESULT, result, strict=True))
    write(
        output,
        ", ".join(Path(path).name for path in paths),
        (maps, fused, haadf, background),
        settings=options.dump(settings, {options.RESULT: table}),
        sensitivities=given.get("sensitivities"),
        mask=given.get("mask"),
        elastic=given.get("elastic"),
    )
    return outcome


def _as_before(
    output: Path, settings: dict[str, Any], *, overwrite: bool
) -> Outcome | None:
    """What an earlier run found; of another run None, or an error if it is to stay."""
    before = options.read(output / files.CONFIG)
    result = before.pop(options.RESULT, {})
    names = {k for k in before | settings if before.get(k) != settings.get(k)}
    names -= options.WITHOUT_EFFECT
    if names:
        if overwrite:
            return None
        raise ValueError(
            f"{output} is the result of other settings ({', '.join(sorted(names))}): "
            "choose another --output, or replace it with --overwrite"
        )
    print(f"{output} is there already")
    code, message = result.get("exit-code", DONE), result.get("message", "")
    return Outcome(int(code), str(message), earlier=True)


def _code_of(record: Any) -> int:
    """Exit status of a fusion."""
    if record.has_item("tolerance") and not record.converged:
        return NOT_CONVERGED
    flagged = np.any(np.asarray(record.get_item("flagged", 0.0)) > 0)
    return GUARDED if flagged else DONE


def fuse(
    maps: Any,
    haadf: Any,
    background: Any = None,
    *,
    method: str = "calibrated",
    **given: Any,
) -> list[Any]:
    """Fuse, and say how long it took and why it stopped."""
    # into a file a bar would write hundreds of lines
    given["show_progressbar"] = None if sys.stderr.isatty() else False
    start = time.perf_counter()
    if method == "published":
        fused = hyperspy_fusion.fuse_published(maps, haadf, **given)
    elif method == "spectra":
        fused = hyperspy_fusion.fuse_spectra(maps, haadf, **given)
    else:
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background, **given)
    seconds = time.perf_counter() - start
    record = fused[0].metadata.Multimodal_fusion
    status = options.for_shell(record.status)
    print(f"Fused by the {record.method} method in {seconds:.2f} s: {status}")
    print(options.for_shell(record.summary))
    return fused


def write(
    output: Path,
    title: str,
    fusion: tuple[Any, Any, Any, Any],
    *,
    settings: str,
    sensitivities: dict[str, float] | None = None,
    mask: np.ndarray | None = None,
    elastic: Any = None,
) -> None:
    """Write maps, fused maps, HAADF image and background, with pictures and report."""
    maps, fused, haadf, background = fusion
    pictures = files.draw(maps, fused, haadf, background, mask, elastic)
    page = report_page(
        title,
        fused,
        composition(maps, fused, haadf, background, sensitivities, mask),
        pictures,
        summary=options.for_shell(fused[0].metadata.Multimodal_fusion.summary),
        settings=settings,
        of_atoms=sensitivities is not None,
    )
    texts = {files.REPORT: page, files.CONFIG: settings}
    texts = {name: text for name, text in texts.items() if text}
    names = files.write(output, fused, pictures, texts)
    print(f"Wrote to {output}: {', '.join(names)}")


def print_table(header: Sequence[str], rows: Any) -> None:
    """Print columns below their titles, numbers aligned at the right."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *numbers in table:
        cells = [first.ljust(widths[0])]
        cells += [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
        print("  ".join(cells))
