"""Tiny transformers with seeded weights, saved as real checkpoints: config, safetensors, tokenizer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

POSITIONS = 160
IMAGE_SIZE, PATCH_SIZE = 32, 8
OUTLIER_DIMENSION = 5

WORDS = """
a about after all and are as at be because before big book but by can cat city coach come could day dog down
even every film find first for game give go good great had has have he her his home how in into is it just
know like long make man many market match me money more most music new no not now of old on one or our out
over people play price say see she small so team than that the their then they this time to up very was we
well what when will with work world would year you
""".split()  # noqa: SIM905 (a hundred words read better as text)


@dataclass(frozen=True)
class Vocabulary:
    """Special tokens of a family, in the order of their ids, and the names that transformers gives them."""

    specials: tuple[str, ...]
    names: Mapping[str, str]
    template: str | None
    token_types: bool = False


_BERT = Vocabulary(
    ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "[CLS] $A [SEP]",
    token_types=True,
)
_ROBERTA = Vocabulary(
    ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    },
    "<s> $A </s>",
)
_GPT2 = Vocabulary(
    ("<|endoftext|>",), dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>"), None
)
_VOCABULARIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "distilbert": Vocabulary(_BERT.specials, _BERT.names, _BERT.template),
    "mpnet": _ROBERTA,
    "albert": _BERT,
    "electra": _BERT,
    "deberta-v2": _BERT,
    "gpt2": _GPT2,
    "bart": _ROBERTA,
}
FAMILIES = ("bert", "roberta", "distilbert", "mpnet", "albert", "electra", "deberta-v2", "vit", "gpt2", "bart")
ENCODERS = FAMILIES[:8]
_AUTO_CLASSES = {
    "feature-extraction": "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
}


def make_checkpoint(
    family: str,
    directory: Path,
    *,
    task: str = "feature-extraction",
    layers: int = 2,
    hidden: int = 32,
    heads: int = 2,
    intermediate: int = 64,
    labels: Sequence[str] = ("negative", "positive"),
    seed: int = 0,
) -> Path:
    """Write a checkpoint of `family` for `task` into `directory` and return it; same arguments, same bytes.

    Weights have a fan-in scale, LayerNorm gains and biases are spread, and one dimension is an outlier as in real
    models. ELECTRA and ALBERT get an embedding half as wide as the hidden state.
    """
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    specials = {} if family == "vit" else make_tokenizer(family, directory)
    config = transformers.AutoConfig.for_model(
        family,
        **_sizes(family, layers, hidden, heads, intermediate),
        **{f"{name}_id": specials[name] for name in ("pad_token", "bos_token", "eos_token") if name in specials},
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    _save_model(config, _AUTO_CLASSES[task], directory, seed)
    if family == "vit":
        _write_preprocessor(directory)
    return directory


def make_tokenizer(family: str, directory: Path) -> dict[str, int]:
    """Write a word-level tokenizer of the family's manner into `directory`; special token name → id."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = _VOCABULARIES[family]
    ids = {word: index for index, word in enumerate((*vocabulary.specials, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=vocabulary.names["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if vocabulary.template is not None:
        used = [(token, ids[token]) for token in vocabulary.specials if token in vocabulary.template.split()]
        tokenizer.post_processor = processors.TemplateProcessing(single=vocabulary.template, special_tokens=used)
    types = ["token_type_ids"] if vocabulary.token_types else []
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS - 2,
        model_input_names=["input_ids", *types, "attention_mask"],
        **vocabulary.names,
    ).save_pretrained(directory)
    return {name: ids[token] for name, token in vocabulary.names.items()}


def _sizes(family: str, layers: int, hidden: int, heads: int, intermediate: int) -> dict[str, object]:
    """Configuration keys of the family for these sizes."""
    words = len(WORDS) + (len(_VOCABULARIES[family].specials) if family in _VOCABULARIES else 0)
    text: dict[str, object] = {"vocab_size": words, "max_position_embeddings": POSITIONS}
    usual: dict[str, object] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
    }
    match family:
        case "albert" | "electra":
            sizes = {**text, **usual, "embedding_size": hidden // 2}
        case "distilbert":
            sizes = {**text, "dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": intermediate}
        case "deberta-v2":  # as DeBERTa-v3: bucketed relative positions shared with the content projections
            relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
            shared = {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
            sizes = {**text, **usual, **relative, **shared, "type_vocab_size": 0}
        case "vit":
            sizes = {**usual, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
        case "gpt2":
            names = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_inner": intermediate}
            sizes = {**names, "vocab_size": words, "n_positions": POSITIONS}
        case "bart":
            side = {"layers": layers, "attention_heads": heads, "ffn_dim": intermediate}
            both = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()}
            sizes = {**text, **both, "d_model": hidden, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
        case _:
            sizes = {**text, **usual}
    return sizes


def _save_model(config: PretrainedConfig, auto_class: str, directory: Path, seed: int) -> None:
    import torch
    import transformers

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # DeBERTa's module uses torch.jit
        model = getattr(transformers, auto_class).from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_values(name, parameter, generator))
    model.save_pretrained(directory, safe_serialization=True)


def _values(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Seeded values of a realistic spread: fan-in scale for matrices, gains about 1, biases about 0."""
    import torch

    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim > 1:
        return noise * (0.5 if "embed" in name or "wte" in name else parameter[0].numel() ** -0.5)
    values = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    if "norm" in name.lower() or "ln_" in name:
        values[OUTLIER_DIMENSION] *= 6
    return values


def _write_preprocessor(directory: Path) -> None:
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
