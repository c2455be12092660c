"""What a fusion did, in plain sentences: from its numbers, notes and warnings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .core.calibrated.flux import NO_VACUUM
from .core.common.messages import merged, out_of

if TYPE_CHECKING:
    from .core.common.solution import Solution
    from .results import Conclusion

# What the notes and warnings do not say.
_TAKEN_FOR = {
    "counts": "counts",
    "fractions": "fractions, which sum to the same in every pixel",
    "values with given noise": "values with the noise variance that was given",
}
NOT_COMPUTED = (
    "The maps are not computed yet: what was done is known after compute() or save()."
)
# Of simulated crystals, and of DyScO3, the repetition is 0.94 to 0.99, of others up to
# 0.7.
_CRYSTAL = 0.85
_ALL_WELL = "There was no warning."


def summary_of(
    fusion: Conclusion,
    found: Sequence[Solution],
    notes: Sequence[str],
    warnings: Sequence[str],
) -> str:
    """Sentences about a fusion, one a line.

    Parameters
    ----------
    fusion : Conclusion
        What was asked for.
    found : sequence of Solution
        Those of all images.
    notes, warnings : sequence of str
        Of all images together.
    """
    own = _calibrated if fusion.method == "calibrated" else _published
    names = ", ".join(fusion.elements)
    maps = (
        f"maps of {names} were" if len(fusion.elements) > 1 else f"map of {names} was"
    )
    series = f", {len(found)} images of a series" if fusion.shape else ""
    lines = [
        f"the {maps} fused by the {fusion.method} method{series}",
        *notes,
        *own(fusion, found),
    ]
    lines = [*map(_sentence, lines), *(f"Warning: {text}." for text in warnings)]
    return "\n".join(
        [*lines, *_next_steps(fusion, found)] if warnings else [*lines, _ALL_WELL]
    )


def _calibrated(fusion: Conclusion, found: Sequence[Solution]) -> Iterator[str]:
    records, total = [s.record for s in found], len(found)
    kinds = [record["kind"] for record in records]
    for kind, name in _TAKEN_FOR.items():
        if kind in kinds:
            yield f"the maps were taken for {name}{out_of(kinds.count(kind), total)}"
    if "spectra" in kinds:
        yield "the image was calibrated with linearly unmixed spectra"
    yield from _about_the_image(fusion, records)
    if not any(np.any(record["shift"]) for record in records):
        yield f"no shift of {_image_of(fusion)} against the maps was found"
    without = [  # not among the notes
        not np.any(s.record["vacuum_background"]) and NO_VACUUM not in s.notes
        for s in found
    ]
    if fusion.background_given:
        yield "the background that was given was taken into account"
    elif "spectra" in kinds:
        yield "the background is a component of the spectra"
    elif any(without):
        yield (
            "no background was taken into account: none was given, and none was found"
            f"{out_of(sum(without), total)}"
        )
    yield _about_the_sums(fusion, _by_element(fusion, records, "sum_kept"), total)
    apart = [
        element + out_of(n, total)
        for element, n in _by_element(fusion, records, "own_norm").items()
        if n
    ]
    if apart:
        yield (
            f"{', '.join(apart)} had a total variation apart from the other elements, "
            "which predicts held-out data better"
        )
    shared = [record for record in records if record.get("sharing")]
    helped = _by_element(fusion, shared, "sharing_elements") if shared else {}
    as_before = [
        element + out_of(len(shared) - n, total)
        for element, n in helped.items()
        if n < len(shared)
    ]
    if as_before:
        yield (
            f"for {', '.join(as_before)} shared counts do not predict held-out data "
            "clearly better, and are not used"
        )
    changes = np.array([np.max(record["change"]) for record in records])
    last = f", the last change of a map {from_to(changes, '.1g')} of its contrast"
    gap = from_to([record["gap"] for record in records], ".1g")
    yield (
        f"{_end(found)}: the gap is {gap} of the objective"
        f"{last if np.isfinite(changes).all() else ''}"
    )


def _image_of(fusion: Conclusion) -> str:
    """What the HAADF image is called."""
    return "the HAADF image" if fusion.elastic_names else "the image"


def _about_the_image(fusion: Conclusion, records: Sequence[dict]) -> Iterator[str]:
    """Whether the HAADF image was used, what it gained, and where it fits."""
    options: Any = fusion.options
    total = len(records)
    used = [r for r in records if r["lambda_haadf"] > 0 and r["flagged"] < 1]
    dropped = sum(r["flagged"] == 1 for r in records)
    if dropped:
        yield (
            "the HAADF image was not used, since it contradicts the maps all over"
            f"{out_of(dropped, total)}"
        )
    if total > len(used) + dropped:
        why = "since it does not improve the prediction of the maps"
        if options.lambda_haadf == 0:
            why = "as lambda_haadf=0 asks for"
        n = total - len(used) - dropped
        yield f"the HAADF image was not used, {why}{out_of(n, total)}"
    if not used:
        return
    gains = [r["haadf_gain"] for r in used if np.isfinite(r["haadf_gain"])]
    how = "chosen for all images together"
    if options.lambda_haadf is not None:
        how = "given"
    if gains and any("fraction_sum" in r for r in used):
        how = f"taken, as for all maps of fractions: with it, {_predicted(gains)}"
    elif gains:
        how = f"chosen: with it, {_predicted(gains)}"
    weight = from_to([r["lambda_haadf"] for r in used])
    yield (
        f"the HAADF image was used{out_of(len(used), total)}; its weight {weight} was "
        f"{how}"
    )
    yield from _where_it_fits(fusion, used, total)
    crystals = sum(r["haadf_repetition"] > _CRYSTAL for r in used)
    if crystals and not options.share:
        yield (
            f"{_image_of(fusion)} repeats itself{out_of(crystals, total)}: with "
            "share=True, pixels that look alike share their counts if that predicts "
            "held-out data better, as it mostly does for crystals"
        )


def _predicted(gains: Sequence[float]) -> str:
    """How much better, or worse, held-out data are predicted with the image."""
    if max(gains) < 0:
        worse = from_to([-gain for gain in gains], ".1f")
        return f"held-out data are predicted worse by {worse} standard deviations"
    better = from_to(gains, ".1f")
    return f"held-out data are predicted better by {better} standard deviations"


def _where_it_fits(
    fusion: Conclusion, used: Sequence[dict], total: int
) -> Iterator[str]:
    """Where the images that were used contradict the maps."""
    fits = [r["guard"] for r in used if r["flagged"] == 0 and np.isfinite(r["guard"])]
    if fits:
        yield (
            f"{_image_of(fusion)} agrees with the maps everywhere (largest local "
            f"difference: {from_to(fits, '.1f')} standard deviations)"
            f"{out_of(len(fits), total)}"
        )
    untested = [r for r in used if np.isnan(r["guard"])]
    of_fractions = sum("fraction_sum" in r for r in untested)
    if of_fractions:
        yield (
            "where the image contradicts the maps was not tested, since they are "
            f"fractions{out_of(of_fractions, total)}"
        )
    if n := len(untested) - of_fractions:
        yield (
            "where the image contradicts the maps was not tested, since they hold too "
            f"few counts{out_of(n, total)}"
        )
    parts = [100 * r["flagged"] for r in used if r["flagged"] > 0]
    if parts:
        yield (
            f"{_image_of(fusion)} was not used in {from_to(parts, '.2g')} % of the "
            f"pixels, where it contradicts the maps{out_of(len(parts), total)}"
        )


def _about_the_sums(fusion: Conclusion, kept: dict[str, int], total: int) -> str:
    """Which sums of the maps were kept."""
    options: Any = fusion.options
    if not options.lock_flux:
        return "the sums of the maps were not kept, as lock_flux=False asks for"
    names = [element + out_of(n, total) for element, n in kept.items() if n]
    if not names:
        return "the sum of no map was kept"
    if all(n == total for n in kept.values()):
        return "the sum of each map was kept"
    return f"the sums of these maps were kept: {', '.join(names)}"


def _published(fusion: Conclusion, found: Sequence[Solution]) -> Iterator[str]:
    options: Any = fusion.options
    yield "maps and image were scaled to [0, 1]; their noise was not modelled"
    weight = from_to([s.record["lambda_haadf"] for s in found])
    if weight == "0":
        yield "the HAADF image was not used, as lambda_haadf=0 asks for"
    else:
        yield f"the HAADF image was used with the weight {weight}"
    if not options.regularize or options.lambda_tv == 0:
        yield "the maps were not smoothed: there was no total variation"
    states = merged([(s.status,) for s in found], "images")
    yield f"{_end(found)}: {'; '.join(states)}"


def _end(found: Sequence[Solution]) -> str:
    """After how many iterations the fusion ended."""
    done = sum(s.converged for s in found)
    n_iter = f"after {from_to([s.n_iter for s in found], 'd')} iterations"
    if not done:
        return f"the fusion ended {n_iter}"
    return f"the fusion converged{out_of(done, len(found))} {n_iter}"


def _next_steps(fusion: Conclusion, found: Sequence[Solution]) -> Iterator[str]:
    """What to do after a warning."""
    if any(s.record.get("kind") == "spectra" for s in found):
        yield (
            "What to do: follow the warnings; fit_sum_spectrum and plot_sum_spectrum "
            "show which lines are there, and get_haadf_model(fused) what the maps say "
            "of the image."
        )
    elif any(s.record.get("flagged", 0) > 0 for s in found):
        given = json.loads(fusion.origin["call"])["given"] if fusion.origin else []
        shown = "".join(f", {name}={name}" for name in given)
        yield (
            "What to do: see where image and maps differ with plot_misfit(maps, fused, "
            f"haadf{shown}), and correct the image or add what is missing."
        )
    else:
        yield (
            "What to do: follow the warnings, and compare the maps before and after "
            "with plot_fusion."
        )


def _by_element(
    fusion: Conclusion, records: Sequence[dict], name: str
) -> dict[str, int]:
    """For how many images an entry of the record is true, by element."""
    n = np.sum([np.asarray(record[name]) > 0 for record in records], axis=0)
    return dict(zip(fusion.elements, n.tolist(), strict=True))


def caption_of(record: Mapping[str, Any], *, outlined: bool = False) -> str:
    """Two lines about a fusion, from its complete record.

    `outlined` tells that the picture shows the pixels without the image.
    """
    weights = np.atleast_1d(np.asarray(record["lambda_haadf"], dtype=np.float64))
    flagged = np.broadcast_to(np.asarray(record.get("flagged", 0.0)), weights.shape)
    used = (weights > 0) & (flagged < 1)
    image = f"HAADF image used{out_of(int(used.sum()), used.size)}"
    gains = np.asarray(record.get("haadf_gain", np.nan), dtype=np.float64)
    gains = np.broadcast_to(gains, weights.shape)[used]
    gains = gains[np.isfinite(gains)]
    if not used.any():
        image = "HAADF image not used"
    elif gains.size:
        image += f", gain {from_to(gains, '.1f')} standard deviations"
    if (flagged[used] > 0).any():
        image += f", not in {from_to(100 * flagged[used], '.2g')} % of the pixels"
        image += " (outlined)" * outlined
    taken = " or ".join(record.get("kind", "published method").split("\n"))
    n_iter = from_to(np.asarray(record["n_iter"], dtype=np.int64), "d")
    end = "converged" if record["converged"] else "ended"
    n_warnings = len(record["warnings"].splitlines())
    counted = "no warning"
    if n_warnings:
        counted = f"{n_warnings} warning{'s' * (n_warnings > 1)}: see summarize(fused)"
    return (
        f"{taken[0].upper()}{taken[1:]}. {image}.\n"
        f"{end.capitalize()} after {n_iter} iterations, {counted}."
    )


def from_to(values: Any, form: str = ".3g") -> str:
    """Smallest and largest of some numbers in words, or the only one."""
    ends = f"{np.min(values):{form}}", f"{np.max(values):{form}}"
    return " to ".join(dict.fromkeys(ends))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
