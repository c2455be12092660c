"""The convex problem of the calibrated method, and its certified solution."""
