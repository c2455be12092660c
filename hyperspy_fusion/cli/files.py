"""What the command line reads and writes: signals of a file, a folder of results."""

import argparse
import atexit
import glob
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import hyperspy_fusion

from ..loading.candidates import read as read_source
from ..loading.frames import read_frames
from ..loading.load import MultimodalData, compute_together
from . import interrupts, options

WRONG = 2  # exit status, if something has to be changed
_WRITING_FAILED = "file write failed"
CONFIG, REPORT, INDEX = "run.toml", "report.html", "index.html"
written: list[Path] = []  # folders that this call has completed


def expand(patterns: Sequence[str]) -> list[str]:
    """List the files that paths and patterns name, each once."""
    found: list[str] = []
    for pattern in patterns:
        if Path(pattern).is_dir() and Path(pattern).suffix.lower() != ".zspy":
            raise IsADirectoryError(
                f"{pattern} is a folder: expected files, such as '{pattern}/*.emd'"
            )
        if Path(pattern).exists() or not glob.has_magic(pattern):
            found.append(pattern)  # brackets in the name of a file are no pattern
            continue
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - as given
        if not matches:
            raise FileNotFoundError(f"no file fits {pattern}")
        found += matches
    each: dict[Path, str] = {}
    for path in found:
        each.setdefault(whole(path), path)
    return list(each.values())


def whole(path: str) -> Path:
    """The whole path of a file, also of a link that leads nowhere, or in circles."""
    return Path(os.path.realpath(path))


def read(arguments: argparse.Namespace, path: str) -> list:
    """List the signals of a file."""
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    given = {"file_format": arguments.file_format, "pixel_size": arguments.pixel_size}
    given = {name: value for name, value in given.items() if value is not None}
    logger = logging.getLogger("hyperspy.io")
    logger.disabled = True  # what it says of unreadable files is for developers
    try:
        if arguments.frames is not None:
            return read_frames([path], **given)
        return read_source(path, lazy=bool(arguments.lazy), **given)
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    finally:
        logger.disabled = False


def load(signals: list, arguments: argparse.Namespace) -> MultimodalData:
    """Choose maps, HAADF image and background among signals, and compute them.

    Spectra that are fused as they are stay on disk if they are there.
    """
    loaded = hyperspy_fusion.load_multimodal(
        signals,
        frames=options.frames_of(arguments.frames),
        **options.for_loading(arguments),
    )
    maps = [] if arguments.maps == "spectra" else loaded.maps
    compute_together([*maps, loaded.haadf, *loaded.elastic, *(loaded.background or ())])
    return loaded


def elements_in(loaded: MultimodalData, arguments: argparse.Namespace) -> list[str]:
    """Elements of the specimen, in the order of the spectra that were loaded.

    Those that were named stay, also if they are among the others, which is an error.
    """
    spectra: Any = loaded.maps
    others = () if arguments.elements else arguments.other_elements or ()
    return [e for e in spectra.metadata.Sample.elements if e not in others]


def write(
    output: Path, fused: Any, pictures: Mapping[str, bytes], texts: Mapping[str, str]
) -> list[str]:
    """Write all results into a folder, or nothing if anything fails; list the files."""
    target = output.resolve()
    with _hidden_folder(_base(output), target.name) as temporary:
        folder = temporary / target.name
        folder.mkdir()
        with interrupts.released():
            _write_signals(folder, fused)
            for name, picture in pictures.items():
                (folder / name).write_bytes(picture)
            for name, text in texts.items():
                _write_text(folder / name, text)
        names = sorted(path.name for path in folder.iterdir())
        interrupts.check()
        if target.exists():
            _replace_all(folder, target, names)
        else:
            folder.rename(target)
        written.append(output)
    return names


