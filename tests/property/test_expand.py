"""The two ways to cut a code into columns, and the columns that `expand` chooses, for any data."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qonnx_pipe.core.encoding import Encoding, Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import dequantize, fake_quantize, quantize
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import MinMax, SiteStatistics
from qonnx_pipe.observers.expand import expanded

DTYPES = st.sampled_from([QTYPES[name] for name in ("uint8", "int8", "uint4", "int6")])


@given(st.integers(-(10**6), 10**6), st.integers(1, 64), st.integers(1, 1000))
def test_hermites_identity(numerator: int, n: int, denominator: int) -> None:
    """Σ ⌊y + i/n⌋ = ⌊n·y⌋ for every rational y, in integers: ⌊(n·p + i·q) / (n·q)⌋."""
    columns = [(n * numerator + i * denominator) // (n * denominator) for i in range(n)]
    assert sum(columns) == n * numerator // denominator


@given(DTYPES, st.integers(-5000, 5000), st.integers(0, 4), st.integers(0, 4))
def test_saturating_windows_add_up(dtype, code: int, below: int, above: int) -> None:
    """Every column counted from where it rests, the codes are the code, as far as the windows reach."""
    levels = dtype.qmax - dtype.qmin
    total = min(max(code, dtype.qmin), dtype.qmax)
    for i in range(1, above + 1):
        total += min(max(code - i * levels, dtype.qmin), dtype.qmax) - dtype.qmin
    for i in range(1, below + 1):
        total += min(max(code + i * levels, dtype.qmin), dtype.qmax) - dtype.qmax
    assert total == min(max(code, dtype.qmin - below * levels), dtype.qmax + above * levels)


@given(DTYPES, st.integers(-2000, 2000), st.floats(2.0**-8, 2.0**8))
def test_numpy_adds_columns_up_to_the_code(dtype, code: int, scale: float) -> None:
    """A value that is a whole number of steps survives, however far out, and its neighbours keep their window."""
    zero = (dtype.qmin + dtype.qmax + 1) // 2
    places = tuple(place for i in range(1, 2001 // dtype.levels + 2) for place in (i, -i))
    step = np.float32(2.0 ** np.round(np.log2(scale)))  # a power of two: multiples are exact in float32
    encoding = Encoding(dtype, Windows(2, (1,) * len(places), places), np.asarray(step), np.asarray(zero))
    values = np.float32([[code, code]]) * step
    codes = quantize(values, encoding)
    assert codes.shape == (1, 2 + len(places))
    plain, wide = dequantize(codes, encoding)[0]
    assert wide == values[0, 1]
    assert plain == np.clip(code, dtype.qmin - zero, dtype.qmax - zero) * step


@given(
    st.lists(st.tuples(st.floats(-1e4, 0, width=32), st.floats(0, 1e4, width=32)), min_size=8, max_size=40),
    st.integers(1, 8),
    st.sampled_from([False, True]),
    DTYPES,
)
def test_no_value_that_was_seen_is_off_by_more_than_half_a_step(bounds, columns: int, symmetric: bool, dtype) -> None:
    low, high = np.float32(bounds).T
    spec = QuantSpec(dtype, PerTensor(), symmetric, form="expand", columns=columns)
    encoding = expanded(SiteStatistics(MinMax(low, high)), spec)
    seen = np.stack([low, high, low / 3, high / 7])
    if isinstance(encoding.granularity, Windows):
        assert 0 < len(encoding.granularity.places) <= min(columns, len(low) // 8)
        slack = 1e-6 * np.abs(seen)  # of float32
        assert np.all(np.abs(fake_quantize(seen, encoding) - seen) <= 0.501 * encoding.scale + slack)
