"""Ctrl-C and SIGTERM."""

import signal
import sys

import pytest
from forks import (
    CODES,
    QUICK,
    WORDS,
    check_end,
    forked,
    lines_run,
    listed,
    save_specimen,
    signal_at,
)

from hyperspy_fusion import cli
from hyperspy_fusion.cli import batch, files, interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
SIGNALS = pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "draw", lambda *_: {"fusion.png": b"drawn elsewhere"})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class TestState:
    @SIGNALS
    def test_a_signal_is_raised_at_once_or_held(self, how):
        done = []

        def interrupted(within):
            with interrupts.listening(), interrupts.released(), within():
                signal.raise_signal(how)
                done.append(within)

        for within in (interrupts.released, interrupts.held):
            with pytest.raises(KeyboardInterrupt):
                interrupted(within)
        assert done == [interrupts.held]

    def test_what_has_waited_is_raised_when_signals_are_released(self):
        with interrupts.listening():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt), interrupts.released():
                pytest.fail("it went on")

    def test_handlers_are_put_back(self):
        before = [signal.getsignal(one) for one in CODES]
        with interrupts.listening():
            assert all(signal.getsignal(one) is interrupts.arrive for one in CODES)
        assert [signal.getsignal(one) for one in CODES] == before

    def test_what_is_ignored_stays_so(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts.listening(), interrupts.released():
            signal.raise_signal(signal.SIGINT)
            interrupts.check()

    def test_a_new_process_begins_with_ctrl_c_waiting(self):
        with interrupts.listening(), interrupts.masked():
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            assert signal.SIGINT in blocked
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class TestSwallowed:
    """What is running may catch what a handler raises."""

    @pytest.fixture(autouse=True)
    def _specimen(self):
        save_specimen("a.npz")
        save_specimen("b.npz")

    def swallow(self, monkeypatch, how, error=None):
        read = files.read

        def swallowing(*args):
            try:
                signal.raise_signal(how)
            except KeyboardInterrupt:
                if error:
                    raise error from None
            return read(*args)

        monkeypatch.setattr(files, "read", swallowing)

    @SIGNALS
    @pytest.mark.parametrize("error", [None, ValueError("no valid index")])
    @pytest.mark.parametrize("many", [[], ["b.npz"]])
    def test_it_ends_the_work_all_the_same(self, monkeypatch, capsys, how, error, many):
        self.swallow(monkeypatch, how, error)
        assert cli.main(["fuse", "a.npz", *many, *QUICK]) == CODES[how]
        left = "go on with --resume" if many else "nothing was written"
        said = capsys.readouterr().err
        assert said == f"hyperspy-fusion: {WORDS[how]}, {left}\n"
        assert listed() == {"a.npz", "b.npz", *(["fused"] if many else [])}

    @pytest.mark.parametrize("error", [None, ValueError("no valid index")])
    def test_in_what_only_reads(self, monkeypatch, capsys, error):
        self.swallow(monkeypatch, signal.SIGINT, error)
        assert cli.main(["info", "a.npz"]) == 130
        said = capsys.readouterr().err
        assert said == "hyperspy-fusion: interrupted, nothing was written\n"

    def test_in_a_destructor(self, monkeypatch, capsys):
        class Destroyed:
            def __del__(self):
                signal.raise_signal(signal.SIGTERM)

        read = files.read

        def destroying(*args):
            Destroyed()
            return read(*args)

        monkeypatch.setattr(files, "read", destroying)
        assert cli.main(["fuse", "a.npz", *QUICK]) == 143
        said = capsys.readouterr().err
        assert said == "hyperspy-fusion: terminated, nothing was written\n"


@SIGNALS
@pytest.mark.skipif(sys.platform != "linux", reason="forks of a process with threads")
def test_a_signal_at_lines_of_the_command_line(how):
    """One in three of its own lines; the soak tests send one at each line of all."""
    save_specimen("a.npz")
    arguments = ["fuse", "a.npz", *QUICK, "--output"]
    cli.main([*arguments, "before"])  # loads what forks share
    own = {batch.__file__, files.__file__, interrupts.__file__}
    found = [
        n for (path, _), n in lines_run([*arguments, "first"]).items() if path in own
    ]
    assert len(found) > 100
    for n in found[::3]:
        job = forked([*arguments, f"out{n}"], signal_at(how, n), "errors")
        job.join(60)
        check_end(job.exitcode, f"out{n}", how, "errors")
