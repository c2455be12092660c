"""Supported inputs -> `Measurement`."""
