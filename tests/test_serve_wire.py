"""Messages of strangers: packed as openpi's clients pack them, read within bounds, and never executed."""

import contextlib
import io
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lewm.serve import wire
from lewm.serve.wire import MOST_BYTES, jpeg_of, pack, picture_of, unpack

# An array and a number as openpi-client 0.1.2 packs them, written out.
ARRAY = {b"__ndarray__": True, b"data": bytes([1, 0, 2, 0]), b"dtype": "<u2", b"shape": [2]}
NUMBER = {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}


def packed(value: Any) -> bytes:
    found = msgpack.packb(value)
    assert found is not None
    return found


def test_it_reads_what_openpi_packs() -> None:
    message = unpack(packed({"a": ARRAY, "b": NUMBER, "c": {"d": [ARRAY]}, "e": "text", "f": None}))
    np.testing.assert_array_equal(message["a"], np.array([1, 2], np.uint16))
    np.testing.assert_array_equal(message["c"]["d"][0], [1, 2])
    assert message["b"] == 1.5
    assert (message["e"], message["f"]) == ("text", None)


def test_it_packs_what_openpi_reads() -> None:
    sent = pack({"a": np.array([1, 2], np.uint16), "n": np.float32(0.5)})
    assert msgpack.unpackb(sent) == {"a": ARRAY, "n": 0.5}


@pytest.mark.parametrize("kind", ["u1", "i8", "f2", "f8", "?"])
def test_arrays_come_back_the_same(kind: str) -> None:
    value = np.arange(12).reshape(3, 4).astype(kind)
    found = unpack(pack({"value": value}))["value"]
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"", "cannot be read"),
        (b"\xc1", "cannot be read"),
        (packed([1, 2]), "is no map"),
        (packed({b"a": 1}), "is no map"),
        (packed({1: 2}), "cannot be read"),
        (packed({"a": msgpack.ExtType(5, b"x")}), "cannot be read"),
        (packed({"a": ARRAY | {b"dtype": "O"}}), "an array's type 'O' is none of"),
        (packed({"a": ARRAY | {b"dtype": "(999999999,)f8"}}), "an array's type"),
        (packed({"a": ARRAY | {b"dtype": 7}}), "an array's type"),
        (packed({"a": ARRAY | {b"shape": [-1]}}), "shape is no list of sizes"),
        (packed({"a": ARRAY | {b"shape": [2**40]}}), "shape is no list of sizes"),
        (packed({"a": ARRAY | {b"shape": [3]}}), "shape does not fit its bytes"),
        (packed({"a": ARRAY | {b"shape": [1] * 30}}), "shape is no list of sizes"),
        (packed({"a": {b"__ndarray__": True}}), "an array's type"),
        (packed({"a": NUMBER | {b"data": "x"}}), "a number is none"),
        (packed({"a": list(range(300))}), "cannot be read"),
        (packed({"a": 1}) + b"\x00", "cannot be read"),
        (b"\x81\xa1a" + b"\x91" * 2000 + b"\x00", "cannot be read"),
        (packed({"a": bytes(MOST_BYTES + (1 << 20))}), "may have"),
    ],
)
def test_what_is_no_message_is_refused(message: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        unpack(message)
    assert len(str(error.value)) <= 300


def test_a_small_message_takes_little_memory() -> None:
    row = b"\xdc\x01\x00" + b"\x90" * 256  # a list of lists: 4 MB of it would become hundreds
    bomb = b"\x81\xa1a\xdc\x01\x00" + b"".join(b"\xdc\x00\xff" + row * 255 for _ in range(60))
    tracemalloc.start()
    with pytest.raises(ValueError, match="has more than 512 lists and maps"):
        unpack(bomb[: wire.MOST_MESSAGE])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):  # and no other error
        assert isinstance(unpack(data), dict)


def test_pictures_are_bounded() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert picture_of("frame", picture) is picture
    assert picture_of("frame", jpeg_of(picture)).shape == (20, 30, 3)
    out = io.BytesIO()
    Image.new("RGB", (1600, 1600)).save(out, "JPEG")
    wrong: list[tuple[Any, str]] = [
        (out.getvalue(), "of 1600x1600 pixels"),
        (np.zeros(MOST_BYTES + 1, np.uint8), "is no picture"),
        (b"GIF89a", "is no JPEG"),
        (jpeg_of(picture)[:100], "is no JPEG"),
        ([1, 2], "is no picture"),
    ]
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    for value, told in (*wrong, (out.getvalue(), "is no JPEG")):
        with pytest.raises(ValueError, match=told):
            picture_of("frame", value)
