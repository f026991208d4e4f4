#!/usr/bin/env bash
# Label masks: Pillow gives the gray values of a PNG of 2 or 4 bits times 85 or 17, and palette indices as they are.
#
# A mask with the labels 0 .. 15, optimised to 4 bits as gray, reads as 0, 17, .., 255 with mode "L", as any gray image
# of 8 bits: label 15 becomes 255, which most data sets ignore, and label 1 becomes 17. The same labels as a palette of
# 4 bits read as 0 .. 15. Nothing of the opened image says which it was; only the header of the file does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==12.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys
import zlib

import PIL
from PIL import Image


def png(bits, colour_type):
    """A PNG of one row with the values 0 .. 2^bits - 1, gray (0) or palette (3), after its specification."""
    values = range(2**bits)
    per_byte = 8 // bits
    row = bytes(
        sum(value << (8 - bits * (i + 1)) for i, value in enumerate(values[start : start + per_byte]))
        for start in range(0, len(values), per_byte)
    )
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, bits, colour_type, 0, 0, 0))]
    if colour_type == 3:
        chunks.append((b"PLTE", bytes(255 - value for value in values for _ in range(3))))
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    coded = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


print("Pillow", PIL.__version__)
as_seen = True
for bits, factor in ((2, 85), (4, 17)):
    for name, colour_type, expected in (("gray", 0, factor), ("palette", 3, 1)):
        image = Image.open(io.BytesIO(png(bits, colour_type)))
        values = list(image.tobytes())
        print(f"{bits} bits, {name}: mode {image.mode}, stored 0 .. {2**bits - 1}, read {values}")
        as_seen &= values == [factor * value if expected == factor else value for value in range(2**bits)]
print("gray is scaled, palette indices are not" if as_seen else "this has changed")
sys.exit(not as_seen)
PYTHON
