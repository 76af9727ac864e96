"""Fitting: one merged setting on one site: the QuantSpec that it means there, or why it cannot be."""

from __future__ import annotations

from dataclasses import replace

from qonnx_pipe.core.granularity import (
    Granularity,
    PerChannel,
    PerEmbedding,
    PerEmbeddingGroup,
    PerGroup,
    PerOutputGroup,
    PerTensor,
)
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import EMBEDDING_TABLES, Role, Site
from qonnx_pipe.core.spec import AccuracyLevel, QuantSpec
from qonnx_pipe.recipe.settings import ActivationGroups, Activations, OutputGroups, WeightGroups, Weights

Setting = Weights | Activations

FIRST_WEIGHTS = Weights(
    dtype="int8",
    granularity="per_channel",
    symmetric=True,
    range="minmax",
    rounding="nearest",
    accuracy_level=4,
)
FIRST_ACTIVATIONS = Activations(
    dtype="uint8",
    granularity="per_tensor",
    permute="none",
    share="site",
    boundaries="equal",
    symmetric=False,
    range="minmax",
    smooth=0.0,
    shift=False,
    lowering="auto",
    columns=16,
)
"""What holds before the recipe says anything; the descriptions in `settings` promise the same."""

WHOLE_BLOCK = 64
"""Inputs that OpenVINO's int8 kernels take at once (AMX): a width with as many columns more leaves no rest to copy."""


def first_activations(target: str) -> Activations:
    """What holds of activations on a target before the recipe says anything."""
    return FIRST_ACTIVATIONS.model_copy(update={"columns": WHOLE_BLOCK} if target == "openvino" else {})


class Misfit(Exception):
    """A setting that cannot hold for a site, and which field is to blame."""

    def __init__(self, field: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.field, self.what, self.fix = field, what, fix


def fit(setting: Setting, site: Site, *, by_rule: bool) -> tuple[QuantSpec | None, str]:
    """What a complete setting (no field left open) means for a site, and a note where it was adapted.

    None stands for float. Attention scores and probabilities have no embedding axis: a default for embeddings becomes
    per_tensor there, with a note; one that a rule asked for (`by_rule`) is a Misfit, as are groups that do not divide.
    """
    if setting.dtype == "float":
        return None, ""
    if isinstance(setting, Activations) and setting.permute == "range" and isinstance(setting.granularity, str):
        fix = "remove permute, or add granularity: {per_embedding_group: K}"
        raise Misfit("permute", f"{setting.granularity} has no groups to permute", fix)
    granularity, note = _granularity(setting, site), ""
    if setting.range == "cross_entropy":
        _require_logits(site, granularity)
    if isinstance(granularity, PerEmbedding | PerEmbeddingGroup) and site.pairwise:
        if by_rule:
            what = f"{site.role} has no embedding axis"
            raise Misfit("granularity", what, "give it a rule of its own with granularity: per_tensor")
        granularity, note = PerTensor(), f"per_tensor, not {granularity}: no embedding axis"
    assert setting.dtype is not None
    assert setting.range is not None
    spec = QuantSpec(QTYPES[setting.dtype], granularity, bool(setting.symmetric), setting.range)
    if isinstance(setting, Weights):
        if setting.rounding in ("adaround", "gptq") and site.role in EMBEDDING_TABLES:
            raise Misfit("rounding", "a table is looked up, not multiplied: nothing to learn from", "rounding: nearest")
        level: AccuracyLevel = 0 if setting.accuracy_level == 0 else 4
        return replace(spec, rounding=setting.rounding or "nearest", accuracy_level=level), note
    form, columns = setting.lowering or "auto", setting.columns or 16
    smooth, shift = float(setting.smooth or 0.0), bool(setting.shift)
    return replace(spec, smooth=smooth, shift=shift, form=form, columns=columns), note


def _require_logits(site: Site, granularity: Granularity) -> None:
    """Cross-entropy compares whole rows of class scores: Misfit anywhere else."""
    if site.role is not Role.HEAD:
        what = f"{site.role} holds no logits, so there is no cross-entropy"
        raise Misfit("range", what, "give role head a rule of its own with range: cross_entropy; here use mse")
    if granularity != PerTensor():
        raise Misfit("granularity", "cross_entropy compares whole rows of logits", "use per_tensor, or range: mse")


def _granularity(setting: Setting, site: Site) -> Granularity:
    """The setting's granularity with the axes of the site: weights are [in, out], tables [rows, d]."""
    match setting.granularity:
        case "per_channel":
            return PerChannel(axis=1)
        case "per_row":
            return PerChannel(axis=0)
        case "per_embedding":
            return PerEmbedding()
        case WeightGroups() | OutputGroups() as groups:
            return _weight_groups(groups, site)
        case ActivationGroups(per_embedding_group=groups):
            assert isinstance(setting, Activations)
            order = (setting.permute or "none", setting.share or "site", setting.boundaries or "equal")
            return _fitting(PerEmbeddingGroup(groups, *order), site)
    return PerTensor()


def _weight_groups(groups: WeightGroups | OutputGroups, site: Site) -> PerGroup | PerOutputGroup:
    """Groups along the inputs of a weight (its width is its outputs: divided later), the dimensions of a table.

    Or groups of the output neurons of a weight, within its heads.
    """
    is_table = site.role in EMBEDDING_TABLES
    if isinstance(groups, OutputGroups):
        if is_table:
            fix = "per_tensor, per_channel, per_row or {per_group: N}"
            raise Misfit("granularity", "a table is looked up: it has no output neurons", fix)
        granularity = PerOutputGroup(groups.per_output_group, site.heads)
        try:
            granularity.sizes(site.width)
        except ValueError as failure:
            what, _, near = str(failure).partition("; ")
            raise Misfit("granularity", what, f"{near}; or give the site a rule of its own") from None
        return granularity
    size = groups.per_group
    if is_table and site.width % size:
        raise Misfit("granularity", f"groups of {size} do not divide {site.width} dimensions", "choose a divisor")
    return PerGroup(axis=1 if is_table else 0, size=size)


def _fitting(granularity: PerEmbeddingGroup, site: Site) -> PerEmbeddingGroup:
    if site.width and not site.pairwise:
        try:
            granularity.sizes(site.width)
        except ValueError as failure:
            fix = "choose groups that fit, or give the site a rule of its own"
            raise Misfit("granularity", str(failure), fix) from None
    return granularity
