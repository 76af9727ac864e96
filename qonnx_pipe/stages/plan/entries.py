"""Entries: what the choice for one site becomes on a processor: a spec with a lowering, or float and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qonnx_pipe.core.granularity import PerChannel, PerEmbedding, PerEmbeddingGroup, PerGroup, PerTensor
from qonnx_pipe.core.plan import BLOCKS, Lowering, PlanEntry, is_placed
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import ATTENTION_OPERANDS, EMBEDDING_TABLES, Role, Site, Skipped
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import fold, io, permute
from qonnx_pipe.graph.lowerings.blocks import BLOCKED, NBITS, is_block
from qonnx_pipe.graph.lowerings.gather_nbits import packing_obstacle
from qonnx_pipe.graph.lowerings.tied import tied_heads, tying_obstacle
from qonnx_pipe.graph.sampled import matrix
from qonnx_pipe.graph.sites import has_other_readers
from qonnx_pipe.observers.expand import budget
from qonnx_pipe.recipe import Choice
from qonnx_pipe.recipe.quantize import Quantize

WIDTH = 8
"""Bits of the integers that TensorRT multiplies, and OpenVINO in an attention."""

BYTE = 8
"""Bits of codes that have nothing to unpack."""

REAL: tuple[Lowering, ...] = (*BLOCKS, "float")
"""Forms of weights whose MatMuls take no codes."""

LATER = "auto: resolved after calibration"
"""The reason of an entry whose form measured time and error will choose."""


def planned(model: io.Model, choice: Choice, settings: Quantize) -> tuple[PlanEntry, tuple[Skipped, ...]]:
    """One site's entry for processors, and what of the wish cannot be."""
    refused: tuple[Skipped, ...] = ()
    if settings.target == "tensorrt":
        choice, refused = _symmetric(choice)
    elif settings.target == "openvino" and settings.chosen_placement == "all_matmul_inputs":
        choice = _scored(choice)
    entry = _tied(model, choice, settings) or _uneven(model, choice) or _entry(model, choice, settings)
    if isinstance(entry, Skipped):
        return PlanEntry(choice.site, None, "float", choice.rule, entry.reason), (entry,)
    if entry.spec is None or entry.site.is_weight:
        return entry, (*refused, *_unpacked(entry, settings))
    entry, folding = _foldable(model, entry) if entry.spec.folds else (entry, ())
    entry, forming = _formed(entry, settings)
    return _with_cost(model, entry), (*folding, *forming)


def _symmetric(choice: Choice) -> tuple[Choice, tuple[Skipped, ...]]:
    """What TensorRT can have of a choice: int8 with its zero point in the middle, for weights and activations alike."""
    spec = choice.spec
    if spec is None or choice.site.role in EMBEDDING_TABLES:
        return choice, ()
    if spec.dtype.bits != WIDTH:
        reason = f"TensorRT multiplies {WIDTH} bits, not {spec.dtype.name}: kept float"
        return replace(choice, spec=None, note=reason), (Skipped(choice.site.id, reason),)
    return replace(choice, spec=replace(spec, dtype=QTYPES["int8"], symmetric=True, shift=False)), ()


def _scored(choice: Choice) -> Choice:
    """What OpenVINO gets of an attention where the recipe's default decides: int8 for Q·Kᵀ, as NNCF does it, not P·V.

    Measured at BERT-base size, 8×128 tokens, AMX: Q·Kᵀ takes 9 % off the whole model's time and 0.1 dB off its SQNR;
    P·V 4 % more and 2.7 dB. With a zero point, OpenVINO computes the attention in float.
    """
    if choice.spec is None or choice.rule != "activations" or choice.spec.dtype.bits != WIDTH:
        return choice
    if choice.site.role in (Role.ATTENTION_QUERY, Role.ATTENTION_KEY):
        return replace(choice, spec=replace(choice.spec, dtype=QTYPES["int8"], symmetric=True))
    if choice.site.role in ATTENTION_OPERANDS:
        return replace(choice, spec=None, note="OpenVINO gains little by P·V in 8 bits: a rule quantizes it")
    return choice


def _entry(model: io.Model, choice: Choice, settings: Quantize) -> PlanEntry | Skipped:
    """One site's entry; Skipped for what was wanted and cannot be written."""
    site, spec = choice.site, choice.spec
    if spec is None:
        decider = "budget" if choice.rule == "budget" else "recipe"
        return PlanEntry(site, None, "float", choice.rule, choice.note or f"the {decider} leaves it float")
    if site.is_weight:
        obstacle = _weight_obstacle(site, spec)
        if obstacle:
            return Skipped(site.id, obstacle)
        form = _weight_form(site, spec, settings)
        note = ""
        if form == "blocked" and (opset := model.graph.opset_imports[""]) < BLOCKED[spec.dtype.bits]:
            form, note = "qdq", f"{spec.dtype.bits} bits in blocks need opset {BLOCKED[spec.dtype.bits]}, not {opset}"
        note = "; ".join(filter(None, (note, _weight_note(site, spec, form))))
        return PlanEntry(site, spec, form, choice.rule, choice.note or note)
    if not is_placed(settings.chosen_placement, site):
        reason = f"placement {settings.chosen_placement}: only what enters {_entered(settings)} is quantized"
        return PlanEntry(site, None, "float", choice.rule, reason)
    if spec.form == "float":
        return PlanEntry(site, None, "float", choice.rule, "lowering: float: no quantizer")
    return PlanEntry(site, spec, "qdq", choice.rule, choice.note or _activation_note(site, spec, settings))


