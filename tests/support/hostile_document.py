"""Odd and hostile documents, written by hand: what each becomes is said beside it."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
"""Of passwords, PDF 32000-1:2008, algorithm 2."""
IDENTITY = b"0123456789abcdef"


def pdf(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of the objects 1, 2, ...; the first is the catalogue."""
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, body in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    for place in places:
        out.write(b"%010d 00000 n \n" % place)
    out.write(b"trailer << /Size %d /Root 1 0 R %s >>\n" % (len(objects) + 1, trailer))
    out.write(b"startxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


def stream(content: bytes, entries: bytes = b"") -> bytes:
    """A stream object."""
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def painted(colour: tuple[float, float, float]) -> bytes:
    """Content that fills the lower left half of a page of 200 x 300 points."""
    return b"%g %g %g rg 0 0 m 200 0 l 0 300 l f" % colour


def pages(contents: Sequence[bytes], box: bytes = b"0 0 200 300", entries: bytes = b"") -> bytes:
    """A PDF with one page for each content."""
    count = len(contents)
    kids = b" ".join(b"%d 0 R" % (3 + number) for number in range(count))
    leaf = b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Contents %d 0 R %s >>"
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, kids),
            *(leaf % (box, 3 + count + number, entries) for number in range(count)),
            *map(stream, contents),
        ]
    )


def encrypted(content: bytes, user: bytes, owner: bytes, handler: bytes = b"Standard") -> bytes:
    """A PDF of one page, encrypted with RC4 of 40 bits (algorithms 2, 3 and 4 of the standard)."""
    owned = _rc4(_digest(_padded(owner))[:5], _padded(user))
    key = _digest(_padded(user) + owned + struct.pack("<i", -4) + IDENTITY)[:5]
    for_stream = _digest(key + (4).to_bytes(3, "little") + b"\0\0")[:10]
    lock = b"<< /Filter /%s /V 1 /R 2 /P -4 /O <%s> /U <%s> >>"
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R >>",
            stream(_rc4(for_stream, content)),
            lock % (handler, owned.hex().encode(), _rc4(key, PADDING).hex().encode()),
        ],
        b"/Encrypt 5 0 R /ID [<%s> <%s>]" % (IDENTITY.hex().encode(), IDENTITY.hex().encode()),
    )


def _padded(password: bytes) -> bytes:
    return (password + PADDING)[:32]


def _digest(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _rc4(key: bytes, content: bytes) -> bytes:
    box, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    i = j = 0
    for byte in content:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)


def tiff(colours: Sequence[str]) -> bytes:
    """A TIFF of one page, 40 x 60 pixels, for each colour."""
    first, *others = (Image.new("RGB", (40, 60), colour) for colour in colours)
    out = io.BytesIO()
    first.save(out, "TIFF", save_all=True, append_images=others, compression="tiff_deflate")
    return out.getvalue()


