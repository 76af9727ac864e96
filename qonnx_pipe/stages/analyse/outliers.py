"""Outliers: which dimensions of which activations are far wider than the others, which tokens carry them, who attends.

Bondarenko et al. 2021, §3: in the FFN's output and the residual sum of most layers a few fixed dimensions hold the
outliers, at separators, to which attention heads turn when they have nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Array, Batch
from qonnx_pipe.core.site import Role, Site, SiteMap
from qonnx_pipe.errors import ModelError, NumericsError
from qonnx_pipe.graph.expose import expose
from qonnx_pipe.runtime.observe import observe
from qonnx_pipe.stages.analyse import simulation
from qonnx_pipe.stages.analyse.attention import HeadAttention, Heads
from qonnx_pipe.stages.analyse.spread import Spread
from qonnx_pipe.stages.analyse.tokens import Ids, Tokens, kept, keys_of

PAPER = (Role.FFN_OUTPUT, Role.RESIDUAL_SUM, Role.FFN_INPUT)
"""h, y and x of the paper: where the outliers live."""

SHOWN, CARRIERS = 16, 5
"""Dimensions a site names, and tokens a dimension names, at most."""


@dataclass(frozen=True)
class Dimension:
    """One dimension with outliers: its range over the median dimension's, and which values lie beyond 6σ.

    `values` is how many, `texts` the share of texts that hold one, `tokens` the share of them that each token carries,
    the largest first.
    """

    index: int
    ratio: float
    values: int
    texts: float
    tokens: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SiteOutliers:
    """One site: extremes, median range and largest ratio; `beyond` dimensions have outliers, the widest are named.

    `ranges` has one number a dimension, in the tensor's own unit. Of a [query, key] tensor all is one dimension.
    """

    site: str
    role: str
    layer: int | None
    low: float
    high: float
    median: float
    ratio: float
    beyond: int
    dimensions: tuple[Dimension, ...]
    ranges: tuple[float, ...]


@dataclass(frozen=True)
class Outliers:
    """Every activation site, the widest ratio first; attention layer by layer; how much was seen."""

    sites: tuple[SiteOutliers, ...]
    attention: tuple[HeadAttention, ...]
    start: str | None
    separator: str | None
    texts: int
    tokens: int

    def to_json(self) -> dict[str, object]:
        """Plain values for `outliers.json`."""
        return {"version": 1, "analysis": "outliers", **asdict(self)}


def outliers(
    model: Path,
    sites: SiteMap,
    batches: Sequence[Batch],
    tokens: Tokens,
    *,
    workdir: Path,
    progress: simulation.Progress,
) -> Outliers:
    """Run the float `model` over `batches`, which may be padded; memory does not grow with their number.

    `progress` hears the batches done. Raises ModelError for a model without the paper's sites, DataError without
    batches, NumericsError naming the first site with NaN or infinity, and what sessions raise.
    """
    simulation.require(batches)
    if not any(site.role in PAPER for site in sites.activations):
        what = "no FFN output, residual sum or FFN input: no layer with a LayerNormalization behind its residual sum"
        raise ModelError(what, where=str(model), fix="give a transformer encoder that `qpipe export` wrote")
    exposed = workdir / "exposed.onnx"
    expose(model, sites.activations, exposed)
    spreads: dict[str, Spread] = {}
    heads: dict[int, Heads] = {}
    count = 0
    for batch, values in zip(batches, observe(exposed, batches), strict=True):
        for site in sites.activations:
            _see(site, values[site.tensor], batch, spreads)
            if site.role is Role.ATTENTION_PROBABILITIES and site.layer is not None:
                heads.setdefault(site.layer, Heads()).add(values[site.tensor], batch, tokens)
        count += _count(batch)
        progress(1)
    found = [_site(site, spreads[site.id], tokens) for site in sites.activations]
    found.sort(key=lambda site: -site.ratio)
    start, separator = (None if key is None else tokens.name(key) for key in (tokens.start, tokens.separator))
    attention = tuple(heads[layer].result(layer) for layer in sorted(heads)) if separator is not None else ()
    return Outliers(tuple(found), attention, start, separator, sum(map(len, batches)), count)


def _see(site: Site, values: Array, batch: Batch, spreads: dict[str, Spread]) -> None:
    """Add one batch to a site's spread, text by text."""
    for number, (own, keys) in enumerate(_texts(site, values, batch)):
        if not np.all(np.isfinite(own)):
            fix = "check the model's weights, and the examples"
            raise NumericsError(f"NaN or infinity in example {number} of a batch", where=site.id, fix=fix)
        spreads.setdefault(site.id, Spread.empty(own.shape[1])).add(own, keys)


def _texts(site: Site, values: Array, batch: Batch) -> list[tuple[FloatArray, Ids]]:
    """Values [tokens, d] of each text without its padding, and the keys of its tokens.

    [batch, d] is one token a text, keyed by the text's first; of [query, key] pairs every value is one token's of one
    dimension, keyed by its key.
    """
    real = values.astype(np.float32, copy=False)
    length = real.shape[-1] if site.pairwise else real.shape[1] if real.ndim > 2 else 1
    mask, keys = kept(batch, length), keys_of(batch, length)
    if site.pairwise:
        pairs = real.reshape(len(batch), -1, *real.shape[-2:])
        whole = ((pairs[i][:, mask[i]][:, :, mask[i]], keys[i][mask[i]]) for i in range(len(batch)))
        return [(own.reshape(-1, 1), np.resize(names, own.size)) for own, names in whole]
    flat = real.reshape(len(batch), length, -1)
    return [(flat[i][mask[i]], keys[i][mask[i]]) for i in range(len(batch))]


def _count(batch: Batch) -> int:
    mask = batch.inputs.get("attention_mask")
    return len(batch) if mask is None else int(mask.astype(np.int64).sum())


def _site(site: Site, spread: Spread, tokens: Tokens) -> SiteOutliers:
    ratios, beyond = spread.ratios, np.flatnonzero(spread.values)
    widest = beyond[np.argsort(-ratios[beyond], kind="stable")][:SHOWN].tolist()
    return SiteOutliers(
        site.id,
        site.role.value,
        site.layer,
        float(spread.minimum.min()),
        float(spread.maximum.max()),
        float(np.median(spread.ranges)),
        float(ratios.max()),
        len(beyond),
        tuple(_dimension(index, float(ratios[index]), spread, tokens) for index in widest),
        tuple(float(f"{width:.5g}") for width in spread.ranges.tolist()),
    )


def _dimension(index: int, ratio: float, spread: Spread, tokens: Tokens) -> Dimension:
    total = int(spread.values[index])
    carried = [(key, count) for (dimension, key), count in spread.carriers.items() if dimension == index]
    carried.sort(key=lambda pair: (-pair[1], pair[0]))
    named = tuple((tokens.name(key), count / total) for key, count in carried[:CARRIERS])
    return Dimension(index, ratio, total, int(spread.texts[index]) / spread.seen, named)
