"""The benchmark measures what it says; its tables are made by hand, not here."""

import importlib
import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import exspy
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose

import hyperspy_fusion
from hyperspy_fusion import data

ROOT = Path(__file__).parents[1] / "benchmarks"

if not ROOT.is_dir():
    pytest.skip(f"there is no {ROOT}", allow_module_level=True)


@pytest.fixture(scope="module")
def package():
    """Import a module of the folder as that of a package, wherever the tests run."""
    spec = importlib.util.spec_from_file_location(
        "benchmarks", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def accuracy(package):
    return package("accuracy")


@pytest.fixture(scope="module")
def errors(package):
    return package("errors")


@pytest.fixture(scope="module")
def field(package):
    return package("field")


@pytest.fixture(scope="module")
def sharing(package):
    return package("sharing")


@pytest.fixture(scope="module")
def elastic(package):
    return package("elastic")


@pytest.fixture(scope="module")
def single_atoms(package):
    return package("single_atoms")


@pytest.fixture(scope="module")
def spectra(package):
    return package("spectra")


@pytest.fixture(scope="module")
def trust(package):
    return package("trust")


@pytest.fixture(scope="module")
def speed(package):
    return package("speed")


def test_table_is_printed_and_written(accuracy, tmp_path, capsys):
    page = tmp_path / "accuracy.md"
    options = "--size 32 --specimens janus --counts 4 --seeds 1 2 --tables specimens"
    accuracy.main([*options.split(), "--markdown", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert set(printed.splitlines()) <= set(written.splitlines())
    assert written.startswith("# Accuracy\n")
    header, _, row = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in written.split("## ")[1].splitlines()
        if line.startswith("|")
    ]
    assert row[:2] == ["janus", "4"]
    found = dict(zip(header, row, strict=True))
    specimens = [data.janus(32, seed=seed) for seed in (1, 2)]
    raw = np.mean([accuracy.error(accuracy.net_counts(s), s) for s in specimens])
    assert_allclose(float(found["raw"]), raw, atol=6e-4)
    assert float(found["calibrated"]) < 0.5 * raw


def test_errors_of_known_maps(accuracy):
    specimen = data.core_shell(32)
    truth = accuracy.as_array(specimen.truth)
    assert accuracy.error(truth, specimen) == 0
    assert_allclose(accuracy.error(1.1 * truth, specimen), 0.1)
    assert_allclose(accuracy.rescale(3 - 2 * truth[0], truth[0]), truth[0], atol=1e-9)
    net = accuracy.net_counts(specimen)
    assert_allclose(accuracy.flux_error(1.02 * net, specimen), 0.02)
    bump = truth.copy()
    bump[1, 4:17, 14:27] += 0.5 * truth[1].max()  # around the first blob
    assert_allclose(accuracy.invented(bump, specimen), 0.5)
    assert accuracy.invented(truth, specimen) == 0


def test_rivals_predict_hidden_pixels(accuracy):
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.linspace(0, 5, 48), np.linspace(0, 5, 48))
    noisy = ramp + rng.normal(size=ramp.shape)
    known = rng.random(ramp.shape) > 0.2
    shown = np.where(known, noisy, np.nan)
    smooth, error = accuracy.best_smooth(shown, known, noisy)
    _, error_of_tv = accuracy.best_tv(shown, known, noisy, smooth)
    for found in (error, error_of_tv):
        assert 0.8 < found < 1.3  # the noise of what is predicted has variance 1


def test_coverage_is_printed_and_written(errors, tmp_path, capsys):
    page = tmp_path / "errors.md"
    options = "--size 32 --specimens janus --counts 4 --seeds 1 --n-replicas 4"
    errors.main([*options.split(), "--markdown", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert set(printed.splitlines()) <= set(written.splitlines())
    assert written.startswith("# Errors\n")
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in written.splitlines()
        if line.startswith("| janus")
    ]
    assert [row[2] for row in rows] == list(errors.QUANTITIES)
    for _, _, _, values, share, ratio, _ in rows:
        assert int(values) > 0
        assert 50 < float(share) <= 100
        assert 0.3 < float(ratio) < 3


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of eXSpy
def test_composition_is_that_of_exspy(errors):
    truth = data.janus(32).truth
    elements = ["Au", "Fe", "O"]
    for signal, line in zip(truth, ("Au_La", "Fe_Ka", "O_Ka"), strict=True):
        signal.metadata.Sample.xray_lines = [line]
    found = errors.QUANTITIES["at.% of pixels"][0](truth)
    spectra = exspy.signals.EDSTEMSpectrum(np.ones((32, 32, 8)))
    factors = errors.k_factors(elements)
    expected = spectra.quantification(truth, "CL", factors, navigation_mask=None)
    there = np.all([signal.data > 0.1 for signal in truth], axis=0)
    assert there.any()
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one[there], other.data[there], rtol=1e-4)
    assert_allclose(found.sum(axis=0), 100)


def test_imperfect_data_are_printed_and_written(field, tmp_path, capsys):
    page = tmp_path / "imperfect.md"
    inputs = [
        "raw counts, background known",
        "half of the HAADF image NaN",
        "0.5 counts too many subtracted everywhere",
        "all of type uint16",
        "rare element",
    ]
    options = ["--size", "32", "--specimens", "janus", "--markdown", str(page)]
    field.main([*options, "--inputs", *inputs])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert set(printed.splitlines()) <= set(written.splitlines())
    assert written.startswith("# On imperfect data\n")
    assert "5 inputs in all" in " ".join(written.split())
    _, janus, marked = written.split("\n## ")
    rows = {
        cells[0]: cells[1:]
        for cells in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in janus.splitlines()
            if line.startswith("|")
        )
    }
    assert list(rows)[2:] == inputs
    as_it_is, half, low, integers, rare = map(rows.get, inputs)
    assert as_it_is[2] == integers[2] == "1.00"
    assert as_it_is[4] == "nothing"
    assert 0.05 < float(as_it_is[0]) < 0.3
    assert 0.9 < float(as_it_is[3]) < 1
    assert "512 missing pixels of the HAADF image" in half[4]
    assert "the zero of the map of Au is too low" in low[4]
    assert float(rare[0]) > float(as_it_is[0])
    assert "0 of 5" in marked


