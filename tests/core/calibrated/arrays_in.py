"""The calibrated method as a function of arrays, one by one."""

from hyperspy_fusion.core.calibrated import method
from hyperspy_fusion.core.calibrated import prepare as preparation
from hyperspy_fusion.core.calibrated.given import Chemistry, Pixels


def given(
    maps,
    haadf,
    atomic_numbers,
    *,
    background=None,
    variance=None,
    sensitivities=None,
    elements=(),
    elastic=None,
    elastic_names=(),
):
    """Pixels and chemistry."""
    pixels = Pixels(
        maps=maps,
        haadf=haadf,
        background=background,
        variance=variance,
        elastic=elastic,
    )
    chemistry = Chemistry(
        atomic_numbers=atomic_numbers,
        sensitivities=sensitivities,
        elements=elements,
        elastic_names=elastic_names,
    )
    return pixels, chemistry


def solve(
    maps, haadf, atomic_numbers, options, *, num_workers=None, callback=None, **others
):
    """The solution."""
    pixels, chemistry = given(maps, haadf, atomic_numbers, **others)
    return method.solve(
        pixels, chemistry, options, num_workers=num_workers, callback=callback
    )


def prepare(maps, haadf, options, *, background=None, variance=None, **others):
    """The preparation."""
    pixels = Pixels(maps=maps, haadf=haadf, background=background, variance=variance)
    return preparation.prepare(pixels, options, **others)
