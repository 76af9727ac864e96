"""Tables of the analyses, as a terminal shows them."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qonnx_pipe.core.sensitivity import Sensitivity
    from qonnx_pipe.core.site import Skipped
    from qonnx_pipe.stages.analyse.leave_one_out import LeaveOneOut
    from qonnx_pipe.stages.analyse.outliers import Dimension, Outliers, SiteOutliers
    from qonnx_pipe.stages.analyse.ranges import RangeChoices

WORST = 12
"""Sites that the terminal shows; the files have all."""

WIDE = 4.0
"""From this ratio on a dimension with outliers is named."""


def show_outliers(found: Outliers) -> None:
    """The widest sites, a line a role, attention to separators."""
    console = output.stdout()
    sites = _table("widest sites", "max ÷ median", "beyond 6σ", "dimensions (share of texts; carried by)")
    for site in found.sites[:WORST]:
        named = "; ".join(_dimension(it) for it in site.dimensions[:3])
        _row(sites, site.site, f"{site.ratio:.1f}×", str(site.beyond), named)
    console.print(sites)
    console.print(_roles(found))
    if found.attention:
        console.print(_attention(found))


def show_changes(found: LeaveOneOut) -> None:
    """All quantizers on, then a line a change."""
    console = output.stdout()
    what = f"only this {found.by} quantized" if found.mirror else f"{found.by} left in float"
    table = _table(what, "sites", "SQNR", "95 %", "gain", "same answers", "accuracy drop")
    for name, count, score in [
        ("(all quantizers on)", sum(change.sites for change in found.changes), found.all_on),
        *((change.name, change.sites, change.score) for change in found.changes),
    ]:
        low, high = score.sqnr_interval
        gain = "" if score.gain_db is None else f"{score.gain_db:+.1f} dB"
        drop = ""
        if score.accuracy_drop is not None and score.accuracy_drop_interval is not None:
            ends = " … ".join(f"{end * 100:.1f}" for end in score.accuracy_drop_interval)
            drop = f"{score.accuracy_drop * 100:.1f} % [{ends}]"
        same = f"{score.agreement * 100:.1f} %"
        _row(table, name, str(count), f"{score.sqnr_db:.1f} dB", f"{low:.1f} … {high:.1f}", gain, same, drop)
    console.print(table)
    accuracy = "" if found.float_accuracy is None else f", float {found.metric} {found.float_accuracy * 100:.1f} %"
    weights = "as the recipe says" if found.with_weights else "in float"
    console.print(f"{found.examples} examples, weights {weights}{accuracy}", markup=False)
    _notes(found.skipped)


def show_ranges(found: RangeChoices) -> None:
    """A line a role, a column an estimator, and the rules to copy."""
    console = output.stdout()
    methods = list(dict.fromkeys(it.method for choice in found.roles for it in choice.candidates))
    table = _table("role", "recipe", "best", *methods)
    for choice in found.roles:
        scores = {it.method: f"{it.sqnr_db:.2f}" for it in choice.candidates}
        _row(table, choice.role, choice.recipe, choice.best, *(scores.get(method, "") for method in methods))
    console.print(table)
    console.print(
        f"SQNR in dB over {found.examples} examples: {found.before_db:.2f} → {found.after_db:.2f}", markup=False
    )
    console.print(found.rules or "the recipe's ranges are the best of those tried", markup=False)
    _notes(found.skipped)


def show_sensitivity(found: Sensitivity) -> None:
    """The dearest matrices, the layers by Ω, how well each estimator ranks what was measured."""
    console = output.stdout()
    table = _table("weight", "values", *(f"{bits} bits: KL" for bits in found.bits), "SQNR", "Ω", "spread")
    narrowest = {one.site: min(one.bytes) for one in found.matrices}
    omegas = {block.name: block.omega for block in found.blocks}
    dearest = sorted(found.matrices, key=lambda one: -one.changes[narrowest[one.site]].divergence)
    for one in dearest[:WORST]:
        changes = [one.changes.get(bits) for bits in found.bits]
        cells = ["" if change is None else f"{change.divergence:.2g}" for change in changes]
        sqnr = f"{one.changes[narrowest[one.site]].sqnr_db:.1f} dB"
        omega, spread = omegas.get(one.site), one.spread.get("omega")
        more = [sqnr, "" if omega is None else f"{omega:.3g}", "" if spread is None else f"{spread:.2g}"]
        _row(table, one.site, f"{one.elements:,}", *cells, *more)
    console.print(table)
    layers = _table("layer", "Ω", "mean λ", "std λ", "products", "converged", "two largest (Lanczos)")
    for layer in sorted(found.layers, key=lambda layer: -layer.omega):
        products = [run.iterations for run in layer.runs]
        ends = "" if layer.lanczos is None else " ".join(f"{value:.3g}" for value in layer.lanczos)
        figures = [f"{value:.3g}" for value in (layer.omega, layer.mean, layer.spread)]
        settled = f"{sum(run.converged for run in layer.runs)} of {len(layer.runs)}"
        _row(layers, layer.name, *figures, f"{min(products)} … {max(products)}", settled, ends)
    console.print(layers)
    ranks = _table("rank correlation with KL", *(f"{bits} bits" for bits in found.bits))
    for name, by_bits in found.correlations.items():
        _row(ranks, name, *(f"{by_bits[bits]:+.2f}" for bits in found.bits))
    console.print(ranks)
    labels = "the data's labels" if found.labels == "data" else "the float model's own answers as labels"
    console.print(f"{found.examples} examples, {labels}", markup=False)
    if bent := [block.name for block in (*found.layers, *found.blocks) if block.negative]:
        output.LOGGER.warning("negative curvature, so the loss is at no minimum: %s", ", ".join(bent))


def _roles(found: Outliers) -> Table:
    """Of each role the ratios over its sites, the dimensions that stand out in several, and who carries them."""
    table = _table("role", "sites", "median", "largest", "dimensions that recur", "carried by")
    by_role: dict[str, list[SiteOutliers]] = {}
    for site in found.sites:
        by_role.setdefault(site.role, []).append(site)
    for role, sites in by_role.items():
        wide = [it for site in sites for it in site.dimensions if it.ratio >= WIDE]
        often = Counter(it.index for it in wide)
        recurring = ", ".join(f"{index} ({count})" for index, count in often.most_common(5) if count > 1)
        tokens = Counter(it.tokens[0][0] for it in wide if it.tokens)
        ratios = [site.ratio for site in sites]
        carried = ", ".join(f"{token} ({count})" for token, count in tokens.most_common(3))
        _row(table, role, str(len(sites)), f"{median(ratios):.1f}×", f"{max(ratios):.1f}×", recurring, carried)
    return table


def _attention(found: Outliers) -> Table:
    table = _table(
        "attention", f"to {found.separator}: mean", "most", "head", f"to {found.start}: mean", "most", "head"
    )
    for layer in found.attention:
        cells = [f"layer {layer.layer}"]
        for heads in (layer.separator, layer.start):
            cells += [f"{sum(heads) / len(heads):.2f}", f"{max(heads):.2f}", str(heads.index(max(heads)))]
        _row(table, *cells)
    return table


def _dimension(it: Dimension) -> str:
    token = f"; {it.tokens[0][0]} {it.tokens[0][1] * 100:.0f} %" if it.tokens else ""
    return f"{it.index}: {it.ratio:.1f}× ({it.texts * 100:.0f} %{token})"


def _notes(skipped: Sequence[Skipped]) -> None:
    reasons = Counter(skip.reason for skip in skipped)
    for reason, count in reasons.items():
        output.stdout().print(f"note: {count} site{'s' if count > 1 else ''} {reason}", markup=False)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))
