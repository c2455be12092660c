"""Options of the command line: their table, their values, and files that hold them."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import hyperspy.api as hs
import numpy as np

from ..loading.candidates import as_list
from ..spectral_fusion import fuse_spectra

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Options: name, kind, placeholder and meaning. The kind is a type, or
# "weight": a number or auto; "off": switches off; "pairs": NAME=NUMBER; "mask": a file.
Option = tuple[str, Any, str, str]
INPUT: list[Option] = [
    ("elements", "names", "NAME", "what to map: symbols, or titles of maps"),
    ("lines", "names", "LINE", "lines or edges to map from spectra, as Fe_Ka or Fe_L3"),
    (
        "maps",
        str,
        "KIND",
        "spectra as they are, windows, or ready-made (default if there are any)",
    ),
    ("haadf", str, "IMAGE", "title of the HAADF image, or another file"),
    (
        "elastic",
        "names",
        "IMAGE",
        "titles of more elastic images, or other files: phase, ADF, BF",
    ),
    ("frames", str, "A:B|A,B", "frames to sum, from 0: a range or numbers"),
    (
        "background_windows",
        "names",
        "A,B,..",
        "energies of the background of each line (EDS: 4, EELS: 2), or auto",
    ),
    (
        "integration_windows",
        "names",
        "A,B",
        "energies between which each line is summed, or one width",
    ),
    ("pixel_size", float, "NM", "pixel size in nm, of .npz and .h5 files of arrays"),
    ("file_format", str, "NAME", "format of FILE, where several would fit"),
    ("together", bool, "", "the files hold maps and images of one specimen"),
    ("lazy", bool, "", "leave spectra on disk, for files larger than the memory"),
]
MATCH: list[Option] = [
    (
        "match",
        str,
        "HOW",
        "axes: crop and rebin to a common area; pixels: take both for the same pixels",
    )
]
SHARED: list[Option] = [
    ("lambda_tv", "weight", "X|auto", "weight of the total variation"),
    ("gamma", float, "X", "exponent of the Z-contrast"),
    ("tolerance", float, "X", "relative tolerance at which to stop"),
    *MATCH,
    ("num_workers", int, "N", "number of threads"),
]
OF_METHOD: dict[str, list[Option]] = {
    "calibrated": [
        ("lambda_haadf", "weight", "X|auto", "weight of the HAADF term"),
        (
            "lambda_elastic",
            "weights",
            "X|auto",
            "weights of the images of --elastic, in their order",
        ),
        ("background", float, "X", "known background of the maps"),
        ("sensitivities", "pairs", "Fe=X", "signal of one atom of each element"),
        ("mask", "mask", "FILE", "image that is not 0 where pixels are missing"),
        ("regularizer", str, "NAME", "tgv or tv: total (generalised) variation"),
        ("max_iter", int, "N", "largest number of iterations"),
        ("haadf_offset", "weight", "X|auto", "HAADF intensity without matter"),
        ("seed", int, "N", "seed of the random split of the counts"),
        ("uncertainty", bool, "", "estimate the variance of each pixel"),
        ("share", bool, "", "let pixels that look alike share their counts"),
        ("n_replicas", int, "N", "replicas, for errors of what the maps give"),
        ("lock_flux", "off", "", "do not keep the sum of each map"),
        ("weights", str, "HOW", "of a series: 'per position' or shared"),
        ("tile_size", int, "N", "pixels a side of tiles that are solved one by one"),
    ],
    "published": [
        ("lambda_haadf", "weight", "X", "weight of the HAADF term"),
        ("lambda_chem", float, "X", "weight of the Poisson term"),
        ("epsilon", float, "X", "epsilon of the Poisson term, fraction of the range"),
        ("initial_threshold", float, "X", "start with all pixels below this set to 0"),
        ("n_iter", int, "N", "number of iterations"),
        ("n_iter_tv", int, "N", "steps of the total-variation prox in each iteration"),
        ("z_weighting", str, "NAME", "weights of the elements: Z, none, Z/sum, .."),
        ("tv_algorithm", str, "NAME", "FGP or GP"),
        ("regularize", "off", "", "no total variation"),
    ],
}
OF_SPECTRA: list[Option] = [
    (
        "other_elements",
        "names",
        "NAME",
        "elements of grid, film or holder, which the image does not show",
    ),
    ("energy_range", str, "A,B", "lowest and highest energy in keV"),
]
# The table of what a run found, in the file of its options.
RESULT, OF_RESULT = "result", ("exit-code", "message", "version", "seconds")
WITHOUT_EFFECT = {"lazy", "num-workers"}  # on the result
_EVERY = [
    *INPUT,
    *SHARED,
    *OF_METHOD["calibrated"],
    *OF_METHOD["published"],
    *OF_SPECTRA,
]
_KINDS = {name: kind for name, kind, *_ in _EVERY}
_OPTION_IN_TEXT = re.compile(
    rf"\b({'|'.join(sorted(_KINDS, key=len, reverse=True))})"
    r"""=(?P<value>'[^']*'|"[^"]*"|\[[^\]]*\]|[\w.+-]*\w)?"""
    rf"|(?<!')\b({'|'.join(n for n, k in _KINDS.items() if '_' in n and k != 'off')})"
    r"\b(?!=)"
)
_QUOTES = "'\",[]"
# What a user of the shell has instead of functions.
_INSTEAD = {
    r"with plot_misfit\(.*?\)": "in fusion.png",
    "the maps before and after with plot_fusion": "the maps in fusion.png",
}


