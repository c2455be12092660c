"""The mathematics: arrays in, arrays out; NumPy, SciPy and Numba only.

Names mean the same in all modules:

maps, measured, fused, net, data, variance
    Images of the elements, shape ``(n_elements, y, x)``; NaN where missing.
    `net` is without background.
haadf, sigma, trusted, weight
    HAADF image and numbers for each of its pixels, shape ``(y, x)``.
coefficients, prior, flux, atomic_numbers, sensitivities
    Numbers of the elements, shape ``(n_elements,)``. `prior` holds the expected
    HAADF coefficients c_i in any common unit.
background
    Known background in the units of the maps; it broadcasts against them.
run
    :class:`~hyperspy_fusion.core.common.threads.Workers`, the threads.
callback
    Called between iterations; what it raises ends them.
"""
