"""Matching: which sites a rule's `match` means."""

from __future__ import annotations

from fnmatch import fnmatchcase

from qonnx_pipe.core.site import Site
from qonnx_pipe.recipe.quantize import Match, span


def matches(match: Match, site: Site, layer_count: int, *, owner: bool) -> bool:
    """Whether a site agrees with every key of `match`; with `owner` the role of a weight's MatMul counts too.

    ValueError for a layer that a model of `layer_count` layers does not have.
    """
    roles = {site.role, site.owner} if owner else {site.role}
    return (
        (not match.role or not roles.isdisjoint(match.role))
        and (not match.layer or site.layer in layers(match, layer_count))
        and (not match.node or any(_named(pattern, site) for pattern in match.node))
    )


def layers(match: Match, layer_count: int) -> frozenset[int]:
    """The layers that `match` names; ValueError for one that a model of `layer_count` layers does not have."""
    found: set[int] = set()
    for item in match.layer:
        first, last = span(item) if isinstance(item, str) else (item, item)
        start, end = (_from_start(layer, layer_count) for layer in (first, last))
        if start > end:
            raise ValueError(f"the span {item} is empty")
        found.update(range(start, end + 1))
    return frozenset(found)


def _from_start(layer: int, layer_count: int) -> int:
    if not -layer_count <= layer < layer_count:
        raise ValueError(f"there is no layer {layer}")
    return layer % layer_count


def _named(pattern: str, site: Site) -> bool:
    """Only * and ? are wild: the brackets of a site's id, layer.3/weight[ffn.input], are text."""
    literal = pattern.replace("[", "[[]")
    return any(fnmatchcase(name, literal) for name in (site.id, site.tensor, *site.feeds))
