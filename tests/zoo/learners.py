"""A checkpoint as training starts from one: the zoo's outliers saturate the pooler, these weights are small."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.checkpoints import make_checkpoint


def make_learner(directory: Path, family: str = "bert") -> Path:
    """Write a tiny checkpoint with transformers' own initial weights into `directory`; the same bytes each time."""
    import torch
    import transformers

    make_checkpoint(family, directory)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(directory))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embeddings" in name:
                parameter.mul_(10)  # words that can be told apart from the start: a few dozen steps are enough
    model.save_pretrained(directory, safe_serialization=True)
    return directory
