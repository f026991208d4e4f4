"""analysis.html: the figures of all studies in one self-contained file."""

import base64
import dataclasses
import html

from experiments.runtime.files import document
from experiments.studies import Study

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
img { max-width: 100%; } .source { color: #666; font-size: 0.85rem; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: 0.4rem 1rem; } dt { font-weight: 600; } dd { margin: 0; }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A study in the report: its figure and sentences, or why they are missing.

    Attributes:
      study: the study.
      png: its figure, or None.
      shows: sentences that say what the network shows.
      missing: what a missing figure needs.
    """

    study: Study
    png: bytes | None = None
    shows: tuple[str, ...] = ()
    missing: str = ""


def page(title: str, facts: dict[str, str], sections: list[Section]) -> str:
    """The page; `facts` are listed below its title."""
    listed = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    body = "".join(map(_section, sections))
    return document(title, _STYLE, f"<dl>{listed}</dl>{body}")


def _section(section: Section) -> str:
    study = section.study
    title = html.escape(study.title)
    parts = [f"<h2>{title}</h2>"]
    if section.png is not None:
        parts.append(f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(section.png).decode()}">')
    shows = " ".join(section.shows) if section.png is not None else f"Not drawn: {section.missing}."
    parts.append(
        f"<dl><dt>The paper</dt><dd>{html.escape(study.published)}"
        f'<div class="source">{html.escape(study.source)}</div></dd>'
        f"<dt>This network</dt><dd>{html.escape(shows)}</dd></dl>"
    )
    return "".join(parts)
