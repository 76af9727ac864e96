"""Timing inputs: real tokens without padding, or made-up ones that fit the model."""

import numpy as np
import pytest

from qonnx_pipe.core.examples import Batch, Reading
from qonnx_pipe.core.port import Port
from qonnx_pipe.errors import ModelError
from qonnx_pipe.runtime.shapes import from_batches, made_up, of_shape

BATCH = Batch(
    {
        "input_ids": np.array([[5, 6, 7, 0], [8, 9, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]]),
        "token_type_ids": np.array([[0, 0, 1, 0], [0, 1, 0, 0]]),
    },
    (None, None),
)


def test_real_tokens_fill_the_shape_without_padding():
    inputs = from_batches([BATCH], 2, 4)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8], [9, 5, 6, 7]]
    assert inputs["attention_mask"].tolist() == [[1] * 4] * 2
    assert not inputs["token_type_ids"].any()


def test_images_are_repeated_to_the_batch():
    pixels = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    inputs = from_batches([Batch({"pixel_values": pixels}, (None, None))], 3, 128)
    np.testing.assert_array_equal(inputs["pixel_values"], pixels[[0, 1, 0]])


def test_made_up_inputs_fit_the_ports():
    ports = [
        Port("input_ids", "int64", ("batch", "sequence")),
        Port("attention_mask", "int64", ("batch", "sequence")),
        Port("token_type_ids", "int32", ("batch", "sequence")),
        Port("pixel_values", "float", ("batch", 3, 8, 8)),
    ]
    inputs = made_up(ports, 2, 5)
    assert inputs["input_ids"].shape == (2, 5)
    assert inputs["input_ids"].min() >= 1
    assert inputs["attention_mask"].all()
    assert not inputs["token_type_ids"].any()
    assert (inputs["token_type_ids"].dtype, inputs["pixel_values"].dtype) == (np.int32, np.float32)
    assert inputs["pixel_values"].shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(inputs["input_ids"], made_up(ports, 2, 5)["input_ids"])


def test_types_that_are_no_numbers_are_refused():
    with pytest.raises(ModelError, match="'text' of type string"):
        made_up([Port("text", "string", ("batch",))], 1, 1)


def test_readings_go_with_their_rows_into_another_shape():
    readings = tuple(Reading(n, "a b", np.array([1]), np.array([[0, 1]])) for n in range(2))
    labelled = Batch(BATCH.inputs, ("X Y", "Z Z"), readings)
    assert [one.readings for one in of_shape([labelled], 1, 6)] == [readings[:1], readings[1:]]
    (whole,) = of_shape([labelled], 3, 6)
    assert (whole.readings, len(whole), len(whole.inputs["input_ids"])) == (readings, 2, 3)
