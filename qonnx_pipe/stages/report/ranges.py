"""Ranges: how wide each embedding dimension is beside its neighbours, so that outlier columns show at a glance.

Bondarenko et al. 2021 (§3): a few fixed dimensions have ranges many times wider than all others, in most layers; they
are what makes per-tensor activations lose accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from qonnx_pipe.charts import svg, wording
from qonnx_pipe.core.statistics import CalibrationTable, MinMax

LEVELS = (1.5, 2.0, 3.0, 5.0, 8.0, 16.0)
"""Where the colours of the heat map change: range of a dimension ÷ median range of its site."""
OUTLIER = 5.0
"""From this ratio on a dimension counts as an outlier."""
COLUMNS, CELLS = 128, 12_000
"""Columns of a heat map at most, and cells of all together: they bound the page's size."""

Ratios = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SiteRange:
    """One site: values between `low` and `high`; `outliers` are its dimensions of ratio ≥ OUTLIER, widest first."""

    site: str
    width: int
    low: float
    high: float
    median: float
    ratio: float
    outliers: tuple[int, ...]


@dataclass(frozen=True)
class Strip:
    """The sites of one role, a row each: layers from top to bottom."""

    role: str
    layers: str
    drawing: Markup


@dataclass(frozen=True)
class Panel:
    """Strips of sites of the same width, so that columns are the same dimensions."""

    width: int
    columns: int
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Ranges:
    """All sites, widest ratio first; `recurring` dimensions: (width, dimension, number of sites where it is one)."""

    sites: tuple[SiteRange, ...]
    panels: tuple[Panel, ...]
    recurring: tuple[tuple[int, int, int], ...]
    whole: int
    levels: tuple[float, ...] = LEVELS
    outlier: float = OUTLIER


def summarise(table: CalibrationTable) -> Ranges:
    """Ranges of a calibration. `whole` counts the sites that have one range for the whole tensor."""
    ratios = {site: _ratios(seen.minmax) for site, seen in table.sites.items() if seen.minmax.minimum.size > 1}
    found = [_site(site, table.sites[site].minmax, ratio) for site, ratio in ratios.items()]
    by_width: dict[int, dict[str, Ratios]] = {}
    for site, ratio in ratios.items():
        by_width.setdefault(ratio.size, {})[site] = ratio
    columns = int(np.clip(CELLS // max(len(ratios), 1), 32, COLUMNS))
    often = Counter((site.width, dimension) for site in found for dimension in site.outliers)
    return Ranges(
        tuple(sorted(found, key=lambda site: -site.ratio)),
        tuple(_panel(width, min(width, columns), sites) for width, sites in sorted(by_width.items())),
        tuple((width, dimension, count) for (width, dimension), count in often.most_common(5) if count > 1),
        len(table.sites) - len(found),
    )


def _ratios(seen: MinMax) -> Ratios:
    """Range of each dimension ÷ the median range, shape (d,); a site whose median is 0 is measured by its mean."""
    widths = seen.maximum.astype(np.float64) - seen.minimum
    unit = float(np.median(widths)) or float(widths.mean()) or 1.0
    return np.asarray(widths / unit)


def _site(site: str, seen: MinMax, ratios: Ratios) -> SiteRange:
    order = np.argsort(-ratios, kind="stable")
    low, high = float(seen.minimum.min()), float(seen.maximum.max())
    median = float(np.median(seen.maximum - seen.minimum))
    outliers = tuple(int(index) for index in order if ratios[index] >= OUTLIER)
    return SiteRange(site, ratios.size, low, high, median, float(ratios.max()), outliers)


def _panel(width: int, columns: int, sites: dict[str, Ratios]) -> Panel:
    by_role: dict[str, list[str]] = {}
    for site in sites:
        by_role.setdefault(site.rpartition("/")[2], []).append(site)
    strips = [_strip(role, names, [sites[name] for name in names], columns) for role, names in by_role.items()]
    return Panel(width, columns, tuple(strips))


def _strip(role: str, names: Sequence[str], ratios: Sequence[Ratios], columns: int) -> Strip:
    """One role; several dimensions in one column show their widest."""
    starts = np.arange(columns) * ratios[0].size // columns
    levels = np.stack([np.digitize(np.maximum.reduceat(row, starts), LEVELS) for row in ratios])
    return Strip(role, _layers(names), svg.heat(levels, max(4, min(16, 48 // len(names)))))


def _layers(names: Sequence[str]) -> str:
    layers = [name.partition("/")[0].removeprefix("layer.") for name in names if name.startswith("layer.")]
    return wording.spans([int(layer) for layer in layers if layer.isdigit()])