def flag_of(name: str) -> str:
    """Spelling of an option on the command line."""
    prefix = "no-" if _KINDS.get(name) == "off" else ""
    return f"--{prefix}{name.replace('_', '-')}"


def for_shell(message: object) -> str:
    """A message of the package, in the words of the command line."""
    text = str(message)
    for python, shell in _INSTEAD.items():
        text = re.sub(python, shell, text)
    return _OPTION_IN_TEXT.sub(_in_shell, text)


def _in_shell(found: re.Match) -> str:
    name, value = found.group(1) or found.group(3), found.group("value")
    if not value or _KINDS[name] in (bool, "off"):
        return flag_of(name)
    bare = "".join(letter for letter in value if letter not in _QUOTES)
    return f"{flag_of(name)} {bare}"


def about_unknown(words: Sequence[str], known: Iterable[str]) -> str:
    """The message about words of a command line that are no options of its command."""
    options = [f"--{name.replace('_', '-')}" for name in known]
    close = get_close_matches(words[0].partition("=")[0], options, n=1)
    perhaps = f", did you mean {close[0]}?" if close else ""
    return f"unrecognized arguments: {' '.join(words)}{perhaps}"


def add(group: Any, options: Sequence[Option]) -> None:
    """Add options to a parser or a group of one."""
    for name, kind, placeholder, meaning in options:
        settings: dict[str, Any] = {"dest": name, "help": meaning}
        if kind in (bool, "off"):
            settings |= {"action": "store_const", "const": kind is bool}
        else:
            settings["metavar"] = placeholder
            if kind in ("weight", "weights"):
                settings["type"] = _weight
            if kind in ("names", "pairs", "weights"):
                settings["nargs"] = "+"
            elif kind not in ("mask", "weight"):
                settings["type"] = kind
        group.add_argument(flag_of(name), **settings)


def add_of_methods(parser: argparse.ArgumentParser) -> None:
    """Add the options of both methods, in groups."""
    known: set[str] = set()
    add_of_spectra(parser)
    groups = {"of both methods": SHARED}
    groups |= {f"of the {method} method": own for method, own in OF_METHOD.items()}
    for owner, options in groups.items():
        group = parser.add_argument_group(f"options {owner}")
        add(group, [option for option in options if option[0] not in known])
        known |= {name for name, *_ in options}


def add_of_spectra(parser: argparse.ArgumentParser) -> None:
    """Add the options of spectra that are fused as they are."""
    add(parser.add_argument_group("options with --maps spectra"), OF_SPECTRA)


