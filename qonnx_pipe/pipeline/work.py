"""Work: what a run has at hand: its recipe, the data, and what the stages before have made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from qonnx_pipe import data, tasks
from qonnx_pipe.core.baseline import check_comparable
from qonnx_pipe.core.examples import Batch, Examples
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.sensitivity import Sensitivity
from qonnx_pipe.core.stages import Stage
from qonnx_pipe.core.times import Times
from qonnx_pipe.core.verdict import Verdict
from qonnx_pipe.core.verdict_file import read_verdict
from qonnx_pipe.data.texts import Texts
from qonnx_pipe.errors import Problem, ProviderError, RecipeError
from qonnx_pipe.pipeline.progress import Listener, Progress
from qonnx_pipe.pipeline.training import LIBRARIES, load_examples, source_of
from qonnx_pipe.recipe import Recipe
from qonnx_pipe.recipe.data import Calibration
from qonnx_pipe.runtime import providers
from qonnx_pipe.runtime.providers import ALWAYS_HERE
from qonnx_pipe.source.checkpoint import Checkpoint
from qonnx_pipe.store import Entry, Store

FLOAT = "model.onnx"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
"""Files of an export that decide how a text becomes tokens and padding."""


@dataclass
class Work:
    """A run under way; checkpoint and data are read when they are first asked for."""

    recipe: Recipe
    out: Path
    listen: Listener
    store: Store
    entries: dict[Stage, Entry] = field(default_factory=dict)

    def check(self, stages: Sequence[Stage]) -> None:
        """Tell at once what would come out after minutes of work.

        Unknown providers, unreadable data and baselines are raised, and a search or a budget of time whose target is
        not installed, or has one time for many MatMuls; one of the verdict that is not installed is a warning, since
        the others can be judged.
        """
        for provider in self.recipe.validation.providers:
            providers.check_name(provider)
        target = self.recipe.quantize.target
        if "timing" in stages and providers.find(target).compiles:
            what = f"{target} does not time single MatMuls: it compiles many operators into one"
            raise ProviderError(what, where="quantize.budget.latency", fix="limit bits or size, or choose target: cpu")
        if {"tune", "timing"}.intersection(stages) and target not in (
            ALWAYS_HERE,
            *self.recipe.validation.interpreters,
        ):
            providers.require(target)
        if "validate" in stages:
            self._warn_of_missing_providers()
        for stage, examples in _READ:
            if stage in stages:
                getattr(self, examples)
        if "validate" in stages and self.baseline is not None:
            settings, metric = self.recipe.validation, tasks.find(self.recipe.model.task).measure.name
            check_comparable(self.baseline, settings.providers, metric, where=str(settings.baseline_file))

    def _warn_of_missing_providers(self) -> None:
        settings = self.recipe.validation
        for provider in settings.providers:
            if provider in (ALWAYS_HERE, *settings.interpreters):
                continue
            try:
                providers.require(provider)
            except ProviderError as missing:
                self.listen(Progress("validate", "warning", f"{missing.what}; to get it: {missing.fix}"))

    def choice(self, name: Literal["calibration", "evaluation", "train", "validation"]) -> Calibration:
        """What the recipe says of these examples; RecipeError when it only trains."""
        found = getattr(self.recipe.data, name)
        if not isinstance(found, Calibration):
            fix = f"add data.{name}, or run `qpipe train`"
            raise RecipeError([Problem(str(self.recipe.origin.path), f"data.{name}", "needed to quantize", fix)])
        return found

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The recipe's model."""
        return source_of(self.recipe, self.listen, self.store)

    @cached_property
    def calibration(self) -> Examples:
        """The examples that ranges are taken from."""
        return load_examples(self.choice("calibration"), self.recipe.model.task)

    @cached_property
    def evaluation(self) -> Examples:
        """The examples that the models are judged on."""
        return load_examples(self.choice("evaluation"), self.recipe.model.task)

    @cached_property
    def learned(self) -> Texts:
        """The texts that the quantized model is trained on."""
        return self._texts("train")

    @cached_property
    def held(self) -> Texts:
        """The texts that the best epoch of that is chosen on."""
        return self._texts("validation")

    def _texts(self, name: Literal["train", "validation"]) -> Texts:
        choice = self.choice(name)
        return Texts(load_examples(choice, self.recipe.model.task), choice.batch_size, choice.max_length)

    @cached_property
    def baseline(self) -> Verdict | None:
        """The earlier verdict that the recipe compares with, if any."""
        path = self.recipe.validation.baseline_file
        return None if path is None else read_verdict(path)

    @cached_property
    def plan(self) -> QuantPlan:
        """What the plan stage decided."""
        return QuantPlan.from_json(json.loads(self.file("plan", "plan.json").read_bytes()))

    @cached_property
    def widths(self) -> Mapping[str, int] | None:
        """Bits by site that the recipe's budget gives; None without one."""
        budget = self.recipe.quantize.budget
        if budget is None:
            return None
        from qonnx_pipe.stages.allocate import allocate

        found = json.loads(self.file("sensitivity", "sensitivity.json").read_bytes())
        return allocate(Sensitivity.from_json(found), budget, self.times).bits

    @property
    def times(self) -> Times | None:
        """What the weights take on the target; None where no budget asks for it."""
        if "timing" not in self.entries:
            return None
        return Times.from_json(json.loads(self.file("timing", "times.json").read_bytes()))

    @property
    def settled_plan(self) -> QuantPlan:
        """The plan as the quantize stage carried it out: calibration settles forms that were open."""
        if "plan.json" not in self.entries["quantize"].files:
            return self.plan
        return QuantPlan.from_json(json.loads(self.file("quantize", "plan.json").read_bytes()))

    @property
    def float_model(self) -> Path:
        """What the export stage made."""
        return self.file("export", FLOAT)

    def file(self, stage: Stage, name: str) -> Path:
        """A file that a stage made, in the store."""
        return self.entries[stage].path(name)

    def digests(self, stage: Stage, *names: str) -> dict[str, str]:
        """SHA-256 by "stage/name" of those `names` that the stage made; without names, of all its files."""
        files = self.entries[stage].files
        return {f"{stage}/{name}": files[name].sha256 for name in names or files if name in files}

    def batches(self, examples: Examples, choice: Calibration, *, sort: bool) -> list[Batch]:
        """The examples as inputs of the float model."""
        from qonnx_pipe.graph.summary import summarise

        names = [port.name for port in summarise(self.float_model).inputs]
        sizes = {"batch_size": choice.batch_size, "max_length": choice.max_length}
        return data.batches(examples, self.file("export", TOKENIZER[0]), names, **sizes, sort=sort)


