"""The published method: arrays in, arrays out."""