@pytest.mark.parametrize("name", ["core_shell", "janus", "lattice"])
def test_inputs_are_made_of_copies(field, name):
    for spoil, simulated in field.INPUTS.values():
        specimen = field.simulate(name, 32, **simulated)
        maps, haadf = field.as_array(specimen.maps), specimen.haadf.data
        before = maps.copy(), haadf.copy()
        form = spoil(maps, haadf)
        np.testing.assert_array_equal(maps, before[0])
        np.testing.assert_array_equal(haadf, before[1])
        moved = form.move(field.as_array(specimen.truth))
        assert moved.shape == np.shape(form.maps)
        assert np.isfinite(moved).all()
        assert len(form.order) == len(moved)
        assert form.haadf.shape == moved.shape[1:]


def test_errors_are_those_of_measured_pixels(field):
    truth = field.as_array(data.janus(32).truth)
    haadf = np.zeros((32, 32))
    wrong = 1.1 * truth
    wrong[:, :, -10:] = 0  # a third of the field
    form = field.third_nan(truth, haadf)
    assert_allclose(field.judge(form, wrong, 1.05 * truth, truth), [0.1, 0.05, 1.1])
    parts = truth / np.maximum(truth.sum(axis=0), 1e-9)
    form = field.fractions(truth, haadf, whole=100.0)
    found, at_best, kept = field.judge(form, 50 * parts, truth, truth)
    assert_allclose([found, at_best], 0, atol=1e-6)  # but for a factor
    assert_allclose(kept, 1)  # amounts are compared as fractions
    empty = np.concatenate([truth, np.zeros((1, 32, 32))])  # of an absent element
    assert_allclose(field.error(1.1 * empty, empty, measured=True), 0.075)


def test_statements_are_shortened(field):
    sums = [f"the sum of the map of {e} is kept" for e in ("Au", "Fe")]
    assert field.in_short([*sums, "x " * 50]) == (f"{sums[0]} (2); {'x ' * 31}…")
    assert field.in_short([]) == ""


