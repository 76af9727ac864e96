"""Where a checkpoint comes from, which bytes it consists of, and what it is: found without importing torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.core.artifact import sha256_file
from qonnx_pipe.errors import ModelError, UsageError

TESTED = (
    "albert",
    "bart",
    "bert",
    "deberta-v2",
    "distilbert",
    "electra",
    "gpt2",
    "mobilebert",
    "mpnet",
    "roberta",
    "vit",
)
ARCHITECTURES = frozenset({*TESTED, "camembert", "xlm-roberta"})
"""Supported `model_type`s: those whose export is tested, and two that share RoBERTa's code."""

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.py",
)
_SAFE = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """A directory of weights, configuration and tokenizer.

    `sha256` digests the names and bytes of the files that matter, and nothing else: a copy elsewhere is the same
    checkpoint. `pickled` tells that the weights are pickles, which the user allowed.
    """

    directory: Path
    source: str
    sha256: str
    model_type: str
    architecture: str
    pickled: bool = False


def resolve(source: str, *, revision: str | None = None, allow_pickle: bool = False) -> Checkpoint:
    """Find a checkpoint: a local directory, `package:NAME/path/inside`, or a hub id (then downloaded).

    Raises ModelError for anything that is missing, damaged, of no supported architecture, or a pickle that nobody
    allowed; UsageError for a revision without a hub.
    """
    directory, hub = _locate(source, revision, allow_pickle)
    if revision is not None and not hub:
        raise UsageError("a revision has a meaning for hub ids only", where=source, fix="leave the revision out")
    config = read_config(directory)
    model_type = str(config.get("model_type", ""))
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        what = f"unsupported architecture {model_type!r}" if model_type else "config.json names no model_type"
        raise ModelError(what, where=str(directory / "config.json"), fix=f"supported are {known}")
    weights, pickled = _weights(directory, allow_pickle)
    files = {*weights, *(path for pattern in _SETTINGS for path in directory.glob(pattern) if path.is_file())}
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else model_type
    return Checkpoint(directory, source, _digest(files), model_type, architecture, pickled)


def read_config(directory: Path) -> Mapping[str, object]:
    """The mapping in `config.json`; ModelError when there is none."""
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError("no config.json", where=str(directory), fix="give the directory that save_pretrained wrote")
    return _read_json(path)


def _locate(source: str, revision: str | None, allow_pickle: bool) -> tuple[Path, bool]:
    """The directory that holds the checkpoint, and whether it comes from a hub."""
    if source.startswith("package:"):
        return _in_package(source), False
    path = Path(source).expanduser()
    if path.is_dir():
        return path, False
    if path.exists():
        raise ModelError("not a directory", where=source, fix="give the directory that holds config.json")
    if not _HUB_ID.fullmatch(source):
        raise ModelError("no such directory", where=source, fix="give a directory, package:NAME/path or a hub id")
    return _from_hub(source, revision, allow_pickle), True


def _in_package(source: str) -> Path:
    name, _, inside = source.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        distribution = name.replace("_", "-") or "NAME"
        raise ModelError(f"package {name!r} is not installed", where=source, fix=f"pip install {distribution}")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_dir():
        raise ModelError(f"package {name!r} has no directory {inside!r}", where=source, fix=f"look into {path.parent}")
    return path


def _from_hub(source: str, revision: str | None, allow_pickle: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    patterns = [*_SETTINGS, *_SAFE, *(_PICKLED if allow_pickle else ())]
    try:
        found = snapshot_download(source, revision=revision, allow_patterns=patterns, ignore_patterns="*/*")
    except GatedRepoError as error:
        raise ModelError("the hub asks for a login", where=source, fix="run `hf auth login` first") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = "neither a directory here nor a model on the hub"
        raise ModelError(what, where=source, fix="check the spelling and the revision") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        what = f"no such directory, and the hub cannot be reached ({type(error).__name__})"
        raise ModelError(what, where=source, fix="check the path, or the network and HF_HUB_OFFLINE") from error
    return Path(found)


def _weights(directory: Path, allow_pickle: bool) -> tuple[tuple[Path, ...], bool]:
    """The files of the weights, checked to be whole, and whether they are pickles."""
    if safe := tuple(_indexed(directory, "model.safetensors")):
        for path in safe:
            if path.suffix == ".safetensors":
                _check_safetensors(path)
        return safe, False
    pickled = tuple(_indexed(directory, "pytorch_model.bin"))
    if not pickled:
        raise ModelError("no model.safetensors", where=str(directory), fix="save the model with save_pretrained")
    if not allow_pickle:
        what = f"the weights are a pickle ({pickled[0].name}), which can run any code when it is read"
        fix = "save them as safetensors, or allow it with allow_pickle if you trust where it comes from"
        raise ModelError(what, where=str(directory), fix=fix)
    return pickled, True


def _indexed(directory: Path, name: str) -> Iterator[Path]:
    """`name` if it is there, otherwise its index and the shards that this names."""
    index = directory / f"{name}.index.json"
    if (directory / name).is_file():
        yield directory / name
    elif index.is_file():
        yield index
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise ModelError("no weight_map", where=str(index), fix="download the checkpoint again")
        for shard in sorted({directory / str(file) for file in shards.values()}):
            if not shard.is_file():
                raise ModelError("a shard of the weights is missing", where=str(shard), fix="download it again")
            yield shard


def _check_safetensors(path: Path) -> None:
    """Raise ModelError unless the file is as long as its header says (8 bytes of length, JSON, data)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if size < 8 + length:
                raise ValueError("shorter than its header")
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ModelError("not a whole safetensors file", where=str(path), fix="download it again") from error
    if size != (expected := 8 + length + max(ends, default=0)):
        what = f"truncated or damaged weights: {size} bytes instead of {expected}"
        raise ModelError(what, where=str(path), fix="download it again")


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"not valid JSON ({error})", where=str(path), fix="download it again") from error
    if not isinstance(value, dict):
        raise ModelError("not a JSON mapping", where=str(path), fix="download it again")
    return value


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
