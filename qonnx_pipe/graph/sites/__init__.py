"""Sites: the roles of a transformer's tensors, found by the structure of the graph and not by its names."""

from __future__ import annotations

import onnx_ir as ir

from qonnx_pipe.core.site import Site, SiteMap
from qonnx_pipe.graph.sites.attention import find_attentions
from qonnx_pipe.graph.sites.collector import Collector
from qonnx_pipe.graph.sites.embeddings import place_embeddings
from qonnx_pipe.graph.sites.encoder import place_layer, place_tail
from qonnx_pipe.graph.sites.leftovers import leftovers
from qonnx_pipe.graph.walk import is_constant, linears

__all__ = ["find_sites", "has_other_readers"]


def find_sites(model: ir.Model) -> SiteMap:
    """Every site of an encoder, and what could not be placed, with the reason.

    Anchors are the Softmaxes: the two MatMuls around each give query, key, value and context; from the context the
    data flow leads through the output projection, residual sums, normalisations and the FFN to the next layer.
    Requires fused LayerNormalization nodes (`simplify`). Returns a map without sites when there is no attention.
    """
    collector = Collector(linears(model.graph))
    attentions, unplaced = find_attentions(model.graph, collector.linears)
    if not attentions:
        return SiteMap((), (*unplaced, *leftovers(model.graph, collector)))
    place_embeddings(collector, attentions[0])
    output = None
    for layer, attention in enumerate(attentions):
        output = place_layer(collector, layer, attention)
    if output is not None:
        place_tail(collector, output)
    sites = collector.finish()
    notes = (*unplaced, *collector.unplaced, *leftovers(model.graph, collector))
    return SiteMap(_ordered(model.graph, sites), notes)


def _ordered(graph: ir.Graph, sites: tuple[Site, ...]) -> tuple[Site, ...]:
    """Sites in the order in which the graph computes or first reads them."""
    position: dict[str, int] = {}
    for index, node in enumerate(graph):
        for value in node.inputs:
            if value is not None and is_constant(value):
                position.setdefault(str(value.name), 2 * index)
        for output in node.outputs:
            position.setdefault(str(output.name), 2 * index + 1)
    return tuple(sorted(sites, key=lambda site: position.get(site.tensor, -1)))


def has_other_readers(model: ir.Model, site: Site) -> bool:
    """Whether a node that is not among those that the site feeds reads the weight or table of `site`."""
    return any(usage.node.name not in site.feeds for usage in model.graph.initializers[site.tensor].uses())