def test_speed_is_printed_and_written(speed, tmp_path, capsys):
    page = tmp_path / "speed.md"
    tables = ["bandwidth", "wrapper"]
    options = ["--sizes", "24", "--repeats", "1", "--markdown", str(page), "--tables"]
    speed.main([*options, *tables])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert set(printed.splitlines()) <= set(written.splitlines())
    assert written.startswith("# Speed\n")
    assert written.count("\n## ") == len(tables)
    # three elements, TGV: 2 (3 (1 + 2 + 2 + 3) + 1) + 3 + 2; TV: 2 (3 (1 + 2) + 1) + 5
    rows = [line.split("|") for line in written.splitlines() if "| 24 " in line]
    assert [row[3].strip() for row in rows[:2]] == ["55", "25"]


def test_calls_are_timed_by_turns(speed):
    order = []
    calls = {
        "a": lambda: order.append("a"),
        "b": lambda: float(len(order)),  # tells its seconds itself
    }
    found = speed.alternate(calls, Namespace(repeats=3, budget=60))
    assert order == ["a"] * 3
    assert found["b"] == 2
    assert 0 <= found["a"] < 1
    assert speed.alternate(calls, Namespace(repeats=3, budget=0))["b"] == 4  # once


def test_verdicts(speed):
    assert speed.verdict(61.234, 50) == ["**61.2**", "≥ 50", "yes"]
    assert speed.verdict(1.3, 1.1, at_most=True)[2] == "**no**"
    assert speed.verdict(61.234, None) == ["61.2", "", ""]


def test_large_measurements_are_tiled(speed):
    maps, haadf = speed.measurement(300)
    assert maps.shape == (3, 300, 300)
    assert haadf.shape == (300, 300)
    np.testing.assert_array_equal(maps[:, 256:, 256:], maps[:, :44, :44])


def test_growth_is_measured_in_a_new_process(speed):
    found = speed.in_new_process("grow", 32, 2, "tv")
    assert found["seconds"] > 0
    assert found["n_iter"] > 0
    assert 3 < found["arrays"] < 300  # among them the state of the iteration


def test_tiles_are_compared_with_the_whole(package):
    scale = package("scale")
    (table,) = scale.measure_tiles(Namespace(tiled=64))
    assert [row[:3:2] for row in table.rows] == [
        [name, tolerance]
        for name in ("core_shell", "lattice", "janus")
        for tolerance in ("0.001", "0.0001")
    ]
    for *_, difference, whole, tiles, fluxes, met in table.rows:
        assert 0 < float(difference.strip("*%")) < 20
        assert 0.05 < float(whole) < 0.5
        assert abs(float(tiles.strip("*%"))) < 20
        assert float(fluxes) < 1e-5
        assert met in ("yes", "**no**")


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr's
def test_large_image_goes_from_disk_to_disk(package, tmp_path, monkeypatch):
    scale = package("scale")
    monkeypatch.setattr(scale, "CHUNK", 256)
    scale.simulate_large(tmp_path, 512)
    found = scale.fuse_large(tmp_path)
    assert found["tiles"] == 4
    assert 0 < found["decided"] < found["seconds"]
    assert 0.05 < found["memory"] < 16
    fused = hs.load(tmp_path / "fused.zspy")
    for title, image in zip(("Co", "Mn", "O"), fused.data, strict=True):
        counts = hs.load(tmp_path / f"{title}.zspy").data
        net = counts.sum(dtype=float) - scale.BACKGROUND * counts.size
        assert_allclose(image.sum(dtype=float), net, rtol=1e-5)


def test_shared_counts_of_a_lattice(sharing, capsys):
    options = "--size 48 --specimens lattice --counts 4 --seeds 1 --tables specimens"
    sharing.main(options.split())
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("| lattice"))
    name, counts, first, second, ratio, *_ = row.strip("| ").split("|")
    assert (name.strip(), counts.strip()) == ("lattice", "4")
    assert_allclose(float(ratio), float(second) / float(first), atol=0.006)


def test_slopes_of_columns(sharing, single_atoms):
    rng = np.random.default_rng(0)
    centres = single_atoms.sites(128)
    amounts = 1 + 0.2 * rng.standard_normal(len(centres))
    measured = single_atoms.columns(128, centres, amounts)
    mean = single_atoms.columns(128, centres)
    found = sharing.columns_of(measured)
    assert len(found) == 49
    for kept in (1.0, 0.5):
        fused = mean + kept * (measured - mean)
        slope = sharing.slope_of_columns(measured, fused, found)
        assert_allclose(slope, 1 / kept, rtol=0.1)


