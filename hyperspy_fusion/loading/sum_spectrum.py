"""Sum spectrum of X-rays: lines of elements and a continuum, fitted to its counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from hyperspy.signals import BaseSignal
from scipy.optimize import lsq_linear
from scipy.special import ndtr

from ..core.common.messages import warn
from ..core.common.solution import LARGEST
from ..execution.arrays import computed, sum_of_spectra, unmasked
from ..inputs.elements import atomic_number, element_of, family_of
from ..inputs.measurement import Mask, mask_array
from .lines import LOWEST, PER_KEV, beam_energy_of, fwhm, lines_of, resolution_of
from .spectra import as_names, check_spectra, elements_of, energy_axis

CONTINUUM = "continuum"

# Standard deviations of the prior of what is fitted besides the counts: zero of the
# energies (keV), their scale, width of Mn_Ka (eV).
_PRIOR = np.array([0.02, 0.003, 10.0])
_STEPS = np.array([1e-4, 1e-5, 0.1])  # of their differences
_FIRST, _ROUNDS = 4, 40  # the first ones leave them
_SETTLED = 1e-4  # standard deviations, of a step
_NARROWEST = 0.1  # sigma of a line, in channels; of a resolution that is too good
_LEAST_COUNTS = 0.1  # of a channel, in the weights of the fit
FEWEST = 100.0  # counts of all channels, too few to fit
_LEAST_SHIFT = 0.003, 3.0  # keV and standard deviations

# A peak that is not explained; with fewer standard deviations the shape of the
# continuum is as likely a cause.
_PEAK_Z, _PEAK_SHARE = 8.0, 0.005  # and fraction of the counts of all lines
_MOST_PEAKS = 5
_ASIDE = 1.5  # FWHM to each side of it that the continuum does not see
_WEAK = 0.1  # fraction of a family: what eXSpy does not know of it, if it is near
_NEAR = 0.3  # of the energy
_ALL = 1.0  # weight of every channel
_SEEN = 3.0  # standard deviations of the counts of an element
_EFFICIENCY = 0.1  # below which two elements can hardly be told apart
_STRONG = 0.05  # fraction of the counts of all lines, of one with escape and sum peaks
_ESCAPE = 1.740  # keV, Si_Ka: what an escape peak of a silicon detector lacks
_CANDIDATES = 4  # named for a peak


@dataclass(frozen=True, kw_only=True)
class SumSpectrum:
    """Sum of X-ray spectra, and the model that was fitted to it.

    Attributes
    ----------
    energies : numpy.ndarray
        Of the channels that were fitted, in keV as the file has them, shape
        ``(n_channels,)``.
    counts : numpy.ndarray
        Measured, same shape.
    components : dict
        Fitted counts of each element, of all its lines, and of the ``"continuum"``;
        same shape each.
    lines : dict
        Energies in keV of each family in the range, the strongest first, as
        ``{"Fe_K": (6.404, 7.058)}``.
    sums : dict
        Counts of each family, as ``{"Fe_K": 1000.0}``.
    errors : dict
        Standard deviations of the counts of each element.
    offset, scale, resolution : float
        The true energies are ``offset + scale * energies``, in keV; the width of Mn_Ka
        is `resolution`, in eV.
    chi2 : float
        Mean square of the residuals in units of their noise; near 1 if the model is
        right.
    warnings : tuple of str
        What the spectrum says about the list of elements.
    """

    energies: np.ndarray
    counts: np.ndarray
    components: dict[str, np.ndarray]
    lines: dict[str, tuple[float, ...]]
    sums: dict[str, float]
    errors: dict[str, float]
    offset: float
    scale: float
    resolution: float
    chi2: float
    warnings: tuple[str, ...]

    @property
    def model(self) -> np.ndarray:
        """Fitted counts of all components, shape ``(n_channels,)``."""
        return np.sum(list(self.components.values()), axis=0)

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements."""
        return tuple(name for name in self.components if name != CONTINUUM)

    def shares(self, start: float, stop: float) -> dict[str, float]:
        """Fraction of each component in the fitted counts of a window.

        Parameters
        ----------
        start, stop : float
            Ends of the window, keV.

        Returns
        -------
        dict
            By the names of `components`.

        Raises
        ------
        ValueError
            If the window holds no channel.
        """
        inside = (self.energies >= start) & (self.energies <= stop)
        if not inside.any():
            raise ValueError(
                f"the window from {start:g} to {stop:g} keV holds no channel: expected "
                f"one within {self.energies[0]:g} to {self.energies[-1]:g} keV"
            )
        total = max(self.model[inside].sum(), 1e-300)
        return {
            name: float(values[inside].sum() / total)
            for name, values in self.components.items()
        }


