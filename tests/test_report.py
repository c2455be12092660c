import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.report import compared, composition, index_page, report_page

GIVEN = {"lambda_tv": 3.0, "lambda_haadf": 0.1}


@pytest.fixture(scope="module")
def specimen():
    return hf.data.core_shell(size=32)


def fuse(maps, haadf, **options):
    return hf.fuse_published(maps, haadf, n_iter=2, **options)


def test_composition_before_and_after(specimen):
    fused = fuse(specimen.maps, specimen.haadf)
    rows = composition(specimen.maps, fused, specimen.haadf)
    assert [row[0] for row in rows] == ["Co", "Mn", "O"]
    before, after, *shares, errors = zip(*(row[1:] for row in rows), strict=True)
    assert np.isnan(errors).all()  # without replicas
    assert_allclose(before, [signal.data.sum() for signal in specimen.maps])
    assert_allclose(after, [signal.data.sum(dtype=float) for signal in fused])
    for own, sums in zip(shares, (before, after), strict=True):
        assert_allclose(own, 100 * np.array(sums) / sum(sums))


def test_composition_with_errors(specimen):
    maps, haadf, truth = specimen
    fused = hf.fuse_multimodal(maps, haadf, 0.02, n_replicas=10)
    rows = composition(maps, fused, haadf, 0.02)
    sums = np.array([image.data.sum() for image in truth])
    expected = 100 * sums / sums.sum()
    for row, own in zip(rows, expected, strict=True):
        assert 0.1 < row[5] < 5
        assert abs(row[4] - own) < 4 * row[5]
    page = report_page(
        "", fused, rows, {"fusion.png": b""}, summary="", settings="", of_atoms=False
    )
    assert f"{rows[0][4]:.2f} ± {rows[0][5]:.2f}" in page


def test_composition_without_background_and_of_atoms(specimen):
    fused = fuse(specimen.maps, specimen.haadf)
    sensitivities = {"Co": 2.0, "Mn": 1.0, "O": 0.5}
    rows = composition(
        specimen.maps, fused, specimen.haadf, [0.1, 0.2, 0.3], sensitivities
    )
    pairs = zip(specimen.maps, (0.1, 0.2, 0.3), strict=True)
    net = np.array([signal.data.sum() - 32**2 * below for signal, below in pairs])
    assert_allclose([row[1] for row in rows], net)
    atoms = net / [2, 1, 0.5]
    assert_allclose([row[3] for row in rows], 100 * atoms / atoms.sum())


def test_composition_of_the_area_that_was_fused(specimen):
    haadf = specimen.haadf.isig[4:, :]
    fused = fuse(specimen.maps, haadf, match="axes")
    rows = composition(specimen.maps, fused, haadf)
    assert_allclose(rows[0][1], specimen.maps[0].data[:, 4:].sum())


def test_the_same_pixels_are_compared(specimen):
    mask = np.zeros((32, 32), bool)
    mask[10:16, 8:20] = True
    fused = hf.fuse_multimodal(
        specimen.maps, specimen.haadf, 0.02, mask=mask, n_replicas=3, **GIVEN
    )
    before, after = compared(specimen.maps, fused, specimen.haadf, 0.02, mask)
    for arrays in (before, after):
        assert_array_equal(np.isnan(arrays), np.broadcast_to(mask, (3, 32, 32)))
    assert_allclose(before[0][~mask], specimen.maps[0].data[~mask] - 0.02)
    rows = composition(specimen.maps, fused, specimen.haadf, 0.02, mask=mask)
    for row in rows:  # the sums are kept where it was measured
        assert row[2] == pytest.approx(row[1], rel=1e-3)
        assert row[5] > 0


def test_fractions_are_compared_with_fractions():
    maps, haadf, _ = hf.data.lattice(size=32)
    total = sum(signal.data for signal in maps) + 1e-9
    fractions = [
        signal._deepcopy_with_new_data(100 * signal.data / total) for signal in maps
    ]
    with pytest.warns(UserWarning, match="the maps are fractions"):
        fused = hf.fuse_multimodal(fractions, haadf, n_replicas=3, **GIVEN)
    rows = composition(fractions, fused, haadf)
    assert sum(row[2] for row in rows) == pytest.approx(100 * 32**2, rel=1e-3)
    for row in rows:
        assert row[4] == pytest.approx(row[3], abs=5)
        assert 0 < row[5] < 10


def test_a_page_that_needs_nothing_else(specimen):
    fused = fuse(specimen.maps, specimen.haadf)
    record = fused[0].metadata.Multimodal_fusion
    record.versions += "\nsomething 1.2"
    page = report_page(
        "<a & b>",
        fused,
        composition(specimen.maps, fused, specimen.haadf),
        {"convergence.png": b"two", "fusion.png": b"one"},
        summary="All < well.\nWarning: mind.",
        settings='files = ["a"]',
        of_atoms=False,
    )
    assert "<tr><td>something<td class=number>1.2" in page  # those of the record
    assert "<title>&lt;a &amp; b&gt;</title>" in page
    assert "<li>All &lt; well.<li class=warning>Warning: mind." in page
    assert page.count('src="data:image/png;base64,') == page.count("src=") == 2
    assert page.index("b25l") < page.index("dHdv")  # one and two, in base64
    assert "<td>n_iter<td class=number>2" in page
    assert "files = [&quot;a&quot;]" in page
    assert "<td>hyperspy<td" in page
    assert "http" not in page


def test_an_index_links_reports_and_tells_errors():
    rows = [
        {
            "file": "a",
            "state": "fused",
            "message": "",
            "report": "a #1/r",
            "picture": "a #1/p",
        },
        {"file": "b", "state": "failed", "message": "no <file>"},
    ]
    page = index_page(rows)
    assert '<a href="a%20%231/r">a</a><td>fused<td>no warning' in page
    assert 'src="a%20%231/p"' in page
    assert "<td>b<td>failed<td>no &lt;file&gt;<td>" in page
