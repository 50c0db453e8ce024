import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hart_studio.image_kinds import HEAD_BYTES, SUPPORTED, declares_no_pixels, kind_of


def first_bytes(format_: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(stream, format_)
    return stream.getvalue()[:HEAD_BYTES]


@pytest.mark.parametrize("format_", SUPPORTED)
def test_supported_formats_are_known_and_have_pixels(format_: str) -> None:
    assert kind_of(first_bytes(format_)) == format_
    assert not declares_no_pixels(first_bytes(format_))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", None),
        (b"hello", None),
        (b"BM, but only a text that begins like a bitmap", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"  \n<svg>", "SVG"),
        (b'<svg:svg xmlns:svg="...">', "SVG"),
        (b"<?xml version='1.0'?><html/>", None),
        (b"<svgx>", None),
        (b"II+\0" + bytes(12), "TIFF"),
        (b"MM\0*" + bytes(12), "TIFF"),
        (b"\0\0\0\x1cftypmif1", "HEIC"),
        (b"\xff\x0a", "JPEG XL"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"P6\n9 9\n", "PNM"),
    ],
)
def test_names(head: bytes, kind: str | None) -> None:
    assert kind_of(head) == kind


@pytest.mark.parametrize(
    ("width", "height", "is_empty"), [(0, 7, True), (7, 0, True), (7, 7, False), (256, 256, False)]
)
def test_declared_sizes(width: int, height: int, is_empty: bool) -> None:
    heads = [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height),
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0),
        b"BM" + bytes(12) + struct.pack("<Iii", 40, width, height),
        b"BM" + bytes(12) + struct.pack("<Iii", 40, width, -height),  # rows from the top
    ]
    assert [declares_no_pixels(head) for head in heads] == [is_empty] * 4


@given(
    st.sampled_from(["", *SUPPORTED]).map(lambda name: first_bytes(name) if name else b""),
    st.binary(max_size=60),
    st.data(),
)
def test_any_bytes_can_be_asked(start: bytes, noise: bytes, data: st.DataObject) -> None:
    head = start[: data.draw(st.integers(0, 40))] + noise
    assert kind_of(head) is None or kind_of(head) != ""
    assert isinstance(declares_no_pixels(head), bool)
