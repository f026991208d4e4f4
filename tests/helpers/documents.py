"""The Markdown files of the project, and what of them can be checked: blocks of code, commands, links, headings."""

import dataclasses
import pathlib
import re
import shlex
import subprocess
from collections.abc import Iterator

from tests.conftest import ROOT

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# Up to what ends a command: a comment, another command, the quote or backtick that it stands in.
_COMMAND = re.compile(r"""-m experiments\.(\w+)\b((?:[^#&;|"'`<>\n]|"[^"\n]*"|'[^'\n]*')*)""")
# Of a network that a reader has yet to write.
_WITH_PLUGIN = re.compile(r"RESJAX_PLUGINS=\S+ python -m experiments[^`\n]*")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


def markdown_files() -> list[pathlib.Path]:
    """Every Markdown file that is, or is about to be, part of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:  # an unpacked archive of the repository
        found = [path for path in ROOT.rglob("*.md") if not path.relative_to(ROOT).parts[0].startswith(".")]
    else:
        found = [ROOT / name for name in done.stdout.split("\n") if name]
    return sorted(path for path in found if path.exists())


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, e.g. "python"."""
    return [body for found, body in _FENCE.findall(text) if found == language]


@dataclasses.dataclass(frozen=True)
class Command:
    """`python -m experiments.NAME ARGUMENTS`, as a document has it."""

    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(["python -m", f"experiments.{self.name}", *self.arguments])


def commands(text: str) -> Iterator[Command]:
    """Every command of the project in a document, in blocks and within lines; variables of a shell count as 0."""
    joined = re.sub(r"\\\n\s*", " ", text)
    # Of text that is wrapped within a command; single backticks alone, since a fence has three.
    joined = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda code: code[0].replace("\n", " "), joined)
    for name, rest in _COMMAND.findall(_WITH_PLUGIN.sub("", joined)):
        if name.islower():  # experiments.NAME stands for any of them
            yield Command(name, tuple(shlex.split(re.sub(r"\$\w+", "0", rest))))


def links(text: str) -> Iterator[tuple[str, str]]:
    """(file, anchor) of each link that is not to another site; either may be ""."""
    outside_code = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))
    for target in _LINK.findall(outside_code):
        if not re.match(r"\w+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them; the second of one name ends in -1."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        number = 0
        while (unique := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(unique)
    return found
