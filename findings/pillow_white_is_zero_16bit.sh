#!/usr/bin/env bash
# Gray TIFF, white is zero (PhotometricInterpretation 0): Pillow inverts samples of 8 bits, and leaves those of 16 bits.
#
# Scanners and microscopes write such files. A sample of 0 is white (TIFF 6.0, section 4). Pillow opens the 8-bit file
# as 255 and the 16-bit file as 0, black, with mode "I;16" as of any other 16-bit file: a folder of both depths has half
# of its images as negatives, and only the file's tag 262 says which.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==12.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys

import PIL
from PIL import Image


def tiff(bits, photometric, sample):
    """A TIFF of one pixel, after TIFF 6.0."""
    tags = {256: 1, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: bits // 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    pixel = sample.to_bytes(bits // 8, "little").ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 12) + pixel + struct.pack("<H", len(tags)) + entries + bytes(4)


print("Pillow", PIL.__version__)
as_seen = True
for bits, photometric, sample, expected in ((8, 0, 0, 255), (16, 0, 0, 0), (8, 1, 255, 255), (16, 1, 65535, 65535)):
    opened = Image.open(io.BytesIO(tiff(bits, photometric, sample)))
    read = opened.getpixel((0, 0))
    meaning = "white is zero" if photometric == 0 else "black is zero"
    print(f"{bits:2} bits, {meaning}, white pixel stored as {sample}: mode {opened.mode!r}, read as {read}")
    as_seen &= read == expected
sys.exit(0 if as_seen else "this has changed")
PYTHON
