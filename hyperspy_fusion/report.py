"""A page about a fusion that needs nothing else, and an index of such pages."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np
from hyperspy.signals import BaseSignal

from .derived import get_fractions, measured_as, net_maps, of_spectra, record_of
from .inputs.measurement import Background, Image, Maps, Mask
from .inputs.stacks import REPLICAS
from .propagation import propagate
from .provenance import by_package

__all__ = ["compared", "composition", "index_page", "report_page"]

_CAPTIONS = {
    "fusion.png": "Measured maps above fused maps, and the HAADF image above its model",
    "weights.png": "How the weights were chosen",
    "convergence.png": "The terms of the cost",
}
_SUMS = {
    "maps": "Sums without background, as far as it is known, in the units of the maps",
    "spectra": "Sums of counts: measured of windows, with the background and other "
    "lines in them; fused of the line alone",
}
_STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em;
      margin: 2em auto; padding: 0 1em}
h1 {font-size: 1.5em} h2 {font-size: 1.15em; margin-top: 2em}
img {max-width: 100%} figure {margin: 1em 0} figcaption {color: #555}
table {border-collapse: collapse} th {text-align: left}
th, td {padding: .25em .8em; border-bottom: 1px solid #ddd; vertical-align: top}
th:not(:first-child), td.number {text-align: right; font-variant-numeric: tabular-nums}
.row {display: flex; flex-wrap: wrap; gap: 1em} .row figure {flex: 1 1 24em; margin: 0}
li.warning {font-weight: 600; color: #8a3b00} td img {width: 22em; max-width: none}
table.list th {text-align: left !important}
"""


def composition(
    maps: Maps,
    fused: Sequence[BaseSignal],
    haadf: Image,
    background: Background = None,
    sensitivities: Mapping[str, float] | None = None,
    mask: Mask = None,
) -> list[tuple[str, float, float, float, float, float]]:
    """Sums and shares of the elements, before and after a fusion.

    Parameters
    ----------
    maps, haadf, background, mask
        As they were fused. Pixels that were not measured are left out of all sums. The
        known background is subtracted from the measured maps; else that which the
        fusion found in the vacuum.
    fused : list of ElementalMap
        The fused maps.
    sensitivities : dict of str to float, optional
        Signal of one atom of each element.

    Returns
    -------
    list of tuple
        For each element its symbol, the sum of the measured and of the fused map in
        their units, its shares in percent, of the signal or, with sensitivities, of the
        atoms, and the standard deviation of the second; NaN if the maps have no
        replicas.
    """
    elements = record_of(fused[0]).elements.split(",")
    before, after = compared(maps, fused, haadf, background, mask)
    known = np.isfinite(before)
    atoms = np.array([(sensitivities or {}).get(element, 1.0) for element in elements])

    def sums_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([np.nansum(array, dtype=float) for array in arrays])

    def shares(sums: np.ndarray) -> np.ndarray:
        amounts = sums / atoms
        with np.errstate(invalid="ignore", divide="ignore"):
            return 100 * amounts / amounts.sum()

    def fused_shares(images: Sequence[BaseSignal]) -> np.ndarray:
        pairs = zip(_in_units_of_maps(images), known, strict=True)
        return shares(sums_of([array[seen] for array, seen in pairs]))

    errors = np.full(len(elements), np.nan)
    if fused[0].metadata.has_item(REPLICAS):
        errors = propagate(fused_shares, fused).std
    measured, sums = sums_of(list(before)), sums_of(list(after))
    columns = measured, sums, shares(measured), shares(sums), errors
    return [
        (element, *map(float, numbers))
        for element, *numbers in zip(elements, *columns, strict=True)
    ]


def compared(
    maps: Maps,
    fused: Sequence[BaseSignal],
    haadf: Image,
    background: Background,
    mask: Mask,
) -> tuple[np.ndarray, np.ndarray]:
    """Measured and fused maps that can be compared: of the same pixels and units.

    Of the area that was fused, without background, fractions as fractions. Shape
    ``(n_elements, ...)``; NaN where a map was not measured, or fractions are not
    defined. The arguments are those of :func:`composition`.
    """
    record = record_of(fused[0])
    measurement = measured_as(record, maps, haadf, background, mask)
    before = np.moveaxis(np.array(net_maps(measurement, record), dtype=float), -3, 0)
    after = np.array(_in_units_of_maps(fused))
    unknown = np.isnan(before) | np.isnan(after)
    return np.where(unknown, np.nan, before), np.where(unknown, np.nan, after)


