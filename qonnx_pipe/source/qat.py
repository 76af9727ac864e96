"""QAT: the exported graph with a quantizer at every site of its plan, trained from the float weights on.

What is trained is what is executed: each quantizer sits on the tensor that the file will quantize, under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.examples import Array, Batch, Form
from qonnx_pipe.core.network import Network, tapped
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES, Role, Site
from qonnx_pipe.recipe.training import QAT, Training
from qonnx_pipe.source import heads
from qonnx_pipe.source.fake_quant import FakeQuantizer
from qonnx_pipe.source.network import GraphModule, Hook, RowsHook
from qonnx_pipe.source.training import decayed

MASK = "attention_mask"


class QuantizedGraph(torch.nn.Module):
    """A float network with fake quantizers where the plan wants them; `encodings` holds the first one of each site."""

    def __init__(self, network: Network, plan: QuantPlan, encodings: Mapping[str, Encoding], settings: QAT) -> None:
        """Raises ModelError for an operator that torch cannot compute, ValueError as FakeQuantizer does."""
        super().__init__()
        entries = plan.quantized
        edges = [entry.site for entry in entries if not (entry.site.is_weight or plan.reaches_all(entry.site))]
        taps = {node: site.id for site in edges for node in site.feeds}
        self.graph = GraphModule(tapped(network, taps))
        self.sites = {entry.site.id: _read(network, entry.site) for entry in entries}
        self.quantizers = torch.nn.ModuleList(
            _quantizer(entry, encodings[entry.site.id], settings) for entry in entries
        )
        self._turned = {
            node.inputs[1] for node in network.nodes if node.operator == "Gemm" and node.attributes.get("transB")
        }
        self._hooks, self._rows = dict[str, Hook](), dict[str, RowsHook]()
        taken = {tensor for node in self.graph.network.nodes for tensor in node.outputs}
        for site, quantizer in zip(self.sites.values(), self.quantizers, strict=True):
            assert isinstance(quantizer, FakeQuantizer)
            if site.role in EMBEDDING_TABLES and not _is_tied(network, site):
                self._rows[site.tensor] = quantizer.rows
            elif site.is_weight:
                self._hooks[site.tensor] = _transposed(quantizer) if site.tensor in self._turned else quantizer
            elif plan.reaches_all(site):
                self._hooks[site.tensor] = quantizer
            else:
                self._hooks |= dict.fromkeys((name for name in taken if name.startswith(f"{site.id}@")), quantizer)

    def forward(
        self, inputs: Mapping[str, Tensor], seen: Mapping[str, Hook] | None = None, *, exact: bool = False
    ) -> dict[str, Tensor]:
        """Outputs by name; `seen` by tensor hears what is behind its quantizer, if it has one.

        `exact`: sums of products as integer kernels take them.
        """
        hooks = dict(self._hooks)
        for name, hear in (seen or {}).items():
            hooks[name] = _both(self._hooks[name], hear) if name in self._hooks else hear
        outputs: dict[str, Tensor] = self.graph(inputs, hooks, self._rows, exact=exact)
        return outputs

    def encodings(self) -> dict[str, Encoding]:
        """The encoding of every site as it is now."""
        found = {}
        for site, quantizer in zip(self.sites.values(), self.quantizers, strict=True):
            assert isinstance(quantizer, FakeQuantizer)
            weight = self.graph.weights.get(site.tensor, torch.zeros(()))
            found[site.id] = quantizer.encoding(weight.detach().T if site.tensor in self._turned else weight.detach())
        return found

    def weights(self) -> dict[str, Array]:
        """The trained float weights by the initializer's name: rounded by `encodings`, they are what is executed."""
        return self.graph.arrays()


def _read(network: Network, site: Site) -> Site:
    """The site; that of a weight or table names the initializer that its nodes read here: a fold made a new one."""
    if not site.is_weight:
        return site
    node = next(node for node in network.nodes if node.name in site.feeds)
    return replace(site, tensor=node.inputs[0 if site.role in EMBEDDING_TABLES else 1])


def _is_tied(network: Network, site: Site) -> bool:
    """Whether something else than the lookups reads a table: the head of a language model."""
    return any(site.tensor in node.inputs and node.name not in site.feeds for node in network.nodes)


def _quantizer(entry: PlanEntry, first: Encoding, settings: QAT) -> FakeQuantizer:
    assert entry.spec is not None
    current = settings.ranges == "current" and not entry.site.is_weight
    return FakeQuantizer(entry.spec, first, "fixed" if current else settings.ranges)


def _transposed(quantizer: FakeQuantizer) -> Hook:
    """For a weight that is stored [out, in]."""
    return lambda weight: quantizer(weight.T).T


def _both(first: Hook, then: Hook) -> Hook:
    return lambda values: then(first(values))