def fit_sum_spectrum(
    spectra: BaseSignal,
    elements: str | Sequence[str] | None = None,
    other_elements: str | Sequence[str] | None = None,
    *,
    energy_range: tuple[float, float] | None = None,
    mask: Mask = None,
) -> SumSpectrum:
    r"""Fit lines and continuum to the sum of X-ray spectra, and check the elements.

    The expected counts of a channel are

    .. math:: m(E) = \sum_f w_f L_f(E) + \sum_k v_k C_k(E), \quad w_f, v_k \ge 0

    with the lines L of each family f (K, L or M of an element; energies and relative
    weights from eXSpy) as Gaussians of the width of the detector (C. E. Fiori and D. E.
    Newbury, Scanning Electron Microscopy 1, 401 (1978)), and a continuum
    1 / E with a factor that is linear in log E between knots an octave apart.
    Weights, zero and scale of the energies and the width of the lines are those of the
    highest Poisson likelihood, found by Fisher scoring; the last three have priors of
    20 eV, 0.3 % and 10 eV.

    Parameters
    ----------
    spectra : exspy.signals.EDSTEMSpectrum or exspy.signals.EDSSEMSpectrum
        Counts, the energy along its only signal axis, in keV or eV; may be lazy.
    elements : str or list of str, optional
        Symbols of the elements of the specimen; by default those of the metadata.
    other_elements : str or list of str, optional
        Symbols of elements that are there besides, as Cu of the grid.
    energy_range : tuple of float, optional
        Lowest and highest energy in keV. By default from 0.2 keV to the end, or to the
        energy of the beam.
    mask : numpy.ndarray or BaseSignal of bool, optional
        True for pixels whose spectra are left out.

    Returns
    -------
    SumSpectrum
        :func:`plot_sum_spectrum` shows it.

    Raises
    ------
    TypeError
        If `spectra` is no signal with one signal axis.
    ValueError
        If the energy axis has other units, no elements are known, one has no line in
        the range, the mask has another shape, or the counts are negative, not finite or
        all 0.

    Warns
    -----
    UserWarning
        Of a peak that no line explains, with candidates; of an element that is not
        there; of elements that can hardly be told apart; of wrong energies.

    See Also
    --------
    plot_sum_spectrum
    load_multimodal

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.janus(size=32)
    >>> lines = ["Au_La", "Fe_Ka", "O_Ka"]
    >>> spectra = hyperspy_fusion.data.xray_spectra(truth, lines)
    >>> found = hyperspy_fusion.fit_sum_spectrum(spectra, ["Au", "Fe", "O"])
    >>> found.shares(6.3, 6.5)["Fe"] > 0.9
    True
    """
    energies, width, counts = _summed(spectra, mask)
    wanted = as_names("elements", elements) or elements_of(spectra)
    others = as_names("other_elements", other_elements, may_be_empty=True) or []
    wanted = list(dict.fromkeys([*wanted, *others]))
    low, high = _range(energies, beam_energy_of(spectra), as_range(energy_range))
    inside = (energies > low - width / 2) & (energies < high + width / 2)
    if counts[inside].sum() < FEWEST:
        raise ValueError(
            f"the sum spectrum has {counts[inside].sum():g} counts from {low:g} to "
            f"{min(high, energies[-1]):.4g} keV: expected at least {FEWEST:g}; sum "
            "more spectra, or give another energy_range"
        )
    model = _Model(wanted, energies[inside], width, resolution_of(spectra))
    found = model.fit(counts[inside], _ALL)
    # The continuum rises towards peaks that no line explains: leave their channels out.
    used = _beside_peaks(found, width)
    if not used.all():
        found = model.fit(counts[inside], used)
    for message in found.warnings:
        warn(message)
    return found