def _entered(settings: Quantize) -> str:
    """What the inputs enter that the placement quantizes."""
    return "a weight MatMul" if settings.chosen_placement == "matmul_inputs" else "a MatMul"


def _weight_obstacle(site: Site, spec: QuantSpec) -> str:
    """Why a weight's spec has no lowering; "" when it has one."""
    if site.role not in EMBEDDING_TABLES and spec.granularity == PerChannel(0):
        return "one scale an input channel cannot run: the CPU kernel wants scales along the output; kept float"
    return ""


def _weight_form(site: Site, spec: QuantSpec, settings: Quantize) -> Lowering:
    """How a weight or table is written; blocks and packed rows have operators of their own where kernels take them."""
    if site.role in EMBEDDING_TABLES:
        packed = settings.gather_form == "nbits" and not packing_obstacle(spec, site.width)
        return "gather_nbits" if packed else "gather_dq"
    form, bits = settings.matmul_form, spec.dtype.bits
    if isinstance(spec.granularity, PerGroup) and is_block(spec.granularity.size):
        if form == "integer" and bits in NBITS:
            return "nbits"
        if form == "qdq" and bits in BLOCKED:
            return "blocked"
    return form


def _weight_note(site: Site, spec: QuantSpec, form: Lowering) -> str:
    """What a reader should know of a weight whose codes do not run as they are stored."""
    if form == "nbits":
        return f"MatMulNBits, {_level(spec)}"
    if form == "gather_nbits":
        return f"GatherBlockQuantized: {spec.dtype.bits} bits in the file and in memory"
    if form == "blocked":
        return "DequantizeLinear in blocks: the CPU provider makes MatMulNBits of it, whose activation is in 8 bits"
    notes: list[str] = []
    if spec.dtype.bits < BYTE:
        notes.append(f"packed: {spec.dtype.bits} bits in the file, a byte when a session has opened it")
    if isinstance(spec.granularity, PerGroup) and site.role not in EMBEDDING_TABLES:
        notes.append("these groups of inputs have no integer kernel: the MatMul runs in float")
    return "; ".join(notes)


def _level(spec: QuantSpec) -> str:
    """How MatMulNBits multiplies, in words."""
    runs = "the kernel quantizes the activation to 8 bits" if spec.accuracy_level else "in float"
    return f"accuracy_level {spec.accuracy_level}: {runs}"


def _unpacked(entry: PlanEntry, settings: Quantize) -> tuple[Skipped, ...]:
    """Skipped for a table that was asked to stay packed in memory and cannot."""
    spec = entry.spec
    if spec is None or settings.gather != "nbits" or entry.lowering != "gather_dq" or spec.dtype.bits == BYTE:
        return ()
    return (Skipped(entry.site.id, f"unpacked when a session opens: {packing_obstacle(spec, entry.site.width)}"),)


def without_heads(model: io.Model, entries: Sequence[PlanEntry], skipped: Sequence[Skipped]) -> list[Skipped]:
    """What is skipped, without the heads that read the codes of their table."""
    packed = [entry.site.tensor for entry in entries if entry.lowering == "gather_nbits"]
    heads = {head.name for name in packed for head in tied_heads(model.graph.initializers[name])}
    return [one for one in skipped if one.site not in heads]


def read_as_they_are(entries: list[PlanEntry]) -> tuple[list[PlanEntry], tuple[Skipped, ...]]:
    """The entries, with activations float that only weights in float or in blocks read: they take real values.

    Those that a rule asked for are told as skipped. Where the recipe's default leaves all weights float, it asks for
    the activations alone, and they stay as they are.
    """
    weights = [entry for entry in entries if entry.site.role is Role.WEIGHT]
    taking = (one for one in weights if one.lowering in REAL and (one.lowering != "float" or one.rule != "weights"))
    real = {name for one in taking for name in one.site.feeds}
    reason = "only weights in float or in blocks read it, and they take real values"
    dropped = {
        entry.site.id: entry
        for entry in entries
        if not entry.site.is_weight and entry.spec and entry.site.feeds and real.issuperset(entry.site.feeds)
    }
    kept = [
        replace(entry, spec=None, lowering="float", reason=reason) if entry.site.id in dropped else entry
        for entry in entries
    ]
    return kept, tuple(Skipped(site, reason) for site, entry in dropped.items() if entry.rule.startswith("rules["))


