"""Chromium without a window."""

import pathlib
import subprocess

_FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync --no-first-run"


def browser(page: pathlib.Path, folder: pathlib.Path) -> str:
    """The document that a browser makes of a page, once its scripts have run; `folder` is for its profile."""
    profile = f"--user-data-dir={folder / 'profile'}"
    command = ["chromium", *_FLAGS.split(), profile, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
