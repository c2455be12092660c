"""Measurement -> plan -> solutions: the only rooms that know dask."""