def _weight(text: str) -> float | str:
    """Read a weight: a number, or "auto"."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number nor 'auto'"
        ) from None


# --- values ----------------------------------------------------------------------


def for_fusion(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options for the method; an error for those that it does not have."""
    method, whole = arguments.method, arguments.maps == "spectra"
    if method not in OF_METHOD:
        raise ValueError(
            f"method is {method!r}: expected {' or '.join(map(repr, OF_METHOD))}"
        )
    if whole and method == "published":
        raise ValueError(
            "--maps is spectra for the published method, which takes maps: expected "
            "windows or ready-made"
        )
    known = {name for name, *_ in (*SHARED, *OF_METHOD[method])}
    every = {name for name, *_ in (*SHARED, *chain(*OF_METHOD.values()), *OF_SPECTRA)}
    owner = f"the {method} method"
    if whole:
        known = every & signature(fuse_spectra).parameters.keys()
        owner = "--maps spectra"
    given = {name: getattr(arguments, name) for name in every}
    given = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(given.keys() - known)
    if unknown:
        where = "of each method"
        if not whole and {name for name, *_ in OF_SPECTRA} & set(unknown):
            where += ", and of --maps spectra, which is not given"
        raise ValueError(
            f"{owner} has no option {', '.join(map(flag_of, unknown))}: see "
            f"hyperspy-fusion fuse --help for the options {where}"
        )
    if arguments.elastic is not None and method == "published":
        raise ValueError(
            f"--elastic was given for {owner}: expected the calibrated method, which "
            "takes several elastic images"
        )
    given |= for_spectra(arguments)
    if "sensitivities" in given:
        given["sensitivities"] = _pairs(given["sensitivities"])
    if "mask" in given:
        given["mask"] = _mask(given["mask"])
    return given


