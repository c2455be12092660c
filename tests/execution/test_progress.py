"""What the bar shows, of a clock that the test winds."""

import math

import hyperspy.api as hs
import numba
import pytest

import hyperspy_fusion as hf
from hyperspy_fusion import progress
from hyperspy_fusion.core.common.compilation import compilers
from hyperspy_fusion.progress import Progress

SHOW = True


class Bar:
    """What `Progress` asks of tqdm."""

    def __init__(self, *, total, delay, **_):
        self.total, self.delay = total, delay
        self.n, self.closed, self.texts = 0, False, []

    @property
    def shown(self):
        return self.texts[-1]

    def update(self, _n):
        self.texts.append(self.bar_format)

    def refresh(self):
        self.texts.append(self.bar_format)

    def close(self):
        self.closed = True

    @staticmethod
    def format_interval(seconds):
        return f"{seconds:.0f} s"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The time, seconds; with bars that show at once."""
    time = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    monkeypatch.setattr(progress, "progressbar", Bar)
    return time


def test_stages_gap_and_time_left_of_one_image(clock):
    with Progress(SHOW, 1, 2000, 1e-4) as shown:
        bar = shown.bar
        assert bar.delay == 1
        shown("calibration", 5, math.inf)
        assert bar.shown.startswith("Calibration: ")
        clock[0] = 10
        shown("solution", 0, math.inf)
        assert bar.shown.startswith("Solution 0/2000: ")
        assert bar.shown.endswith("<?]")
        clock[0] = 14
        # half of the way to 1e-4 in the four seconds of this stage
        shown("solution", 25, 1e-2)
        assert bar.n == pytest.approx(0.5)
        assert bar.shown.startswith("Solution 25/2000, gap 1.0e-02 (to 1e-04): ")
        assert bar.shown.endswith("<4 s]")
        shown("solution", 50, 2e-2)  # the gap may rise, the bar does not go back
        assert bar.n == pytest.approx(0.5)
        shown("solution", 1500, 1e-2)  # the iterations may end first
        assert bar.n == 0.75
        shown("solution", 1525, 0.9e-4)
        shown.next_image()
    assert bar.n == 1
    assert bar.shown.startswith("Solution 1525/2000, gap 9.0e-05 (to 1e-04): ")
    assert bar.closed


@pytest.mark.parametrize(("gap", "tolerance"), [(0.0, 1e-3), (3.0, 1e-3), (0.5, 2.0)])
def test_any_gap_can_be_shown(gap, tolerance):
    with Progress(SHOW, 1, 100, tolerance) as shown:
        shown("solution", 25, gap)
        assert shown.bar.n == 0.25


def test_cost_of_the_published_method(clock):
    with Progress(SHOW, 1, 30) as shown:
        shown("solution", 0, math.inf)
        clock[0] = 4
        shown("solution", 10, 1234.5)
        assert shown.bar.shown.startswith("Solution 10/30, cost 1234: ")
        assert shown.bar.shown.endswith("<8 s]")


def test_images_of_a_series(clock):
    with Progress(SHOW, 4, 2000, 1e-3) as shown:
        shown("solution", 25, 1e-2)
        assert shown.bar.n == 0
        assert shown.bar.shown.startswith("Image 1/4, solution 25/2000, gap ")
        clock[0] = 5
        shown.next_image()
        shown("weights", 3, math.inf)
        assert shown.bar.n == 1
        assert shown.bar.shown.startswith("Image 2/4, weights: ")
        assert shown.bar.shown.endswith("<15 s]")


@pytest.fixture
def bars(monkeypatch):
    """The bars that fusions show."""
    found = []

    def bar(**options):
        found.append(Bar(**options))
        return found[-1]

    monkeypatch.setattr(progress, "progressbar", bar)
    return found


@pytest.mark.parametrize(
    ("fuse", "weights"),
    [
        (hf.fuse_multimodal, {"lambda_tv": 4.0, "lambda_haadf": 0.1}),
        (hf.fuse_published, {}),
    ],
)
def test_a_fusion_of_a_series_counts_images(bars, fuse, weights):
    maps, haadf, _ = hf.data.core_shell(size=32)
    maps, haadf = (
        [hs.stack([signal] * 3, show_progressbar=False) for signal in signals]
        for signals in (maps, [haadf])
    )
    fuse(maps, *haadf, show_progressbar=True, **weights)
    (bar,) = bars
    assert (bar.total, bar.n, bar.closed) == (3, 3, True)
    shown = [text.split(":")[0] for text in bar.texts]
    assert shown == ["Image 2/3", "Image 3/3", "Image 3/3", "Image 3/3"]


def test_a_fusion_by_tiles_counts_tiles(bars):
    maps, haadf, _ = hf.data.core_shell(size=64)
    options = {"lambda_tv": 4.0, "lambda_haadf": 0.1, "tile_size": 32}
    hf.fuse_multimodal(maps, haadf, show_progressbar=True, **options)
    (bar,) = bars
    assert (bar.total, bar.n) == (4, 4)
    assert bar.texts[0].startswith("Tile 2/4: ")


def test_an_interrupted_bar_stays_where_it_is():
    shown = Progress(SHOW, 1, 100)

    def interrupted():
        with shown:
            shown("solution", 50, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shown.bar.n == 0.5
    assert shown.bar.closed


def test_nothing_is_shown_when_switched_off():
    with Progress(not SHOW, 2, 100) as shown:
        shown("solution", 50, 1.0)
        shown.next_image()
    assert shown.bar is None


class TestCompiling:
    def test_it_is_said_at_once_and_no_longer_than_it_takes(self):
        with Progress(SHOW, 1, 2000, 1e-4) as shown:
            shown("calibration", 5, math.inf)
            shown.compiling("iterate")
            assert shown.bar.shown.startswith("Compiling, once: ")
            assert shown.bar.delay == 0
            shown.compiling(None)
            assert shown.bar.shown.startswith("Calibration: ")

    def test_a_kernel_that_no_cache_holds_is_noticed(self, monkeypatch, tmp_path):
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
        texts = []
        for _ in range(2):  # the second time it is in the cache
            kernel, _ = compilers(fastmath=True)
            compiled = kernel(added)
            with Progress(SHOW, 1, 10) as shown:
                assert compiled(1.0) == 2
            assert compiled(2.0) == 3  # not watched any more
            texts.append([text.split(":")[0] for text in shown.bar.texts])
        first, second = texts
        assert first[0] == "Compiling, once"
        assert "Compiling, once" not in second

    def test_without_a_bar_nothing_is_drawn(self, monkeypatch, tmp_path):
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
        kernel, _ = compilers(fastmath=True)
        with Progress(not SHOW, 1, 10) as shown:
            assert kernel(added)(1.0) == 2
            assert shown.bar is None


def added(x):
    return x + 1
