"""Other packages, without the deprecation warnings that are for their developers."""

import atexit
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import hyperspy.api as hs
from hyperspy.exceptions import VisibleDeprecationWarning


@cache
def elements_of_exspy() -> Any:
    """Table of the elements, their X-ray lines and edges; slow at the first call."""
    with warnings.catch_warnings():
        # HyperSpy 2.5 warns of imports in eXSpy.
        warnings.filterwarnings("ignore", "Importing `Lazy", VisibleDeprecationWarning)
        from exspy.material import elements  # noqa: PLC0415
    return elements


def load_file(path: str | Path, **options: object) -> list:
    """List the signals of a file, as :func:`hyperspy.api.load` reads them."""
    elements_of_exspy()  # which HyperSpy would import to make signals of spectra
    # HyperSpy takes a str with brackets for a pattern, a Path never.
    source = Path(path) if Path(path).exists() else path
    try:
        signals = hs.load(source, **options)
    except (ImportError, MemoryError, OSError, ValueError):
        raise
    except Exception as error:  # damaged files make readers raise anything
        found = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"cannot read {path}, which seems to be damaged ({found})"
        ) from error
    finally:
        _quiet_exit()
    return signals if isinstance(signals, list) else [signals]


@cache
def _quiet_exit() -> None:
    """Ignore what numcodecs, which HyperSpy imports to load a file, warns of at exit.

    It calls a deprecated function of its own. What is registered last is called first.
    """
    message = r"Call to deprecated function .* _destroy"
    atexit.register(warnings.filterwarnings, "ignore", message, DeprecationWarning)