def _summed(spectra: BaseSignal, mask: Mask) -> tuple[np.ndarray, float, np.ndarray]:
    """Energies and width of the channels in keV, and the sum of the spectra."""
    axes: Any = getattr(getattr(spectra, "axes_manager", None), "signal_axes", ())
    if len(axes) != 1:
        raise TypeError(
            f"spectra is {spectra!r}: expected a signal with one signal axis, the "
            "energy, as hs.load returns it"
        )
    axis = energy_axis(spectra)
    check_spectra(spectra)
    place = spectra.axes_manager.signal_indices_in_array[0]
    left_out = None
    if mask is not None:
        shape = spectra.data.shape[:place] + spectra.data.shape[place + 1 :]
        (left_out,) = computed([mask_array(mask, shape)])
        if left_out.all():
            raise ValueError(
                "mask is True in all pixels: expected False where spectra are good"
            )
    with np.errstate(invalid="ignore", over="ignore"):
        counts = sum_of_spectra(unmasked(spectra.data), place, left_out)
    if np.isnan(counts).any():
        raise ValueError(
            f"the sum spectrum is NaN in {np.isnan(counts).sum()} of {counts.size} "
            "channels: expected finite counts; pixels without can be left out with "
            "mask="
        )
    if not 0 <= counts.min() <= counts.max() <= LARGEST or not counts.any():
        raise ValueError(
            f"the sum spectrum has {np.min(counts):.3g} to {np.max(counts):.3g} counts "
            "in a channel: expected finite counts of at least 0, not all 0, and up to "
            f"{LARGEST:.0e}, as the detector gives them; pixels without can be left "
            "out with mask="
        )
    unit = PER_KEV[axis.units]
    return axis.axis / unit, float(axis.scale) / unit, counts


def as_range(energy_range: Any) -> tuple[float, float] | None:
    """An energy range as numbers; a ValueError if there are not two."""
    if energy_range is None:
        return None
    try:
        low, high = map(float, () if isinstance(energy_range, str) else energy_range)
    except (TypeError, ValueError):
        raise ValueError(
            f"energy_range is {energy_range!r}: expected two rising energies in keV, "
            "as (0.3, 20)"
        ) from None
    return low, high


def _range(
    energies: np.ndarray, beam: float, given: tuple[float, float] | None
) -> tuple[float, float]:
    low, high = (LOWEST, beam) if given is None else given
    if not (0 < low < high and low < energies[-1] and high > energies[0]):
        raise ValueError(
            f"energy_range is {given}: expected two rising energies in keV within the "
            f"measured {max(energies[0], 0):g} to {energies[-1]:g}"
        )
    return low, high


