"""After the warm-up there is nothing left to compile."""

import os
import subprocess
import sys

from hyperspy_fusion import cli
from hyperspy_fusion.cli import program

# In a process of its own: in this one kernels have been called before.
PROGRAM = """
from hyperspy_fusion.warm_up import warm_up
from hyperspy_fusion.core.calibrated.convex import bins, certificate, multigrid
from hyperspy_fusion.core.calibrated.convex import spectral, sweep
from hyperspy_fusion.core.calibrated import groups
from hyperspy_fusion.core.published import kernels

warm_up()
print(len(warm_up()))
modules = bins, certificate, groups, multigrid, spectral, sweep, kernels
for module in modules:
    for name, kernel in vars(module).items():
        options = getattr(kernel, "targetoptions", {})
        part = options.get("forceinline") or options.get("inline") == "always"
        if hasattr(kernel, "signatures") and not part:
            missed = sum(kernel.stats.cache_misses.values())
            print(name, len(kernel.signatures), missed)
"""


def kernels():
    """What the first warm-up leaves to the second, and a row for each kernel."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again, *rows = done.stdout.splitlines()
    return again, [row.split() for row in rows]


def test_all_kernels_are_compiled_once():
    again, found = kernels()
    assert again == "0"
    assert len(found) > 10
    assert {n for _, n, _ in found} == {"1"}
    # in other processes none is compiled again
    _, found = kernels()
    assert [name for name, _, missed in found if missed != "0"] == []


def test_command(capsys, monkeypatch):
    assert cli.main(["warm-up"]) == 0
    monkeypatch.setattr(program, "warm_up", lambda: ["iterate", "join"])
    assert cli.main(["warm-up"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(("Nothing to do", "Compiled "))
    assert second.startswith("Compiled 2 kernels in 0 s: iterate, join")
