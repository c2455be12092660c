"""The mathematics: arrays in, arrays out; NumPy, SciPy and Numba only."""