def _replace_all(new: Path, target: Path, names: Sequence[str]) -> None:
    """Move files into a folder that has older ones; all of them, or none."""
    for name in names:
        if (target / name).is_dir():
            raise IsADirectoryError(
                f"{target / name} is a folder: expected a file of an earlier run, "
                "choose another --output"
            )
    old = new.with_name("replaced")
    old.mkdir()
    moved = []
    try:
        # what says that all is done comes last
        for name in sorted(names, key=CONFIG.__eq__):
            moved.append(name)
            if os.path.lexists(target / name):
                (target / name).rename(old / name)
            (new / name).rename(target / name)
    except BaseException:
        for name in moved:
            if os.path.lexists(old / name):
                (old / name).replace(target / name)
            else:
                (target / name).unlink(missing_ok=True)
        raise


def _write_text(path: Path, text: str) -> None:
    """Write a file; names of files may hold what is no text."""
    path.write_text(text, encoding="utf-8", errors="replace")


def write_text(path: Path, text: str) -> None:
    """Write a file, or leave the old one if that fails."""
    with _hidden_folder(path.resolve().parent, path.stem) as temporary:
        new = temporary / path.name
        _write_text(new, text)
        new.replace(path)


@contextmanager
def _hidden_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder that is removed at the end; signals wait for that."""
    with (
        interrupts.held(),
        tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as temporary,
    ):
        yield Path(temporary)


def _write_signals(folder: Path, fused: Any) -> None:
    """Write fused maps as .hspy and, but for series of series, as .tif; and costs."""
    try:
        for signal in fused:
            path = folder / symbol_of(signal)
            signal.save(path.with_suffix(".hspy"))
            if signal.axes_manager.navigation_dimension <= 1:
                signal.save(path.with_suffix(".tif"))
        fused[0].get_cost_history().save(folder / "cost_history.hspy")
    except RuntimeError as error:  # of HDF5
        if _WRITING_FAILED not in str(error):
            raise
        _quiet_about_writing()
        cause = re.search(r"error message = '(.*?)'", str(error))
        raise OSError(
            f"the results cannot be written: {cause.group(1) if cause else error}. "
            "Free some space, or choose another --output"
        ) from error


@cache  # once
def _quiet_about_writing() -> None:
    """Let HDF5 not tell again that it cannot write, when it closes what is open."""
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if _WRITING_FAILED not in str(found.exc_value):
            before(found)

    sys.unraisablehook = hook
    atexit.register(_leave)


def _leave() -> None:
    """End the process before HDF5 does, which crashes on files that it cannot write."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(WRONG)


def draw(
    maps: Any,
    fused: Any,
    haadf: Any,
    background: Any = None,
    mask: Any = None,
    elastic: Any = None,
) -> dict[str, bytes]:
    """Draw the fusion, its weights and its convergence, of a series the first one."""
    first = (0,) * haadf.axes_manager.navigation_dimension or None
    drawn = {
        "fusion.png": hyperspy_fusion.plot_fusion(
            maps, fused, haadf, background, mask=mask, elastic=elastic, inav=first
        ),
        "convergence.png": hyperspy_fusion.plot_convergence(fused),
    }
    if fused[0].metadata.Multimodal_fusion.has_item("weights_tried"):
        drawn["weights.png"] = hyperspy_fusion.plot_weights(fused, inav=first)
    pictures = {}
    for name, axes in drawn.items():
        figure, buffer = axes[0].figure, BytesIO()
        figure.savefig(buffer, dpi=150, format="png")
        plt.close(figure)
        pictures[name] = buffer.getvalue()
    return pictures


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse, before the work is done, a folder that cannot be written."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file: choose another --output")
    if output.exists() and not overwrite:
        raise FileExistsError(
            f"the folder {output} exists: choose another --output, such as "
            f"{output / 'again'}, or replace the files of an earlier run in it with "
            "--overwrite; 'fuse' can also go on with --resume, with the same files"
        )
    base = _base(output)
    if not (base.is_dir() and os.access(base, os.W_OK)):
        raise PermissionError(
            f"the folder {base} does not exist or cannot be written: choose another "
            "--output"
        )


def _base(output: Path) -> Path:
    """The folder that has to be written: the output, or where it will be made."""
    target = output.resolve()
    return target if target.is_dir() else target.parent


def symbol_of(signal: Any) -> str:
    """Symbol of the element of a map."""
    return signal.metadata.Sample.elements[0]