def _tied(model: io.Model, choice: Choice, settings: Quantize) -> PlanEntry | Skipped | None:
    """The entry of a table that something else reads too, a head's MatMul: codes for both, or none at all.

    Skipped where they cannot share: codes would come on top of the float table.
    """
    site, spec = choice.site, choice.spec
    if spec is None or site.role not in EMBEDDING_TABLES or not has_other_readers(model, site):
        return None
    obstacle = "standard operators have no form for both"
    if settings.gather_form == "nbits" and settings.matmul_form == "integer":
        obstacle = tying_obstacle(model.graph.initializers[site.tensor], site.feeds, spec)
    if obstacle:
        reason = f"a tied table: {obstacle}; kept float, for codes would come on top of what the head reads"
        return Skipped(site.id, reason)
    note = f"stored once for GatherBlockQuantized and the tied head's MatMulNBits, {_level(spec)}"
    return PlanEntry(site, spec, "gather_nbits", choice.rule, choice.note or note)


def _uneven(model: io.Model, choice: Choice) -> Skipped | None:
    """Skipped for groups that do not divide the inputs of a weight; those of a table are checked with the recipe."""
    if choice.spec is None or choice.site.role is not Role.WEIGHT or not isinstance(choice.spec.granularity, PerGroup):
        return None
    inputs, size = len(matrix(model, choice.site)), choice.spec.granularity.size
    reason = f"groups of {size} do not divide {inputs} inputs; kept float: choose a divisor"
    return Skipped(choice.site.id, reason) if inputs % size else None


def _foldable(model: io.Model, entry: PlanEntry) -> tuple[PlanEntry, tuple[Skipped, ...]]:
    """An entry that asks for a fold, as it can be had, and what of its wish cannot."""
    site, spec = entry.site, entry.spec
    assert spec is not None
    grouped = not isinstance(spec.granularity, PerTensor)
    if reason := fold.obstacle(model, site, shift=spec.shift or grouped):
        form = "auto" if spec.form == "fold" else spec.form
        plain = replace(spec, smooth=0.0, shift=False, form=form)
        return replace(entry, spec=plain), (Skipped(site.id, f"not folded: {reason}"),)
    return entry, ()


def _formed(entry: PlanEntry, settings: Quantize) -> tuple[PlanEntry, tuple[Skipped, ...]]:
    """An activation's entry with its lowering, and what of the wished form it cannot have.

    One scale for the tensor: nothing to choose, unless a form is asked for. Groups: the form asked for; with "auto" the
    fold that smoothing or shifts ask for, and else what calibration finds best ("auto"), except under placement `full`,
    where every reader gets the same tensor, for tensors that no weight MatMul reads, and for other targets than the
    CPU, on which forms are timed: these are split.
    """
    site, spec = entry.site, entry.spec
    assert spec is not None
    grouped = isinstance(spec.granularity, PerEmbedding | PerEmbeddingGroup)
    notes: tuple[Skipped, ...] = ()
    if spec.form == "expand":
        if obstacle := _expansion_obstacle(site, spec):
            notes = (Skipped(site.id, f"not expanded: {obstacle}"),)
            spec = replace(spec, form="auto")
        else:
            spec = replace(spec, granularity=PerTensor())
            if spec.columns > (most := budget(spec.columns, site.width)):
                what = f"{spec.columns} columns are more than an eighth of its {site.width} dimensions"
                notes = (Skipped(site.id, f"expanded less: {what}: {most} at most"),)
    lowering: Lowering = "qdq"
    if spec.form == "auto":
        if grouped:
            chosen_later = settings.target == "cpu" and settings.chosen_placement != "full" and bool(site.feeds)
            lowering = "fold" if spec.folds else "auto" if chosen_later else "split"
    elif spec.form != "split" or grouped:
        lowering = spec.form
    reason = "; ".join(filter(None, (entry.reason, LATER if lowering == "auto" else "")))
    return replace(entry, spec=spec, lowering=lowering, reason=reason), notes


def _with_cost(model: io.Model, entry: PlanEntry) -> PlanEntry:
    """The entry, with what a permutation that cannot be folded costs among its reasons."""
    groups = entry.spec.granularity if entry.spec is not None else None
    if not isinstance(groups, PerEmbeddingGroup) or entry.lowering not in ("split", "auto"):
        return entry
    return replace(entry, reason="; ".join(filter(None, (entry.reason, permute.cost(model, entry.site, groups)))))


def _expansion_obstacle(site: Site, spec: QuantSpec) -> str:
    """Why a site cannot have columns for its outliers; "" when it can."""
    if not site.feeds:
        return "no weight MatMul reads it"
    if site.pairwise:
        return "its last axis is no embedding"
    if spec.dtype.bits > 8:
        return f"no integer kernel takes {spec.dtype.name}"
    return "" if budget(spec.columns, site.width) else f"{site.width} dimensions leave no room for a column"


def _activation_note(site: Site, spec: QuantSpec, settings: Quantize) -> str:
    if spec.dtype.bits == 16 and site.feeds and settings.target == "cpu":
        return "16-bit activations: the CPU provider runs the MatMuls that read this in float"
    if settings.target == "cpu" and settings.matmul_form == "qdq" and spec.dtype.signed and len(site.feeds) > 1:
        return "signed activations that feed several MatMuls stay float in the CPU provider on x86: use uint8"
    return ""
