"""Measurements of the package that take too long for a test."""
