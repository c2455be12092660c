"""The command line in forks of this process, and signals that reach them."""

import json
import multiprocessing
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

import hyperspy_fusion as hf
from hyperspy_fusion import cli
from hyperspy_fusion.cli import program

QUICK = ["--method", "published", "--n-iter", "2", "--pixel-size", "2"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
WHOLE = {"Co.hspy", "Mn.hspy", "O.hspy", "fusion.png", "report.html", "run.toml"}


def save_specimen(name, **options):
    maps, haadf, _ = hf.data.core_shell(16, **options)
    arrays = {one.metadata.General.title: one.data for one in (*maps, haadf)}
    np.savez(name, **arrays)


def listed(folder="."):
    return {path.name for path in Path(folder).iterdir()}


def forked(arguments, trace=None, errors=os.devnull, at_end=lambda: None):
    """Start the command line in a fork; what it prints of errors goes to a file."""

    def run():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in ((1, os.devnull), (2, errors)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.settrace(trace)
        code = cli.main(arguments)
        sys.settrace(None)
        at_end()
        sys.stderr.flush()
        os._exit(code)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
        job = multiprocessing.get_context("fork").Process(target=run)
        job.start()
    return job


def tracer(line):
    """What sys.settrace takes: it calls ``line`` with each line that is run."""

    def trace(_frame, _event, _arg):
        return each

    def each(frame, event, _arg):
        if event == "line":
            line(frame.f_code.co_filename, frame.f_lineno)
        return each

    return trace


def lines_run(arguments):
    """When each line of all code is run first, between begin and end of the work.

    A dictionary of (file, number of the line): how many lines ran before.
    """
    first, last, n = {}, {}, 0

    def line(path, number):
        nonlocal n
        n += 1
        first.setdefault((path, number), n)
        last[path] = n

    def keep():
        begin = min(n for (path, _), n in first.items() if path == program.__file__)
        end = last[program.__file__]
        found = [(*at, n) for at, n in first.items() if begin <= n <= end]
        Path("lines.json").write_text(json.dumps(found))

    job = forked(arguments, tracer(line), at_end=keep)
    job.join()
    found = json.loads(Path("lines.json").read_text())
    return {(path, number): n for path, number, n in found}


def signal_at(how, target):
    """What sys.settrace takes: it sends a signal at one of the lines that are run."""
    n = 0

    def line(_path, _number):
        nonlocal n
        n += 1
        if n == target:
            sys.settrace(None)
            signal.raise_signal(how)

    return tracer(line)


def check_end(code, output, how=None, errors=None):
    """Check that a result is whole or absent; and that a signal was not swallowed."""
    output = Path(output)
    assert not output.exists() or whole_in(output)
    assert output.exists() or code != 0
    assert not [name for name in listed() if name.startswith(".")]
    if how is not None:
        assert code == CODES[how]
        left = f"{output} is complete" if output.exists() else "nothing was written"
        said = f"hyperspy-fusion: {WORDS[how]}, {left}\n"
        assert Path(errors).read_text() == said


def whole_in(folder):
    return listed(folder) >= WHOLE
