"""The calibrated method: arrays in, arrays out."""
