import gzip
import re
import struct
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainer.data import idx
from trainer.errors import DataError

TYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]

arrays = st.sampled_from(TYPES).flatmap(
    lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=1, max_dims=5, min_side=0))
)


@settings(deadline=None)  # other processes may take the processor
@given(arrays, st.booleans())
def test_what_was_written_is_read(array: npt.NDArray[Any], compress: bool) -> None:
    read = idx.decode(idx.encode(array, compress=compress), "f")
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert read.tobytes() == array.tobytes()  # also where NaN differs from NaN
    assert not read.flags.writeable


@settings(deadline=None)  # other processes may take the processor
@given(arrays)
def test_what_was_read_is_written_as_it_was(array: npt.NDArray[Any]) -> None:
    data = idx.encode(array)
    assert idx.encode(idx.decode(data, "f")) == data


def test_bytes_of_every_type_are_those_of_the_format() -> None:
    codes = dict(zip(TYPES, [0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E], strict=True))
    for name, layout in zip(TYPES, "Bbhifd", strict=True):
        array = np.array([[1, 2, 100]], name)
        expected = struct.pack(f">HBBII3{layout}", 0, codes[name], 2, 1, 3, 1, 2, 100)
        assert idx.encode(array) == expected
        np.testing.assert_array_equal(idx.decode(expected, "f"), array)


def test_an_array_that_is_not_contiguous_is_written_in_its_own_order() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(idx.decode(idx.encode(array), "f"), array)
    assert idx.sha256(array) == idx.sha256(array.copy())


def test_gzip_has_no_time_stamp() -> None:
    data = idx.encode(np.zeros(3, np.uint8), compress=True)
    assert data[4:8] == bytes(4)


def test_gzip_of_another_writer_is_read() -> None:
    array = np.arange(200, dtype=np.uint8)
    for level in range(10):
        np.testing.assert_array_equal(
            idx.decode(gzip.compress(idx.encode(array), level), "f"), array
        )


def test_sha256_is_that_of_the_uncompressed_file() -> None:
    # sha256sum of 00 00 08 01 00 00 00 02 07 09
    digest = "6b413bc4e4b437a09780b06c8c43c748d2546f2be2f36913c8dfdb95fac3a083"
    assert idx.sha256(np.array([7, 9], np.uint8)) == digest


def header(code: int, *shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)


GOOD = header(0x08, 2, 3) + bytes(range(6))
GZIP = gzip.compress(GOOD, mtime=0)
BOMB = gzip.compress(GOOD + bytes(10_000_000))

REFUSALS = {
    "empty": (b"", "f: the file ends inside its IDX header; that is 4 bytes and 4 more for each"),
    "half a header": (GOOD[:11], "f: the file ends inside its IDX header"),
    "half a header, gzip": (gzip.compress(GOOD[:11]), "f: the file ends inside its IDX header"),
    "not IDX": (b"PK\3\4rest", "f: the file starts with 0x504b0304; an IDX file starts with"),
    "no such type": (b"\0\0\7\1", "f: the file starts with 0x00000701; its third byte names no"),
    "no dimensions": (b"\0\0\x08\0", "f: the file starts with 0x00000800; its fourth byte"),
    "33 dimensions": (b"\0\0\x08\x21", "must lie between 1 and 32"),
    "terabytes": (
        header(0x0E, 1 << 20, 1 << 20),
        "f: the IDX header promises 1048576x1048576 float64, above the limit of 4294967296 bytes",
    ),
    "too large though empty": (header(0x08, 0, *[0xFFFFFFFF] * 4), "above the limit"),
    "too large, gzip": (gzip.compress(header(0x08, 0xFFFFFFFF, 9)), "above the limit"),
    "a byte missing": (
        GOOD[:-1],
        "f: the IDX header promises 2x3 uint8, 6 bytes, but the file holds only 5",
    ),
    "a byte too many": (GOOD + b"x", "2x3 uint8, 6 bytes, but the file holds more"),
    "a byte missing, gzip": (gzip.compress(GOOD[:-1]), "6 bytes, but the file holds only 5"),
    "a byte too many, gzip": (gzip.compress(GOOD + b"x"), "6 bytes, but the file holds more"),
    "a bomb": (BOMB, "6 bytes, but the file holds more"),
    "impossible": (
        header(0x08, 1 << 31),
        "2147483648 uint8, 2147483648 bytes, but the file can hold 8 at most",
    ),
    "impossible, gzip": (gzip.compress(header(0x08, 1 << 31)), "but the file can hold"),
    "torn": (GZIP[:-1], "f: the gzip stream is torn, it does not end within the file; fetch"),
    "wrong checksum": (
        GZIP[:-5] + bytes([GZIP[-5] ^ 1]) + GZIP[-4:],
        "f: the gzip stream is damaged (incorrect data check); fetch the file again",
    ),
    "wrong length": (GZIP[:-1] + b"\1", "(incorrect length check)"),
    "trailing garbage": (GZIP + b"xyz", "f: 3 bytes follow the end of the gzip stream"),
    "two streams": (GZIP + GZIP, f"f: {len(GZIP)} bytes follow the end of the gzip stream"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    data, message = REFUSALS[case]
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        idx.decode(data, "f")
    assert "\n" not in str(caught.value)


def test_the_limit_is_the_callers() -> None:
    assert idx.decode(GOOD, "f", max_bytes=6).size == 6
    with pytest.raises(DataError, match="above the limit of 5 bytes"):
        idx.decode(GOOD, "f", max_bytes=5)


@pytest.mark.parametrize("size", [0, 1 << 16, 10_000_000])
def test_memory_is_what_the_header_promises(size: int) -> None:
    data = gzip.compress(header(0x08, size) + bytes(size + 20_000_000), 1)
    honest = gzip.compress(header(0x08, size) + bytes(size), 1)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            idx.decode(data, "f")
        idx.decode(honest, "f")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size + (1 << 19)
