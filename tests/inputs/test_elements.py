import warnings

import numpy as np
import pytest
from small_images import image

from hyperspy_fusion.inputs.elements import atomic_number, infer_element
from hyperspy_fusion.inputs.measurement import measure


@pytest.mark.parametrize(
    ("title", "sample", "element"),
    [
        ("Cu", {}, "Cu"),
        (" Cu ", {}, "Cu"),
        ("Fe-EELS", {}, "Fe"),
        ("Fe-EDS", {}, "Fe"),
        ("intensity parameter of Cu_L3 component", {}, "Cu"),
        ("X-ray line intensity of EDS: Cu_Ka at 8.05 keV", {}, "Cu"),
        ("atomic percent of Fe", {}, "Fe"),
        ("anything", {"xray_lines": ["Pt_La"]}, "Pt"),
        ("anything", {"elements": ["Pt"]}, "Pt"),
        ("Fe", {"elements": ["Pt"]}, "Pt"),
        ("Fe", {"elements": ["Co"], "xray_lines": ["Pt_La"]}, "Pt"),
        ("Fe", {"elements": ["Co", "Pt"]}, "Fe"),
        ("SE", {}, None),  # not selenium
        ("HAADF", {}, None),
        ("", {}, None),
        ("Xx", {}, None),
        ("survey of No 3", {}, None),
        ("C_K1a", {}, "C"),
        ("Fe_L3 (x10)", {}, "Fe"),
        ("Fe_L2,3", {}, "Fe"),
        ("Fe_L23_net", {}, "Fe"),
        ("Fe_Kα", {}, "Fe"),
        ("Sr_Lb1", {}, "Sr"),
        ("Ir_M2N4, 5 nm", {}, "Ir"),
        ("Fe_L", {}, "Fe"),
        ("Au_NPs", {}, None),
        ("Si_Nanowire", {}, None),
        ("Co_Oxide", {}, None),
        ("Co_Ox", {}, None),
        ("Ni_Mn_alloy", {}, None),
        ("Ti_OH", {}, None),
        ("Au_Na", {}, None),
        ("O K", {}, "O"),  # JEOL
        ("Fe L", {}, "Fe"),
        ("Fe Kα1", {}, "Fe"),
        ("Cu Lα1,2", {}, "Cu"),
        ("IMG1", {}, None),
        ("Au Na", {}, None),
        ("No K map", {}, None),
    ],
)
def test_infer_element(title, sample, element):
    assert infer_element(image(title, **sample)) == element


def test_element_of_each_edge_and_line_that_exspy_knows():
    from exspy.material import elements  # noqa: PLC0415 - slow to import

    for symbol in list(elements.keys()):
        atom = elements[symbol].Atomic_properties
        for node in ("Xray_lines", "Binding_energies"):
            for name in list(atom.get_item(node, {}).keys()):
                assert infer_element(image(f"intensity of {symbol}_{name}")) == symbol


def test_atomic_number():
    assert [atomic_number(e) for e in ("H", "O", "Dy", "Au")] == [1, 8, 66, 79]
    with pytest.raises(ValueError, match=r"'fe' is not the symbol.*case matters"):
        atomic_number("fe")


@pytest.mark.parametrize(
    ("word", "meant"), [("fe", "'Fe'"), ("Iron", "'Fe'"), (" FE", "'Fe'"), ("Xx", None)]
)
def test_what_was_meant(word, meant):
    with pytest.raises(ValueError, match="not the symbol") as info:
        atomic_number(word)
    suggested = f"did you mean {meant}?"
    assert (suggested in str(info.value)) == (meant is not None)


def test_per_cent_of_a_few_elements_are_told():
    rng = np.random.default_rng(0)
    iron = image("atomic percent of Fe", rng.uniform(20, 60, (8, 8)))
    oxygen = image("atomic percent of O", 100 - iron.data)
    haadf = image("HAADF", rng.uniform(size=(8, 8)))
    with pytest.warns(UserWarning, match="the map of Fe is in per cent, but the maps"):
        measure([iron], haadf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure([iron, oxygen], haadf)