def test_simulated_spectra_have_their_counts(spectra):
    signal, haadf, truth = spectra.simulate("BaTiO3", 5.0, 48, 1)
    assert haadf.data.shape == truth.shape[1:] == signal.data.shape[:2] == (48, 48)
    found = hyperspy_fusion.fit_sum_spectrum(signal, ["Ba", "Ti", "O"], ["C", "Cu"])
    counts = {name: values.sum() / 48**2 for name, values in found.components.items()}
    assert_allclose(counts["Ba"] + counts["Ti"] + counts["O"], 5, rtol=0.05)
    assert_allclose(counts["Cu"], 0.06 * 5 * spectra.counts_of("Cu", "K"), rtol=0.1)
    assert_allclose(truth[2].mean(), counts["O"], rtol=0.1)


def test_overlapping_spectra_are_fused_better(spectra, capsys):
    options = "--size 48 --specimens BaTiO3 --counts 5 --seeds 1"
    spectra.main(options.split())
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("| BaTiO3"))
    _, _, windows, whole, ratio, *_ = row.strip("| ").split("|")
    assert_allclose(float(ratio), float(whole) / float(windows), atol=0.006)
    assert float(ratio) < 0.5


def test_shared_counts_of_spectra(spectra, capsys):
    options = "--tables sharing --size 48 --specimens BaTiO3 --counts 5 --seeds 1"
    spectra.main(options.split())
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("| BaTiO3"))
    _, _, alone, shared, ratio, _, accepted, _ = row.strip("| ").split("|")
    assert_allclose(float(ratio), float(shared) / float(alone), atol=0.006)
    assert float(ratio) < 0.8
    assert accepted.strip() == "1 of 1"


def test_odd_columns_are_half_of_another_element(sharing):
    maps, haadf, truth, places, odd = sharing.odd_lattice(96, 50.0, 1)
    assert maps.shape == truth.shape == (3, 96, 96)
    assert haadf.shape == (96, 96)
    heavy = truth[0][tuple(places.T)]
    others = np.delete(heavy, odd)
    assert (heavy[odd] < 0.6 * others.min()).all()
    assert np.ptp(others) < 0.05 * others.mean()


def test_several_elastic_images(elastic, capsys):
    options = "--size 48 --bad-size 48 --specimens wells --counts 4 --seeds 1"
    elastic.main(options.split())
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ratios = {row[0]: float(row[1]) for row in rows if len(row) == 6 and "of" in row[5]}
    assert set(ratios) == {*elastic.GOOD, *elastic.BAD}
    assert ratios["phase"] < 0.9
    assert ratios["noise"] == 1
    (row,) = (row for row in rows if row[0] == "wells")
    assert_allclose(float(row[3]), ratios["phase"], atol=0.006)


def test_specimens_have_three_elements(elastic):
    for simulate in elastic.SPECIMENS.values():
        maps, haadf, truth = simulate(48, 4.0, 1)
        assert len(maps) == len(truth) == 3
        images = [elastic.second_image(kind, truth, 1) for kind in elastic.BAD]
        for image in (*maps, *truth, haadf, *images):
            assert image.data.shape == (48, 48)
            assert np.isfinite(image.data).all()
            assert image.data.min() >= 0


def test_columns_that_do_not_repeat(single_atoms):
    found = {name: make(128) for name, make in single_atoms.SPECIMENS.items()}
    assert all((one.thickness >= 0).all() for one in found.values())
    vacant = found["vacant"]
    amounts = single_atoms.contents(vacant.thickness[0], vacant.centres)
    odd = vacant.odd[tuple(vacant.centres.T)]
    assert odd.sum() == single_atoms.N_ODD
    assert_allclose(amounts[odd] / amounts[~odd].mean(), 0.5, rtol=0.02)
    atoms = found["single_atoms"]
    amounts = single_atoms.contents(atoms.thickness[0], atoms.centres)
    assert_allclose(amounts > amounts.max() / 2, atoms.odd[tuple(atoms.centres.T)])
    fault, half = found["stacking_fault"].thickness, single_atoms.PITCH // 2
    # the right is the left, moved down by half a cell and along by whole ones
    assert_allclose(fault[:, half:, 96:], fault[:, :-half, :32], atol=1e-6)
    drift = found["scan_distortion"].thickness
    assert not np.allclose(drift[:, 16:], drift[:, :-16], atol=0.1)


