"""Colour profiles as cameras, phones, scanners and printers put them into pictures, written by hand."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Columns are what red, green and blue are in XYZ, adapted to D50.
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def srgb_curve(size: int = 1024) -> bytes:
    """The tone curve of sRGB and Display P3 as a table."""
    x = np.linspace(0, 1, size)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", size) + (y * 65535).round().astype(">u2").tobytes()


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + np.round(np.array(values) * 65536).astype(">i4").tobytes()


def text(words: str) -> bytes:
    data = words.encode("latin-1") + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(data)) + data + bytes(78)


def write(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2."""
    table, body = [], b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table.append(struct.pack(">4sII", name, start + len(body), len(data)))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(D50)[8:]
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + b"".join(table) + body


def rgb_profile(name: str, matrix: np.ndarray, curve: bytes) -> bytes:
    columns = {key: xyz(column) for key, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
    tags = {b"desc": text(name), b"cprt": text("none"), b"wtpt": xyz(D50), **columns}
    return write(b"RGB ", tags | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def grey_profile(gamma: float) -> bytes:
    tags = {b"desc": text("grey"), b"cprt": text("none"), b"wtpt": xyz(D50), b"kTRC": gamma_curve(gamma)}
    return write(b"GRAY", tags)


def cmyk_profile() -> bytes:
    """A printer whose lightness falls with its black alone: a table of two levels a channel to Lab."""
    grid = np.array([[255 * (1 - k), 128, 128] for _ in range(8) for k in (0, 1)], np.uint8)
    ramp = np.arange(256, dtype=np.uint8)
    identity = np.eye(3).ravel() * 65536
    table = b"mft1\0\0\0\0" + struct.pack(">BBBB", 4, 3, 2, 0) + identity.astype(">i4").tobytes()
    table += np.tile(ramp, 4).tobytes() + grid.tobytes() + np.tile(ramp, 3).tobytes()
    tags = {b"desc": text("printer"), b"cprt": text("none"), b"wtpt": xyz(D50), b"A2B0": table}
    return write(b"CMYK", tags, b"prtr", b"Lab ")


P3_PROFILE = rgb_profile("Display P3", DISPLAY_P3, srgb_curve())