def for_spectra(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of spectra that are fused as they are."""
    given = {name: getattr(arguments, name) for name, *_ in OF_SPECTRA}
    given = {name: value for name, value in given.items() if value is not None}
    if "energy_range" in given:
        given["energy_range"] = _energies(given["energy_range"])
    return given


def for_loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `load_multimodal` that say what to make of signals."""
    integration = _windows("integration_windows", arguments.integration_windows)
    if integration is not None and np.shape(integration) == (1, 1):
        integration = integration[0][0]
    return {
        "elements": arguments.elements,
        "lines": arguments.lines,
        "maps": arguments.maps,
        "haadf": arguments.haadf,
        "elastic": arguments.elastic,
        "background_windows": _windows(
            "background_windows", arguments.background_windows
        ),
        "integration_windows": integration,
    }


def frames_of(text: str | None) -> slice | list[int] | None:
    """Frames from a range ``A:B`` or numbers ``A,B``."""
    if text is None:
        return None
    try:
        if ":" in text:
            return slice(*(int(n) if n.strip() else None for n in text.split(":")))
        return [int(n) for n in text.split(",")]
    except (TypeError, ValueError):
        raise ValueError(
            f"--frames is {text!r}: expected a range such as 10: or 10:50, or numbers "
            "such as 0,1,4"
        ) from None


def _windows(name: str, rows: Sequence[str] | None) -> Any:
    """Rows of energies, or "auto"."""
    if rows is None or list(rows) == ["auto"]:
        return rows and "auto"
    try:
        return [[float(energy) for energy in row.split(",")] for row in rows]
    except ValueError:
        raise ValueError(
            f"{flag_of(name)} is {' '.join(rows)!r}: expected energies with commas "
            "between them, one group for each line, as 6.2,6.6 7.9,8.2"
        ) from None


def _energies(text: str) -> tuple[float, ...]:
    """Two energies in keV."""
    try:
        low, high = (float(energy) for energy in text.split(","))
    except ValueError:
        raise ValueError(
            f"--energy-range is {text!r}: expected two energies in keV, as 0.3,20"
        ) from None
    return low, high


def _pairs(entries: Sequence[str]) -> dict[str, float]:
    try:
        return {
            name: float(value)
            for name, value in (entry.split("=") for entry in entries)
        }
    except ValueError:
        raise ValueError(
            f"--sensitivities is {' '.join(entries)!r}: expected a number for each "
            "element, as Fe=1.2 Pt=3.4"
        ) from None


def _mask(path: str) -> np.ndarray:
    """Read a mask: an image that is not 0 where pixels are missing."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"--mask: there is no file {path}")
    if path.endswith(".npy"):
        return np.load(path) != 0
    images = as_list(hs.load(path))
    if len(images) != 1:
        raise ValueError(
            f"--mask: {path} holds {len(images)} signals: expected one image"
        )
    return np.asarray(images[0].data) != 0


# --- files -----------------------------------------------------------------------


def dump(arguments: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Options that were given, as TOML that `parse` reads; other tables below them."""
    lines = [f"{key} = {_toml(value)}" for key, value in arguments.items()]
    for title, entries in tables.items():
        lines += ["", f"[{title}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in entries.items()]
    return "\n".join([*lines, ""])


def _toml(value: Any) -> str:
    # strings, numbers, booleans and lists of JSON are those of TOML
    return json.dumps(value, ensure_ascii=False)


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def given_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options that were given, by their spelling without dashes in front.

    Paths are whole, so that they hold from another folder.
    """
    given = {"method": arguments.method}
    for name, kind, *_ in dict.fromkeys(_EVERY):
        value = getattr(arguments, name)
        if value is None:
            continue
        if name in ("haadf", "mask") and Path(value).exists():
            value = str(Path(value).resolve())
        if name == "elastic":
            value = [str(Path(v).resolve()) if Path(v).exists() else v for v in value]
        given[flag_of(name)[2:]] = True if kind in (bool, "off") else value
    return given


def _check_value(found: str, kind: Any, value: Any) -> None:
    """Raise a ValueError if an option of a TOML file cannot have a value."""
    if kind in (bool, "off"):
        if not isinstance(value, bool):
            raise ValueError(f"{found}: expected true or false")
        return
    several = kind in ("names", "pairs", "weights")
    values = value if several and isinstance(value, list) else [value]
    if any(isinstance(one, bool | list | dict) for one in values):
        lists = ", or a list of these" * several
        raise ValueError(
            f"{found}: expected a text or a number{lists}, as on the command line"
        )


def as_argv(path: Path) -> list[str]:
    """The options of a TOML file as arguments of the command line, files first."""
    entries = read(path)
    result = entries.pop(RESULT, {})  # of the run that wrote the file
    added = sorted(set(result) - set(OF_RESULT))
    if added:
        raise ValueError(
            f"{path} has {', '.join(map(repr, added))} below [{RESULT}]: expected "
            "options above it, since all that stands below is of that table"
        )
    files = entries.pop("files", [])
    known = ["method", *(flag_of(name)[2:] for name, *_ in _EVERY)]
    wrong = [key for key in entries if key not in known]
    if wrong:
        meant = [near for key in wrong for near in get_close_matches(key, known, 1)]
        perhaps = f" (perhaps {', '.join(meant)})" * bool(meant)
        raise ValueError(
            f"{path} has {', '.join(map(repr, wrong))}, which are no options{perhaps}: "
            "expected files, and options of hyperspy-fusion fuse without -- in front, "
            "not in tables"
        )
    if not all(isinstance(one, str) for one in as_list(files)):
        raise ValueError(f"{path} has files = {files!r}: expected names of files")
    argv = as_list(files)
    kinds = {flag_of(name)[2:]: kind for name, kind in _KINDS.items()}
    for key, value in entries.items():
        _check_value(f"{path} has {key} = {value!r}", kinds.get(key, str), value)
        if isinstance(value, list):
            argv += [f"--{key}", *map(str, value)] if value else []
        elif value is not False:
            argv.append(f"--{key}" if value is True else f"--{key}={value}")
    return argv
