"""Image classification: the class with the largest logit, as for texts."""

from __future__ import annotations

from dataclasses import replace

from qonnx_pipe.tasks import text_classification

TASK = replace(text_classification.TASK, name="image-classification")
