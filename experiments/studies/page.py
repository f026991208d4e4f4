"""analysis.html: the figures of all studies in one self-contained file, with an introduction and verdicts."""

import base64
import collections
import dataclasses
import html
from collections.abc import Sequence

from experiments.runtime.figures import Number
from experiments.runtime.files import document
from experiments.studies import Study
from experiments.studies.study import AGREES, DIFFERS, OPEN, PARTLY, Verdict

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
.source, .rule { color: #666; font-size: 0.85rem; } a { color: #0072b2; }
.figure { position: relative; } .figure img { display: block; width: 100%; }
.figure svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.figure svg > * { fill: transparent; stroke: none; }
.figure svg > :hover { stroke: #222; stroke-width: 1.5; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: 0.4rem 1rem; } dt { font-weight: 600; } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: 0.15rem 0.6rem 0.15rem 0; }
.verdict { border-radius: 0.6rem; padding: 0.05rem 0.6rem; font-size: 0.85rem; white-space: nowrap; }
.yes { background: #cdeee2; } .partly { background: #fbe9c0; }
.no { background: #f8d5c5; } .open { background: #e6e6e6; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dt { margin-top: 0.5rem; } }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; } .figure svg { display: none; } a { color: inherit; }
  section { break-inside: avoid; } h2 { break-after: avoid; } .verdict { border: 1px solid #888; }
}
"""
_CLASSES = {AGREES: "yes", PARTLY: "partly", DIFFERS: "no", OPEN: "open"}
_MISSING = "not drawn"

_INTRODUCTION = """
<p>A residual network is a chain of blocks. Each block computes a change F(x) of what it reads, by a <em>branch</em> of
a few convolutions, and adds it to its input, which comes past the branch unchanged, through the <em>skip</em>:
x + F(x). A <em>plain</em> network has the same layers without these additions.</p>
<p>Until 2015, plain networks became worse when they got deeper than some 20 layers, also on the images that they were
trained on. Residual networks of 1,000 layers train. Why? Each study below repeats the experiment of a paper on this
network, and where there is one, on a plain network beside it.</p>
<p>The answers form one story. What a block does can be left out, so that blocks are not links of a chain (lesions,
reordering). The network acts like many short networks together (paths, effective depth, ensembles). Each block
changes little, and refines what is there (responses, similarity, refinement). Therefore gradients arrive in good
order at any depth, and the loss is smooth (shattered gradients, landscape, curvature).</p>
<p>A <em>stage</em> is a run of blocks of one resolution; the first block of a stage may halve it. <em>BN</em> is batch
normalisation. <em>Error</em> is the fraction of test images that get a wrong class, <em>chance</em> the error of
guessing. A <em>verdict</em> follows from the numbers by the rule below it. A network that is small or trained for a
short time may well differ from the paper's, without a mistake of either.</p>
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A study in the report: its figure and sentences, or why they are missing.

    Attributes:
      name: of the study.
      study: the study.
      png: its figure, or None.
      numbers: places in the figure that say their numbers.
      shows: sentences that say what the network shows.
      verdict: whether that is what the paper found.
      has_plain: whether a plain network is beside the network.
      missing: what a missing figure needs.
    """

    name: str
    study: Study
    png: bytes | None = None
    numbers: Sequence[Number] = ()
    shows: tuple[str, ...] = ()
    verdict: Verdict | None = None
    has_plain: bool = False
    missing: str = ""


def page(title: str, facts: dict[str, str], sections: list[Section]) -> str:
    """The page; `facts` are listed below its title."""
    listed = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    body = "".join(map(_section, sections))
    return document(title, _STYLE, f"<dl>{listed}</dl>{_INTRODUCTION}{_contents(sections)}{body}")


def _contents(sections):
    counts = collections.Counter(section.verdict.says if section.verdict else _MISSING for section in sections)
    counted = ", ".join(f"{says} {count}" for says in (*_CLASSES, _MISSING) if (count := counts[says]))
    rows = "".join(
        f'<tr><td><a href="#{html.escape(section.name)}">{html.escape(section.study.title)}</a></td>'
        f"<td>{_badge(section.verdict)}</td></tr>"
        for section in sections
    )
    return (
        '<h2 id="contents">Contents</h2><p>Point at a mark in a figure to read its numbers; all are in NAME.json'
        f" beside this page. {len(sections)} studies: {html.escape(counted)}.</p><table>{rows}</table>"
    )


def _badge(verdict):
    says, kind = (verdict.says, _CLASSES[verdict.says]) if verdict else (_MISSING, "open")
    return f'<span class="verdict {kind}">{html.escape(says)}</span>'


def _section(section: Section) -> str:
    study, rows = section.study, []
    if section.png is not None:
        rows.append(("What to see", html.escape(study.see)))
    rows.append(("The paper", f'{html.escape(study.published)}<div class="source">{html.escape(study.source)}</div>'))
    if section.png is None:
        rows.append(("This network", html.escape(f"Not drawn: {section.missing}.")))
    else:
        rows.append(("This network", html.escape(" ".join(section.shows))))
    if section.verdict is not None:
        rule = f'<div class="rule">{html.escape(study.rule)}</div>'
        why = f"{section.verdict.why[0].upper()}{section.verdict.why[1:]}."
        rows.append(("Verdict", f"{_badge(section.verdict)} {html.escape(why)}{rule}"))
    if study.no_plain:
        rows.append(("Plain network", html.escape(study.no_plain)))
    elif section.png is not None and not section.has_plain and not study.compares_runs:
        rows.append(("Plain network", "None is beside it: --plain names one."))
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)
    title = html.escape(study.title)
    return f'<section id="{html.escape(section.name)}"><h2>{title}</h2>{_figure(section)}<dl>{listed}</dl></section>'


def _figure(section):
    if section.png is None:
        return ""
    marks = "".join(
        f'<rect x="{number.left:.4g}" y="{number.top:.4g}" width="{number.width:.3g}" height="{number.height:.3g}">'
        f"<title>{html.escape(number.text)}</title></rect>"
        for number in section.numbers
    )
    return (
        f'<div class="figure"><img alt="{html.escape(section.study.title)}"'
        f' src="data:image/png;base64,{base64.b64encode(section.png).decode()}">'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{marks}</svg></div>'
    )