class _Model:
    """Lines of some elements and a continuum on channels of some energies."""

    def __init__(
        self, elements: list[str], energies: np.ndarray, width: float, resolution: float
    ) -> None:
        self.energies, self.width, self.resolution = energies, width, resolution
        self.families: dict[str, list[tuple[float, float]]] = {}
        for element in elements:
            atomic_number(element)
            for line, (energy, weight) in lines_of(element).items():
                if energies[0] < energy < energies[-1]:
                    family = self.families.setdefault(family_of(line), [])
                    family.append((energy, weight))
        self.elements = elements
        missing = set(elements) - set(map(element_of, self.families))
        if missing:
            raise ValueError(
                f"{' and '.join(sorted(missing))} has no line within "
                f"{energies[0]:.3g} to {energies[-1]:.3g} keV: leave it out, or give "
                "another energy_range"
            )
        octaves = max(int(np.rint(np.log2(energies[-1] / energies[0]))), 1)
        place = np.log(energies / energies[0]) / np.log(energies[-1] / energies[0])
        knots = np.linspace(0, 1, octaves + 1)
        self.continuum = np.stack(
            [np.interp(place, knots, hat) / energies for hat in np.eye(octaves + 1)], 1
        )

    def shapes(self, numbers: np.ndarray) -> np.ndarray:
        """Counts of one of each family, and the continua: ``(n_channels, n)``.

        `numbers` are zero of the energies, change of their scale, and of the width.
        """
        offset, stretch, broader = numbers
        centres = offset + (1 + stretch) * self.energies
        half = (1 + stretch) * self.width / 2
        columns = []
        for lines in self.families.values():
            column = np.zeros(len(centres))
            for energy, weight in lines:
                sigma = fwhm(energy, self.resolution + broader) / np.sqrt(8 * np.log(2))
                sigma = max(sigma, _NARROWEST * self.width)
                near = slice(
                    *np.searchsorted(centres, (energy - 8 * sigma, energy + 8 * sigma))
                )
                distance = centres[near] - energy
                column[near] += weight * (
                    ndtr((distance + half) / sigma) - ndtr((distance - half) / sigma)
                )
            columns.append(column / sum(weight for _, weight in lines))
        return np.concatenate([np.stack(columns, 1), self.continuum], axis=1)

    def fit(self, counts: np.ndarray, used: Any) -> SumSpectrum:
        """The model of the highest likelihood in the channels that are `used`."""
        numbers = np.zeros(3)
        shapes = self.shapes(numbers)
        n = shapes.shape[1]
        weights = np.full(n, counts.sum() / shapes.sum())
        lowest = np.append(np.zeros(n), np.full(3, -np.inf))
        for k in range(_ROUNDS):
            root = used / np.sqrt(np.maximum(shapes @ weights, _LEAST_COUNTS))
            slopes = np.zeros((len(counts), 3))
            if k >= _FIRST:
                for i, step in enumerate(np.diag(_STEPS)):
                    pair = (self.shapes(numbers + s * step) @ weights for s in (1, -1))
                    slopes[:, i] = np.subtract(*pair) / (2 * _STEPS[i])
            system = np.block(
                [
                    [root[:, None] * shapes, root[:, None] * slopes],
                    [np.zeros((3, n)), np.diag(1 / _PRIOR)],
                ]
            )
            right = np.append(root * counts, -numbers / _PRIOR)
            scale = np.maximum(np.linalg.norm(system, axis=0), 1e-300)
            found = lsq_linear(system / scale, right, (lowest, np.inf), method="bvls").x
            found /= scale
            weights, change = found[:n], found[n:] * (k >= _FIRST)
            numbers = numbers + np.clip(change, -_PRIOR, _PRIOR)
            shapes = self.shapes(numbers)
            if k > _FIRST and (abs(change) < _SETTLED * _PRIOR).all():
                break
        system = system[:, np.append(weights > 0, np.ones(3, bool))]
        return self._judged(counts, shapes, weights, numbers, system)

    def _judged(
        self,
        counts: np.ndarray,
        shapes: np.ndarray,
        weights: np.ndarray,
        numbers: np.ndarray,
        system: np.ndarray,
    ) -> SumSpectrum:
        """The fitted model, and what it says about the elements."""
        n_families = len(self.families)
        of = np.array([element_of(family) for family in self.families])
        families = shapes[:, :n_families] * weights[:n_families]
        components = {e: families[:, of == e].sum(axis=1) for e in self.elements}
        components[CONTINUUM] = shapes[:, n_families:] @ weights[n_families:]
        model: Any = sum(components.values())
        # (n - m)² / m is 1 in the mean, with the variance 2 + 1 / m of Poisson counts
        square, usual = (counts - model) ** 2 / (2 * model + 1), model / (2 * model + 1)
        model = np.maximum(model, _LEAST_COUNTS)
        freedom = max(len(counts) - system.shape[1], 1) / len(counts)
        offset, stretch, broader = numbers
        fitted = SumSpectrum(
            energies=self.energies,
            counts=counts,
            components=components,
            lines={
                family: tuple(energy for energy, _ in sorted(lines, key=_rank))
                for family, lines in self.families.items()
            },
            sums=dict(zip(self.families, families.sum(axis=0), strict=True)),
            errors=self._errors(shapes, of, model),
            offset=float(offset),
            scale=float(1 + stretch),
            resolution=float(self.resolution + broader),
            chi2=float(square.sum() / usual.sum() / freedom),
            warnings=(),
        )
        covariance = np.linalg.pinv(system.T @ system)
        spread = np.sqrt(np.maximum(np.diag(covariance)[-3:], 0))
        found = [
            *_wrong_energies(fitted, spread),
            *_unexplained(fitted, self.width),
            *_absent(fitted),
            *_inseparable(fitted, shapes[:, :n_families], of),
        ]
        return replace(fitted, warnings=tuple(found))

    def _errors(
        self, shapes: np.ndarray, of: np.ndarray, model: np.ndarray
    ) -> dict[str, float]:
        """Standard deviations of the counts of the elements, all families free."""
        scaled = shapes / np.sqrt(model)[:, None]
        covariance: Any = np.linalg.pinv(scaled.T @ scaled)
        total = shapes.sum(axis=0)
        found = {}
        for element in self.elements:
            part = np.append(of == element, np.zeros(shapes.shape[1] - len(of), bool))
            sums = np.where(part, total, 0)
            found[element] = float(np.sqrt(max(sums @ covariance @ sums, 0)))
        return found