def files(folder: Path) -> dict[str, str]:
    """Write them into `folder`: a source that a record may name -> "good", or a pattern of its MediaError."""
    red = painted((1, 0, 0))
    good = pages([red, red, red])
    written: dict[str, tuple[bytes, str]] = {
        "good.pdf": (good, "good"),
        "spaces, ümläut & 50% #1.pdf": (good, "good"),
        "pdf named.png": (good, "good"),
        "junk before.pdf": (b"From: printer@example\r\n" * 20 + good, "good"),
        "junk behind.pdf": (good + b"\0" * 100_000, "good"),
        "tail lost.pdf": (good[: good.index(b"startxref")], "good"),
        "trailer lost.pdf": (good[: good.index(b"xref")], "damaged, cut short"),
        "head alone.pdf": (b"%PDF-1.7\n", "damaged, cut short"),
        "cut early.pdf": (good[:60], "damaged, cut short"),
        "cut half.pdf": (good[: len(good) // 2], "damaged, cut short"),
        "noise.pdf": (b"%PDF-1.4\n" + bytes(range(256)) * 400, "damaged, cut short"),
        "zero bytes.pdf": (b"", r"empty \(0 bytes\)"),
        "html.pdf": (b"<html><body>404 Not Found</body></html>", "not an image in a supported format"),
        "password.pdf": (encrypted(red, b"secret", b"owner"), "encrypted and needs a password"),
        "owner only.pdf": (encrypted(red, b"", b"owner"), "good"),
        "strange lock.pdf": (encrypted(red, b"", b"owner", b"Strange"), "encrypted with a method"),
        "no pages.pdf": (pages([]), "cut short or has no pages"),
        "kilometres.pdf": (pages([red], b"0 0 2834645 4008400"), "good"),
        "thread.pdf": (pages([red], b"0 0 1 100000"), "is empty or more elongated than 100:1"),
        "empty box.pdf": (pages([red], b"0 0 0 0"), "good"),
        "box of nan.pdf": (pages([red], b"0 0 nan inf"), "good"),
        "box inside out.pdf": (pages([red], b"200 300 0 0"), "good"),
        "turned.pdf": (pages([red], entries=b"/Rotate 90"), "good"),
        "ten thousand pages.pdf": (pages([red] * 10_000), "good"),
        "own grandchild.pdf": (_circular(), "cannot be read"),
        "form in itself.pdf": (_self_drawing(red), "good"),
        "script.pdf": (_script(red), "good"),
        "flate bomb.pdf": (_flate_bomb(), "crashed|memory|seconds"),
        "image bomb.pdf": (_image_bomb(), "good"),
        "good.tiff": (tiff(["red", "lime", "blue"]), "good"),
        "cut.tiff": (tiff(["red", "lime", "blue"])[:120], "cannot be decoded|not an image"),
        "huge.tiff": (_huge_tiff(), "exceeds limit|more than the limit"),
        "round.tiff": (_circular_tiff(), "good"),
        "archive.pdf": (_zip(), "not an image in a supported format"),
    }
    for name, (content, _) in written.items():
        (folder / name).write_bytes(content)
    (folder / "a folder.pdf").mkdir()
    os.mkfifo(folder / "pipe.pdf")
    outside = folder.parent / f"{folder.name} outside.pdf"
    outside.write_bytes(good)
    (folder / "link out.pdf").symlink_to(outside)
    return {name: fate for name, (_, fate) in written.items()} | {
        "good.pdf#page=2-3": "good",
        "good.pdf#page=4": "has no page 4, only the pages 1 to 3",
        "good.pdf#page=last": "selects no pages",
        "good.tiff#page=3": "good",
        "good.tiff#page=9": "has no page 9",
        "a folder.pdf": "is a folder",
        "pipe.pdf": "is a named pipe",
        "link out.pdf": "outside the data root",
    }


def _circular() -> bytes:
    return pdf([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 1 /Kids [2 0 R] /Parent 2 0 R >>"])


def _with_resource(content: bytes, resource: bytes, thing: bytes) -> bytes:
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R /Resources %s >>" % resource,
            stream(content),
            thing,
        ]
    )


def _self_drawing(content: bytes) -> bytes:
    resources = b"<< /XObject << /X 5 0 R >> >>"
    form = stream(content + b" /X Do", b"/Type /XObject /Subtype /Form /BBox [0 0 200 300] /Resources " + resources)
    return _with_resource(b"/X Do", resources, form)


def _script(content: bytes) -> bytes:
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R /OpenAction << /S /JavaScript /JS (while (true) {}) >> >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R >>",
            stream(content),
        ]
    )


def _flate_bomb() -> bytes:
    """3 GB of blanks in 3 kB: packed three times. Blocks after a full flush do not refer to earlier ones."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(b" " * 10_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    once = b"\x78\xda" + block * 300 + b"\x03\x00"
    content = zlib.compress(zlib.compress(once, 9), 9)
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R >>",
            stream(content, b"/Filter [/FlateDecode /FlateDecode /FlateDecode]"),
        ]
    )


def _image_bomb() -> bytes:
    """A picture that says it has 60000 x 60000 pixels in colour."""
    entries = b"/Type /XObject /Subtype /Image /Width 60000 /Height 60000 /ColorSpace /DeviceRGB /BitsPerComponent 8"
    picture = stream(zlib.compress(bytes(1_000_000)), entries + b" /Filter /FlateDecode")
    return _with_resource(b"200 0 0 300 0 0 cm /X Do", b"<< /XObject << /X 5 0 R >> >>", picture)


def _huge_tiff() -> bytes:
    """A header that says 100000 x 100000 pixels."""
    entries = [(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 100_000), (279, 4, 1, 100)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + struct.pack("<I", 0) + bytes(100)


def _circular_tiff() -> bytes:
    """A list of pages whose last is followed by the first."""
    content = bytearray(tiff(["red"]))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * count, start)
    return bytes(content)


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * 1_000_000)
    return out.getvalue()
