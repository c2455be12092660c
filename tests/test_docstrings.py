"""The examples in the docstrings run as they stand."""

import doctest
import importlib
import pkgutil

import matplotlib.pyplot as plt
import pytest

import hyperspy_fusion

EXAMPLES = [
    example
    for module in pkgutil.walk_packages(hyperspy_fusion.__path__, "hyperspy_fusion.")
    for example in doctest.DocTestFinder().find(importlib.import_module(module.name))
    if example.examples
]


@pytest.mark.filterwarnings("ignore:the maps are fractions:UserWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example, real_data):
    if example.name.endswith("dysco3"):
        real_data("DyScO3_EDX_HAADF.npz")
    elif example.name.endswith("co3o4_mn3o4"):
        real_data("Co3O4_Mn3O4_EELS_HAADF.h5")
    results = doctest.DocTestRunner().run(example)
    plt.close("all")
    assert results.failed == 0
