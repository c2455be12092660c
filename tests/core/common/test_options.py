"""Options that check themselves."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest

from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.common.options import (
    Options,
    choice,
    flag,
    number,
    whole_number,
)
from hyperspy_fusion.core.published.method import PublishedOptions
from hyperspy_fusion.execution.plan import ExecutionOptions


@dataclass(frozen=True, kw_only=True)
class Sample(Options):
    """One field of each kind."""

    weight: Any = number(1.0, least=0, instead="'auto'")
    limit: float | None = number(None, above=0, instead="None", remark="None: no limit")
    fraction: float = number(0.5, least=0, most=1)
    steps: int = whole_number(3, least=1)
    kind: str = choice("a", Literal["a", "b"])
    quick: bool = flag(default=True)
    shown: bool | None = flag(default=None, instead="None")


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("weight", 2, 2.0),
        ("weight", "auto", None),
        ("weight", None, None),
        ("weight", np.float32(0.5), 0.5),
        ("weight", np.array(3), 3.0),
        ("weight", Fraction(1, 4), 0.25),
        ("limit", None, None),
        ("fraction", 1, 1.0),
        ("steps", 4.0, 4),
        ("steps", np.int64(7), 7),
        ("steps", np.array(7.0), 7),
        ("steps", 2**60 + 1, 2**60 + 1),
        ("kind", np.str_("b"), "b"),
        ("quick", np.bool_(False), False),  # noqa: FBT003
        ("shown", None, None),
    ],
)
def test_values_are_kept_as_builtins(name, given, kept):
    found = getattr(Sample(**{name: given}), name)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("weight", "4", r"weight is '4': expected a finite number of at least 0, or "),
        ("weight", True, "weight is True: expected a finite number"),
        ("weight", 1j, "weight is 1j: expected a finite number"),
        ("weight", [1.0], r"weight is \[1.0\]: expected a finite number"),
        ("weight", np.array([1.0]), r"weight is array\(\[1.\]\): expected a finite"),
        ("weight", np.zeros(999), "weight is .*: expected a finite number"),
        ("limit", Decimal(1), "expected a finite number above 0, or None; None: no li"),
        ("limit", "auto", "limit is 'auto': expected a finite number above 0, or None"),
        ("steps", None, "steps is None: expected a whole number of at least 1"),
        ("steps", np.bool_(True), "steps is .*True.*: expected a whole number"),  # noqa: FBT003
        ("kind", 1, "kind is 1: expected one of 'a', 'b'"),
        ("quick", 1, "quick is 1: expected True or False"),
        ("quick", None, "quick is None: expected True or False"),
        ("shown", "no", "shown is 'no': expected True or False, or None"),
    ],
)
def test_wrong_types(name, given, message):
    with pytest.raises(TypeError, match=message):
        Sample(**{name: given})


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("weight", np.inf, "weight is inf: expected a finite number of at least 0, or"),
        ("weight", np.nan, "weight is nan: expected a finite number"),
        ("weight", np.float32("nan"), "weight is .*nan.*: expected a finite number"),
        ("weight", -1, "weight is -1: expected a finite number of at least 0, or 'au"),
        ("weight", 10**400, "weight is of type int: expected a finite number"),
        ("limit", 0, "limit is 0: expected a finite number above 0"),
        ("fraction", 1.1, "fraction is 1.1: expected a finite number from 0 to 1"),
        ("steps", 50.5, "steps is 50.5: expected a whole number of at least 1"),
        ("steps", Fraction(1, 2), "steps is .*: expected a whole number"),
        ("steps", 0, "steps is 0: expected a whole number of at least 1"),
        ("kind", "c", "kind is 'c': expected one of 'a', 'b'"),
    ],
)
def test_wrong_values(name, given, message):
    with pytest.raises(ValueError, match=message):
        Sample(**{name: given})


@pytest.mark.parametrize(
    ("options", "name", "given"),
    [
        (CalibratedOptions, "max_iter", 50.5),
        (CalibratedOptions, "lambda_tv", "4"),
        (CalibratedOptions, "lambda_haadf", np.inf),
        (CalibratedOptions, "gamma", np.nan),
        (CalibratedOptions, "tolerance", 0),
        (CalibratedOptions, "seed", -1),
        (CalibratedOptions, "lock_flux", 1),
        (CalibratedOptions, "regularizer", "l2"),
        (PublishedOptions, "gamma", 0.9),
        (PublishedOptions, "epsilon", 0),
        (PublishedOptions, "n_iter_tv", 0),
        (PublishedOptions, "z_weighting", None),
        (ExecutionOptions, "tile_size", 31),
        (ExecutionOptions, "num_workers", 0),
        (ExecutionOptions, "weights", "both"),
    ],
)
def test_options_of_the_functions(options, name, given):
    with pytest.raises((TypeError, ValueError), match=f"^{name} is .*: expected "):
        options(**{name: given})