def _in_units_of_maps(fused: Sequence[BaseSignal]) -> list[np.ndarray]:
    """Fused maps as arrays, amounts as fractions if fractions were fused."""
    if record_of(fused[0]).has_item("fraction_sum"):
        fused = get_fractions(fused)
    return [np.asarray(image.data, dtype=float) for image in fused]


def report_page(
    title: str,
    fused: Sequence[BaseSignal],
    amounts: Sequence[tuple[str, float, float, float, float, float]],
    pictures: Mapping[str, bytes],
    *,
    summary: str,
    settings: str,
    of_atoms: bool,
) -> str:
    """A page about a fusion, with its pictures in it.

    Parameters
    ----------
    title : str
        Name of what was fused.
    fused : list of ElementalMap
        The fused maps; their record is shown.
    amounts : list of tuple
        As from :func:`composition`.
    pictures : dict of str to bytes
        PNG pictures: ``fusion.png``, and perhaps ``weights.png`` and
        ``convergence.png``.
    summary : str
        What was done, one sentence a line.
    settings : str
        The options by which the run can be repeated; may be empty.
    of_atoms : bool
        Whether the shares are those of the atoms.

    Returns
    -------
    str
        HTML.
    """
    record = record_of(fused[0])
    lines = summary.splitlines()
    sentences = "".join(
        f"<li{' class=warning' if line.startswith('Warning') else ''}>{escape(line)}"
        for line in lines
    )
    first, *others = [
        _figure(name, pictures[name]) for name in _CAPTIONS if name in pictures
    ]
    share = "at.%" if of_atoms else "% of the signal"
    rows = [
        (
            name,
            *(f"{one:.5g}" for one in own[:2]),
            f"{own[2]:.2f}",
            f"{own[3]:.2f}" + ("" if np.isnan(own[4]) else f" ± {own[4]:.2f}"),
        )
        for name, *own in amounts
    ]
    header = ["element", "sum measured", "sum fused", f"{share} measured", "fused"]
    packages = list(by_package(record.versions).items())
    return _page(
        title,
        f"<ul>{sentences}</ul>",
        first,
        f"<h2>Composition</h2>{_table(header, rows)}",
        f"<p>{_SUMS['spectra' if of_spectra(record) else 'maps']}; "
        "standard deviations of the shares if there are replicas.</p>",
        f"<h2>Weights and cost</h2><div class=row>{''.join(others)}</div>",
        f"<h2>Parameters</h2>{_table(['entry', 'value'], _parameters(record))}",
        f"<h2>To repeat this run</h2><pre>{escape(settings)}</pre>" if settings else "",
        f"<h2>Versions</h2>{_table(['package', 'version'], packages)}",
    )


def index_page(rows: Sequence[Mapping[str, str]]) -> str:
    """A page that lists results.

    Each row has the entries "file", "state" and "message" and, of a result, "report"
    and "picture": paths relative to the page.
    """
    cells = []
    for row in rows:
        name = escape(row["file"])
        picture = ""
        if "report" in row:
            # the name of a file may hold what has a meaning in links, as # and %
            report, picture = quote(row["report"]), quote(row["picture"])
            name = f'<a href="{report}">{name}</a>'
            picture = f'<img alt="" loading="lazy" src="{picture}">'
        message = escape(row["message"] or "no warning").replace("\n", "<br>")
        cells.append(
            f"<tr><td>{name}<td>{escape(row['state'])}<td>{message}<td>{picture}"
        )
    header = "<tr><th>file<th>state<th>what was said<th>"
    return _page("Fusions", f"<table class=list>{header}{''.join(cells)}</table>")


def _page(title: str, *parts: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1>\n{chr(10).join(parts)}\n</html>\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}" for cell in header)
    body = "".join(
        f"<tr><td>{escape(first)}"
        + "".join(f"<td class=number>{escape(cell)}" for cell in rest)
        for first, *rest in rows
    )
    return f"<table><tr>{top}{body}</table>"


def _parameters(record: Any) -> list[tuple[str, str]]:
    """The short entries of a record."""
    left_out = {"summary", "warnings", "notes", "status"}
    left_out |= {"version", "call", "checksums", "versions"}
    rows = []
    for name, value in record.as_dictionary().items():
        if name in left_out or isinstance(value, dict):
            continue
        array = np.asarray(value)
        if array.dtype.kind == "b":
            rows.append((name, str(value)))
        elif array.size <= 12 and array.dtype.kind in "iuf":
            numbers = array.ravel().tolist()
            rows.append((name, ", ".join(f"{number:.4g}" for number in numbers)))
        elif array.dtype.kind == "U":
            rows.append((name, str(value)))
    return rows


def _figure(name: str, picture: bytes) -> str:
    """A picture that is in the page itself."""
    caption, data = escape(_CAPTIONS[name]), b64encode(picture).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