def test_figures_of_what_does_not_repeat(single_atoms):
    one = single_atoms.SPECIMENS["vacant"](128)
    truth = one.thickness
    found = single_atoms.figures(truth, truth, one, 2 * truth)
    assert_allclose(found, (0, 0, 1, 2, 0), atol=1e-9)
    erased = truth.copy()
    erased[0] = single_atoms.columns(128, single_atoms.sites(128))
    error, beside, slope, _, false = single_atoms.figures(erased, truth, one, truth)
    assert 0 < error < beside
    assert abs(slope) < 1e-6
    assert_allclose(false, 0.5, rtol=0.02)


def test_single_atoms(single_atoms, tmp_path, capsys):
    page, figure = tmp_path / "page.md", tmp_path / "figure.png"
    options = "--size 96 --specimens substituted --counts 4 --seeds 1"
    single_atoms.main(
        [*options.split(), "--markdown", str(page), "--figure", str(figure)]
    )
    assert "| substituted | 4 " in capsys.readouterr().out
    assert "![HAADF image" in page.read_text(encoding="utf-8")
    assert figure.stat().st_size > 1000


def test_faults_of_spectra_move_or_remove_counts(spectra):
    rng = np.random.default_rng(0)
    energy = 0.02 * np.arange(1, 501)
    counts = np.zeros((4, 6, 500), int)
    counts[..., 199] = 1000  # at 4 keV
    counts[..., 25] = 1000  # O Ka
    truth = {"Ti": np.ones((4, 6)), "O": np.ones((4, 6))}
    escaped, same = spectra.with_escape_peaks(rng, counts, energy, truth)
    assert same is truth
    assert escaped.sum() == counts.sum()
    assert_allclose(escaped[..., 112].sum(), 240, rtol=0.3)
    assert escaped[..., 25].min() == 1000
    summed, _ = spectra.with_sum_peaks(rng, counts, energy, truth)
    assert summed.sum() == counts.sum()
    for channel, share in ((399, 0.25), (51, 0.25), (225, 0.5)):
        assert_allclose(summed[..., channel].sum(), 480 * share, rtol=0.4)
    left, maps = spectra.with_absorption(rng, counts, energy, truth)
    assert_allclose(maps["O"][:, -1], np.exp(-0.36), rtol=0.03)
    assert_allclose(left[..., 25].sum(axis=0) / 4000, maps["O"][0], rtol=0.1)
    assert left[..., 199].sum() > 0.99 * counts[..., 199].sum()


def test_bad_images_against_counts_alone(trust, tmp_path, capsys):
    page = tmp_path / "trust.md"
    options = "--size 32 --specimens janus --counts 4 --faults none blurred"
    trust.main([*options.split(), "--markdown", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert "| none " in printed
    assert "| blurred " in written
    assert "geometric mean of 1 cases" in " ".join(written.split())


def test_faults_change_what_they_say(trust):
    maps, _, truth = trust.SPECIMENS["janus"](32, 4.0, 1)
    clean = trust.spoilt("none", maps, truth, np.random.default_rng(1))
    for fault in trust.FAULTS:
        given, haadf, expected = trust.spoilt(
            fault, maps, truth, np.random.default_rng(1)
        )
        missing = fault == "element missing"
        assert len(given) == len(expected) == 3 - missing
        same_maps = np.array_equal(given[-1].data, maps[-1].data)
        assert same_maps == (fault != "beam damage")
        same_image = np.array_equal(haadf.data, clean[1].data)
        assert same_image == (fault in ("none", "element missing", "beam damage"))
    assert [m.data.max() for m in maps] == [m.data.max() for m in clean[0]]


def test_false_features_are_counted_where_nothing_is_flagged(trust):
    maps, haadf, truth = trust.SPECIMENS["janus"](32, 4.0, 1)
    fused = trust.fuse(maps, haadf, lambda_haadf=0.0, lambda_tv=4.0)
    for one, true in zip(fused, truth, strict=True):
        one.data[...] = true.data
    assert trust.false_features(fused, truth) == 0
    fused[1].data[14:19, 14:19] += 20
    assert_allclose(trust.false_features(fused, truth), 1 / 3)