def libraries(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Distributions whose version can change what the stages make."""
    return tuple(sorted({name for stage in stages for name in _LIBRARIES[stage]}))


_READ = (
    ("sensitivity", "calibration"),
    ("timing", "calibration"),
    ("calibrate", "calibration"),
    ("qat", "learned"),
    ("qat", "held"),
    ("validate", "evaluation"),
)
"""Which stage reads which examples."""

_LIBRARIES: dict[Stage, tuple[str, ...]] = {
    "train": LIBRARIES,
    "export": ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnx-ir", "onnxsim", "onnxscript"),
    "sensitivity": ("torch", "scipy", "onnxruntime", "onnx", "onnx-ir", "tokenizers", "numpy"),
    "timing": ("onnxruntime", "onnx", "onnx-ir", "tokenizers", "numpy"),
    "plan": ("scipy", "onnx", "onnx-ir"),
    "calibrate": ("onnxruntime", "onnx", "onnx-ir", "tokenizers", "numpy"),
    "tune": ("onnxruntime", "onnx", "onnx-ir", "tokenizers", "numpy"),
    "qat": ("torch", "onnx", "onnx-ir", "tokenizers", "numpy"),
    "round": ("torch", "onnxruntime", "onnx", "onnx-ir", "tokenizers", "numpy"),
    "quantize": ("onnxruntime", "onnx", "onnx-ir", "onnxscript", "numpy"),
    "validate": ("onnxruntime", "tokenizers", "numpy"),
    "report": ("jinja2",),
}