def _rank(line: tuple[float, float]) -> float:
    return -line[1]


def _wrong_energies(found: SumSpectrum, spread: np.ndarray) -> Iterator[str]:
    """Energies of the file that are not those of the lines."""
    strongest = max(found.sums, key=lambda family: found.sums[family])
    energy = found.lines[strongest][0]
    moved = found.offset + (found.scale - 1) * energy
    least, z = _LEAST_SHIFT
    if abs(moved) > max(least, z * np.hypot(spread[0], spread[1] * energy)):
        yield (
            f"the energies of the spectra are {abs(1000 * moved):.0f} eV too "
            f"{'low' if moved > 0 else 'high'} at {strongest}, {energy:.3f} keV, and "
            "so are all windows: correct offset and scale of the energy axis"
        )


def _beside_peaks(found: SumSpectrum, width: float) -> np.ndarray:
    """Channels away from peaks that are not explained, but at lines that are known."""
    energies = found.offset + found.scale * found.energies
    used = np.ones(len(energies), bool)
    strongest = np.array([lines[0] for lines in found.lines.values()])
    for energy, _, _ in _peaks(found, width):
        aside = _ASIDE * fwhm(energy, found.resolution)
        if (abs(strongest - energy) > aside).all():
            used &= abs(energies - energy) > aside
    return used


def _unexplained(found: SumSpectrum, width: float) -> Iterator[str]:
    """Peaks of the residual, the largest first."""
    for energy, counts, z in _peaks(found, width):
        candidates = _candidates(found, energy, counts)
        perhaps = f"perhaps {', '.join(candidates)}; " if candidates else ""
        yield (
            f"the sum spectrum has a peak at {energy:.2f} keV that no line of "
            f"{', '.join(found.elements)} explains ({counts:.0f} counts, {z:.0f} "
            f"standard deviations): {perhaps}name its element in elements, or in "
            "other_elements if it is not of the specimen"
        )