@dataclass(frozen=True, eq=False)
class Student:
    """A quantized graph that learns from labels of `form`, from the float network, or from both.

    `classes`: names by their ids. `compared`: sites whose tensors are compared, by the loss that does.
    """

    module: QuantizedGraph
    teacher: GraphModule
    form: Form
    classes: tuple[str, ...]
    settings: QAT
    compared: Mapping[str, Sequence[Site]]
    device: str
    where: str
    key: str = "quantize.qat"

    def groups(self, settings: Training) -> list[dict[str, Any]]:
        """Weights as in any fine-tuning; ranges at a rate of their own, without decay."""
        ranges = list(self.module.quantizers.parameters())
        own = {"params": ranges, "lr": self.settings.range_rate, "weight_decay": 0.0}
        return [*decayed(list(self.module.graph.parameters()), settings.weight_decay), *([own] if ranges else [])]

    def loss(self, batch: Batch) -> Tensor:
        """The weighted sum of the losses that the recipe names."""
        inputs, weights = self._inputs(batch), self.settings.loss
        mine, others = _Recorder(self.compared), _Recorder(self.compared)
        outputs = self.module(inputs, mine.hooks)
        total = torch.zeros((), device=self.device)
        if weights.labels:
            wanted = torch.from_numpy(heads.targets(batch, self.form, self.classes)).to(self.device)
            total = total + weights.labels * heads.loss(SimpleNamespace(**outputs), wanted, self.form)
        if not weights.distils:
            return total
        with torch.no_grad():
            taught = self.teacher(inputs, others.hooks)
        mask = inputs.get(MASK)
        if weights.logits:
            total = total + weights.logits * heads.divergence(outputs, taught, self.form, weights.temperature, mask)
        for name, sites in self.compared.items():
            errors = [_squared(mine.tensors[site.tensor], others.tensors[site.tensor], mask, site) for site in sites]
            total = total + getattr(weights, name) * torch.stack(errors).mean()
        return total

    def mean_loss(self, batches: Sequence[Batch]) -> float:
        """The loss over held-out batches, each row with the same weight."""
        with torch.inference_mode():
            losses = [self.loss(batch).item() * len(batch) for batch in batches]
        return sum(losses) / sum(map(len, batches))

    def outputs(self, batches: Sequence[Batch], *, exact: bool = False) -> Iterator[dict[str, Array]]:
        """What the quantized graph gives out for each batch, by name; `exact`: as integer kernels sum."""
        with torch.inference_mode():
            for batch in batches:
                found = self.module(self._inputs(batch), exact=exact)
                yield {name: values.cpu().numpy() for name, values in found.items()}

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array).to(self.device) for name, array in batch.inputs.items()}


def student(
    network: Network,
    teacher: Network,
    plan: QuantPlan,
    encodings: Mapping[str, Encoding],
    *,
    form: Form,
    classes: Sequence[str],
    settings: QAT,
    where: str,
) -> Student:
    """The float network with the plan's quantizers, ready to be trained; its teacher has tensors of the same names.

    Raises ModelError for an operator that torch cannot compute, ValueError for an encoding that cannot be trained.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = QuantizedGraph(network, plan, encodings, settings).to(device)
    sites = [entry.site for entry in plan.entries]
    roles = {"hidden": (Role.EMBEDDING_NORM, Role.LAYER_OUTPUT), "attention": (Role.ATTENTION_SCORES,)}
    compared = {
        name: tuple(site for site in sites if site.role in wanted)
        for name, wanted in roles.items()
        if getattr(settings.loss, name)
    }
    taught_by = GraphModule(teacher).to(device).requires_grad_(False)
    return Student(module, taught_by, form, tuple(classes), settings, compared, device, where)


class _Recorder:
    """Hooks that keep what they see, by the name of the tensor.

    Nothing here refers to what refers to it: the tensors of a step are free when the step is over, not when Python next
    looks for rings.
    """

    def __init__(self, compared: Mapping[str, Iterable[Site]]) -> None:
        self.tensors: dict[str, Tensor] = {}
        names = [site.tensor for sites in compared.values() for site in sites]
        self.hooks: dict[str, Callable[[Tensor], Tensor]] = {name: _keeper(self.tensors, name) for name in names}


def _keeper(tensors: dict[str, Tensor], name: str) -> Hook:
    def keep(values: Tensor) -> Tensor:
        tensors[name] = values
        return values

    return keep


def _squared(mine: Tensor, theirs: Tensor, mask: Tensor | None, site: Site) -> Tensor:
    """Mean squared error, without padding, of tokens [batch, tokens, d] or of pairs [batch, heads, tokens, tokens]."""
    error = (mine - theirs).square()
    if mask is None or mask.shape[0] != error.shape[0]:
        return error.mean()
    real = mask.to(error.dtype)
    real = real[:, None, :, None] * real[:, None, None, :] if site.pairwise else real[:, :, None]
    return (error * real).sum() / (real.sum() * (error.numel() / real.numel()))
