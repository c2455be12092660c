"""Options that check themselves: type, finiteness and range, in one wording."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import wraps
from math import inf, isfinite
from numbers import Real
from sys import float_info
from typing import Any, ParamSpec, TypeVar, get_args

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
_OPTIONS_OF: dict[str, list[str]] = {}
_LARGEST = 1e15  # so that products of options and data fit float32


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class: every field is made by one of the functions of this module.

    NumPy scalars and arrays of no dimension are accepted; values are stored as
    builtins. A value of the wrong type raises a TypeError; one that is not finite, not
    whole or out of range a ValueError.
    """

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            checked = option.metadata["check"](option.name, value)
            object.__setattr__(self, option.name, checked)


def helpful(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function say how it is called, if it is called otherwise."""
    name = function.__name__
    parameters = inspect.signature(function).parameters
    _OPTIONS_OF[name] = list(parameters)
    needed = [p for p, own in parameters.items() if own.default is own.empty]
    places = [p for p, own in parameters.items() if own.kind is not own.KEYWORD_ONLY]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for option in kwargs:
            if option not in parameters:
                raise TypeError(_unknown_option(name, option))
        if len(args) > len(places):
            raise TypeError(_too_many(name, places, len(args)))
        lacking = [p for p in needed[len(args) :] if p not in kwargs]
        if lacking:
            raise TypeError(
                f"{name} is called without {', '.join(lacking)}: expected "
                f"{name}({', '.join(needed)})"
            )
        return function(*args, **kwargs)

    return checked


def _too_many(function: str, places: list[str], n: int) -> str:
    """Message for more arguments without a name than a function takes."""
    message = (
        f"{function} is called with {n} arguments without a name: expected "
        f"{function}({', '.join(places)}), and options by their names"
    )
    for other, own in _OPTIONS_OF.items():
        further = own[len(places) : n]
        if own[: len(places)] == places and not {*further} & {*_OPTIONS_OF[function]}:
            return f"{message}; {', '.join(further)} is one of {other}"
    return message


def _unknown_option(function: str, option: str) -> str:
    """Message for an option that a function does not have."""
    others = [other for other, own in _OPTIONS_OF.items() if option in own]
    close = get_close_matches(option, _OPTIONS_OF[function], n=1)
    message = f"{function} has no option {option}"
    if others:
        message += f", which is one of {' and '.join(others)}"
    if close:
        return f"{message}: did you mean {close[0]}?"
    return f"{message}: expected one of {', '.join(_OPTIONS_OF[function])}"


def number(
    default: float | None,
    *,
    least: float = -inf,
    above: float = -inf,
    most: float = inf,
    instead: str | None = None,
    remark: str = "",
) -> Any:
    """Field for a finite number.

    Parameters
    ----------
    default : float or None
        The default.
    least, above, most : float
        Range of the number: at least, above, at most.
    instead : {None, "None", "'auto'"}
        Accepted instead of a number, and stored as None.
    remark : str
        Added to the error message.
    """
    return _ranged("a finite number", default, least, above, most, instead, remark)


def numbers(*, least: float, instead: str) -> Any:
    """Field for a :func:`number` of each of several things: one, a list, or by names.

    Stored as a tuple, or a dict by the names; None if `instead` is given for all.
    """
    each = number(None, least=least, instead=instead).metadata["check"]

    def check(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): each(f"{name}[{k!r}]", one) for k, one in value.items()}
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(value, list | tuple):
            return tuple(each(f"{name}[{k}]", one) for k, one in enumerate(value))
        found = each(name, value)
        return None if found is None else (found,)

    return field(default=None, metadata={"check": check})


def whole_number(
    default: int | None,
    *,
    least: int,
    most: float = inf,
    instead: str | None = None,
    remark: str = "",
) -> Any:
    """Field for a whole number of at least `least`; see :func:`number`."""
    return _ranged(
        "a whole number", default, least, -inf, most, instead, remark, whole=True
    )


def choice(default: str, allowed: Any) -> Any:
    """Field for one of the strings of a :data:`typing.Literal`."""
    expected = "one of " + ", ".join(map(repr, get_args(allowed)))

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(_found(name, value, expected))
        if value not in get_args(allowed):
            raise ValueError(_found(name, value, expected))
        return str(value)

    return field(default=default, metadata={"check": check})


def flag(default: bool | None, *, instead: str | None = None) -> Any:  # noqa: FBT001
    """Field for True or False; `instead` as for :func:`number`."""
    expected = "True or False" + (f", or {instead}" if instead else "")

    def check(name: str, value: Any) -> bool | None:
        if instead and value is None:
            return None
        found = _scalar(value)
        if not isinstance(found, bool):
            raise TypeError(_found(name, value, expected))
        return found

    return field(default=default, metadata={"check": check})


def _ranged(
    kind: str,
    default: float | None,
    least: float,
    above: float,
    most: float,
    instead: str | None,
    remark: str,
    *,
    whole: bool = False,
) -> Any:
    expected = kind
    if above > -inf:
        expected += f" above {above:g}" + (f", up to {most:g}" if most < inf else "")
    elif least > -inf and most < inf:
        expected += f" from {least:g} to {most:g}"
    elif least > -inf:
        expected += f" of at least {least:g}"
    expected += f", or {instead}" if instead else ""
    expected += f"; {remark}" if remark else ""

    def check(name: str, value: Any) -> float | None:
        if instead and value is None:
            return None
        if instead == "'auto'" and isinstance(value, str) and value == "auto":
            return None
        found = _scalar(value)
        if isinstance(found, bool) or not isinstance(found, Real):
            raise TypeError(_found(name, value, expected))
        size = _size(found)
        fits = isfinite(size) and least <= size <= most and size > above
        if not fits or (whole and not size.is_integer()):
            raise ValueError(_found(name, value, expected))
        if not whole:
            return _in_single_precision(size, _found(name, value, expected))
        return found if isinstance(found, int) else int(size)

    return field(default=default, metadata={"check": check})


def _in_single_precision(size: float, message: str) -> float:
    """The number; a ValueError if products with the data would not fit float32."""
    if size and not 1 / _LARGEST <= abs(size) <= _LARGEST:
        raise ValueError(
            f"{message}; and for the sake of single precision 0, or from "
            f"{1 / _LARGEST:g} to {_LARGEST:g}"
        )
    return size


def _size(number: Any) -> float:
    """A real number as a float, infinite for NaN and beyond the largest float."""
    return float(number) if abs(number) <= float_info.max else inf


def _scalar(value: Any) -> Any:
    """The builtin of a NumPy scalar or of an array of no dimension."""
    if isinstance(value, np.generic) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    ):
        return value.item()
    return value


def _found(name: str, value: Any, expected: str) -> str:
    shown = repr(value)
    if len(shown) > 60:
        shown = f"of type {type(value).__name__}"
    return f"{name} is {shown}: expected {expected}"