def _peaks(found: SumSpectrum, width: float) -> Iterator[tuple[float, float, float]]:
    """Energy, counts and standard deviations of peaks of the residual."""
    energies = found.offset + found.scale * found.energies
    residual = found.counts - found.model
    model = np.maximum(found.model, _LEAST_COUNTS)
    sigma = fwhm(energies, found.resolution) / np.sqrt(8 * np.log(2))
    sigma = np.maximum(sigma, width / 2)
    step = max(int(sigma.min() / width / 2), 1)
    centres, sigma = energies[::step], sigma[::step]
    shapes = np.exp(-0.5 * ((energies[:, None] - centres) / sigma) ** 2)
    shapes /= shapes.sum(axis=0)
    weighed = shapes / model[:, None]
    information = np.einsum("ij,ij->j", shapes, weighed)
    least = _PEAK_SHARE * sum(found.sums.values())
    # Beside a line its shape is as likely a cause, which is less exact than its counts.
    beside = np.zeros(len(centres))
    for family, counts in found.sums.items():
        for energy in found.lines[family]:
            near = abs(centres - energy) < fwhm(energy, found.resolution)
            beside[near] = np.maximum(beside[near], _WEAK * counts)
    for _ in range(_MOST_PEAKS):
        peak = (residual @ weighed) / information  # counts, by least squares
        z = np.where(peak > np.maximum(beside, least), peak * np.sqrt(information), 0)
        k = int(z.argmax())
        if z[k] < _PEAK_Z:
            return
        yield float(centres[k]), float(peak[k]), float(z[k])
        residual = residual - peak[k] * shapes[:, k]
        aside = _ASIDE * fwhm(centres[k], found.resolution)
        near = abs(centres - centres[k]) < aside
        beside[near] = np.maximum(beside[near], _WEAK * peak[k])


def _candidates(found: SumSpectrum, energy: float, counts: float) -> list[str]:
    """Lines, escape and sum peaks at an energy, the most likely first."""
    from exspy.utils.eds import get_xray_lines_near_energy  # noqa: PLC0415 - slow

    width = float(fwhm(energy, found.resolution))
    least = _STRONG * sum(found.sums.values())
    strong = {f: found.lines[f][0] for f, n in found.sums.items() if n > least}
    artefacts = [
        f"the escape peak of {family}"
        for family, line in strong.items()
        if abs(line - _ESCAPE - energy) < width / 2
    ]
    artefacts += [
        f"the sum peak of {one} and {other}"
        for one, other in combinations_with_replacement(strong, 2)
        if abs(strong[one] + strong[other] - energy) < width / 2
    ]
    lines = [
        line
        for kind in "ab"
        for line in get_xray_lines_near_energy(energy, width, only_lines=(kind,))
        if element_of(line) not in found.elements
    ]
    weak = [
        f"a line of {family} that eXSpy does not know"
        for family, n in found.sums.items()
        if counts < _WEAK * n and abs(found.lines[family][0] / energy - 1) < _NEAR
    ]
    return [*artefacts, *lines[:_CANDIDATES], *weak]


def _absent(found: SumSpectrum) -> Iterator[str]:
    """Elements of which there is no sign."""
    for element, error in found.errors.items():
        counts = found.components[element].sum()
        if counts < _SEEN * error:
            yield (
                f"there is no sign of {element} in the sum spectrum: {counts:.0f} "
                f"counts, with a standard deviation of {error:.0f}"
            )


def _inseparable(
    found: SumSpectrum, families: np.ndarray, of: np.ndarray
) -> Iterator[str]:
    """Elements whose counts depend on each other.

    `families` are the shapes of the families, `of` their elements.
    """
    names = list(found.components)
    components = {  # of an element without counts all families alike
        name: values if values.any() else families[:, of == name].sum(axis=1)
        for name, values in found.components.items()
    }
    shapes: Any = np.stack(list(components.values()), 1)
    shapes /= np.maximum(shapes.sum(axis=0), 1e-300)
    weighed = shapes / np.maximum(found.model, _LEAST_COUNTS)[:, None]
    information = shapes.T @ weighed
    covariance = np.linalg.pinv(information)
    efficiency = 1 / np.maximum(np.diag(information) * np.diag(covariance), 1)
    spread: Any = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    correlation = covariance / spread / spread[:, None]
    named = set()
    for i, name in enumerate(names):
        if efficiency[i] >= _EFFICIENCY or name == CONTINUUM:
            continue
        others = np.where(np.arange(len(names)) == i, 0, correlation[i])
        other = names[int(others.argmin())]
        if frozenset((name, other)) in named:
            continue
        named.add(frozenset((name, other)))
        yield (
            f"{name} and {other} can hardly be told apart in these spectra: "
            f"{100 * efficiency[i]:.2g} % of the information about {name} is left"
        )
