"""Signals -> arrays that belong together: elements, images, stacks, measurement."""
