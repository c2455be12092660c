"""By what a fusion can be repeated: its options, its data, and what computed it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from platform import python_version
from typing import Any
from zlib import crc32

import llvmlite.binding
import numpy as np

from .core.common.options import Options
from .execution.arrays import computed, is_lazy
from .execution.plan import ExecutionOptions
from .inputs.measurement import Measurement

_CALLED = {"elastic": "further elastic image"}  # what is no noun
_PACKAGES = (
    "hyperspy-fusion",
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "dask",
    "hyperspy",
    "exspy",
    "rosettasciio",
)


def provenance(
    measurement: Measurement, options: Options, execution: ExecutionOptions
) -> dict[str, str]:
    """Entries of the record of fused maps; see :func:`origin`."""
    sensitivities = measurement.sensitivities
    elements = measurement.elements
    names = {"background": measurement.background, "mask": measurement.masked or None}
    call = {
        "options": asdict(options),
        "sensitivities": sensitivities
        and dict(zip(elements, sensitivities, strict=True)),
        "weights": execution.weights,
        "tile_size": execution.tile_size,
        "given": [name for name, value in names.items() if value is not None],
    }
    arrays = pixels(measurement)
    return origin(call, {} if is_lazy(*arrays.values()) else arrays)


def origin(call: dict[str, Any], arrays: dict[str, Any]) -> dict[str, str]:
    """Entries of the record by which a fusion can be repeated, all of them texts.

    ``call`` holds the options as they were given, as JSON; ``checksums`` those of the
    data, empty if they are lazy; ``versions`` what computed the result. Nothing else
    has an effect on it, nor has the number of threads.
    """
    lines = [f"{name}: {value}" for name, value in checksums(arrays).items()]
    return {
        "call": json.dumps(call),
        "checksums": "\n".join(lines),
        "versions": versions(),
    }


def call_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a record; a ValueError if there are none."""
    if "call" in record:
        return json.loads(record["call"])
    raise ValueError(
        f"the record was made by version {record['version']}, which did not keep the "
        "options: fuse the maps again"
    )


def options_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a fusion of maps as its function takes them, but for the data."""
    call = call_of(record)
    options = call["options"]
    options |= {
        "elements": record["elements"].split(","),
        "match": record.get("match"),
    }
    if record["method"] != "published":
        for name in ("lambda_haadf", "lambda_elastic", "lambda_tv", "haadf_offset"):
            options[name] = automatic(options[name])
        for name in ("sensitivities", "weights", "tile_size"):
            options[name] = call[name]
    return options


def automatic(option: Any) -> Any:
    """An option, or several, as the functions take them: "auto" where None is kept."""
    if isinstance(option, list):
        return [automatic(one) for one in option]
    if isinstance(option, dict):
        return {name: automatic(one) for name, one in option.items()}
    return "auto" if option is None else option


def check_as_fused(record: Mapping[str, Any], **given: Any) -> None:
    """Raise a ValueError if a background or a mask is not given as it was to a fusion.

    Records of earlier versions do not tell.
    """
    if "call" in record:
        known = json.loads(record["call"])
        names = [name for name in given if name == "mask" or "spectra" not in known]
        check_given(known["given"], {name: given[name] for name in names})


def check_given(expected: Sequence[str], given: dict[str, Any]) -> None:
    """Raise a ValueError if something was given in one of the fusions only."""
    for name, value in given.items():
        if (value is None) == (name in expected):
            found, remedy = "none is given", f"pass it as {name}="
            if value is not None:
                found, remedy = "one is given", "leave it out"
            had = "had a" if name in expected else "had no"
            raise ValueError(
                f"the fusion {had} {_CALLED.get(name, name)} and {found}: expected the "
                f"data that were fused, {remedy}"
            )


def pixels(measurement: Measurement) -> dict[str, Any]:
    """All that is fused, by its name; masked pixels are NaN, and count."""
    arrays: dict[str, Any] = {
        f"map of {element}": measurement.maps[..., i, :, :]
        for i, element in enumerate(measurement.elements)
    }
    arrays["HAADF image"] = measurement.haadf
    for i, name in enumerate(measurement.elastic_names):
        arrays[f"elastic image {name}"] = measurement.elastic[..., i, :, :]
    arrays["background"] = measurement.background
    arrays["noise variance"] = measurement.variance
    return {name: array for name, array in arrays.items() if array is not None}


def checksums(arrays: dict[str, Any]) -> dict[str, str]:
    """Checksum of each array, whatever its type; lazy ones are read image by image."""
    return {name: f"{_checksum(array):08x}" for name, array in arrays.items()}


def _checksum(array: Any) -> int:
    found = array.size
    for part in np.ndindex(array.shape[:-2]) if is_lazy(array) else [()]:
        (image,) = computed([array[part]])
        values = np.ascontiguousarray(image, dtype=np.float64)
        found = crc32(values.data.cast("B"), found)
    return found


def sums_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Checksums in a record."""
    return dict(
        line.rsplit(": ", 1) for line in record.get("checksums", "").splitlines()
    )


def check_same(known: dict[str, str], found: dict[str, str]) -> None:
    """Raise a ValueError that names the data whose checksums differ."""
    names = [name for name in known | found if known.get(name) != found.get(name)]
    if names:
        raise ValueError(
            f"other values than those that were fused: {', '.join(names)}. Expected "
            "the same data, cropped and masked as they were, in the same order"
        )
    if list(known) != list(found):
        raise ValueError(
            f"the data are in the order {', '.join(found)}: expected that in which "
            f"they were fused, {', '.join(known)}"
        )


def by_package(versions: str) -> dict[str, str]:
    """The versions of :func:`versions` by the name of the package."""
    return dict(line.rsplit(" ", 1) for line in versions.splitlines())


@cache
def versions() -> str:
    """Packages that have a part in the numbers, and the processor, one a line."""
    found = [f"Python {python_version()}"]
    found += [f"{package} {version(package)}" for package in _PACKAGES]
    found.append(f"processor {llvmlite.binding.get_host_cpu_name()}")
    return "\n".join(found)
