"""Two reports beside each other: what each finds, their numbers with differences, their charts in pairs."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np

from dmcore.charts.numbers import number
from dmcore.math.bootstrap import interval
from dmcore.report.blocks import Block, Code, Missing, Numbers, Part, Said, Section, Shown
from dmcore.report.build import Report
from dmcore.report.escape import escape
from dmcore.report.html import block_html, contents, footer, heading, page, part_id, table_html
from dmcore.report.sections.tables import METRICS, texts
from dmcore.report.subject import Subject
from dmcore.words.names import l0_text
from dmcore.words.scaling import triple

CAPTION = (
    "Right less left, for the SAEs that the two reports are about. 95 % intervals: replicates of the bootstrap over contexts, "
    "taken row by row, so that two SAEs on the same contexts are paired; on different contexts the same difference is of "
    "independent samples."
)


def comparison_html(left: Report, right: Report) -> str:
    """Both reports in one document."""
    titles = [one.subject.published.title for one in (left, right)]
    numbers = differences(left.subject, right.subject)
    body = [
        f'<div class="pair"><div>{heading(left)}</div><div>{heading(right)}</div></div>',
        contents(left.sections),
        "<main>",
        f'<section><h2>How do their numbers differ?</h2><div class="table">{table_html(numbers)}</div>'
        f'<p class="caption">{escape(CAPTION)}</p></section>',
    ]
    others = {section.name: section for section in right.sections}
    for section in left.sections:
        other = others.pop(section.name, Section(section.name, section.title, ()))
        body.append(_beside(section, other))
    body += [_beside(Section(one.name, one.title, ()), one) for one in others.values()]
    body += ["</main>", f"<footer>{footer(left)}</footer>"]
    document = page(f"{titles[0]} and {titles[1]}", "\n".join(body))
    return document.replace("<body>", '<body class="wide">', 1)


def differences(left: Subject, right: Subject) -> Any:
    """Numbers of the two SAEs and what the right one has more, as a table of texts."""
    rows = []
    for metric, head in METRICS.items():
        a, b = left.record[metric], right.record[metric]
        draws = [
            one.summary.replicates[metric].to_numpy().astype(np.float64)
            if metric in one.summary.replicates.columns
            else np.empty(0)
            for one in (left, right)
        ]
        said = number(None if a is None or b is None else b - a)
        if a is not None and b is not None and len({d.size for d in draws}) == 1 and draws[0].size >= 20:
            found = interval(b - a, draws[1] - draws[0])
            said = number(found, found.low, found.high)
        cells = [number(*triple(one.record, metric)) for one in (left, right)]
        rows.append({"": head, "Left": cells[0], "Right": cells[1], "Right less left": said})
    for name, head in (("d_sae", "Width"), ("l0", "L0"), ("n_tokens", "Tokens"), ("n_contexts", "Contexts")):
        cells = [l0_text(v) if name == "l0" else f"{v:,}" for v in (left.record[name], right.record[name])]
        rows.append({"": head, "Left": cells[0], "Right": cells[1], "Right less left": ""})
    return texts(rows)


def _name(block: Block) -> tuple[str, str]:
    """What pairs two blocks: kind and name; sentences and what is missing are paired by their order."""
    if isinstance(block, Shown):
        return "chart", block.figure.name
    return (
        ("table", block.name)
        if isinstance(block, Numbers)
        else ("code", block.name)
        if isinstance(block, Code)
        else ("", "")
    )


def _is_said(block: Block, first: bool) -> bool:
    """Whether a block is a finding or something missing, which come first, or another sentence."""
    if isinstance(block, Said):
        return block.finding is first
    return first and isinstance(block, Missing)


def _beside(left: Section, right: Section) -> str:
    """A section of both, part by part; other choices of a chart are in each one's own report."""
    parts = [_parts(one) for one in (left, right)]
    made = [f'<section id="{left.name}"><h2>{escape(left.title)}</h2>']
    for title in dict.fromkeys([*parts[0], *parts[1]]):
        if title:
            made.append(f'<h3 id="{part_id(left.name, title)}">{escape(title)}</h3>')
        made.append(_pairs(*(one.get(title, []) for one in parts), f"{part_id(left.name, title)}"))
    return "\n".join([*made, "</section>"])


def _parts(section: Section) -> dict[str, list[Block]]:
    """Its blocks by the part that they are of; those before the first are of none."""
    found: dict[str, list[Block]] = {"": []}
    title = ""
    for block in section.blocks:
        if isinstance(block, Part):
            title = block.title
            found.setdefault(title, [])
        elif not (isinstance(block, Shown) and block.more):
            found[title].append(block)
    return found


def _pairs(left: list[Block], right: list[Block], prefix: str) -> str:
    """Blocks of both: sentences first, then pairs of charts and tables."""
    pairs: list[tuple[Block | None, Block | None]] = []
    for first in (True, False):
        own = [[block for block in one if _is_said(block, first)] for one in (left, right)]
        pairs.extend(zip_longest(*own))
    by_name = [{_name(b): b for b in one if not isinstance(b, Said | Missing)} for one in (left, right)]
    pairs += [(by_name[0].get(name), by_name[1].get(name)) for name in dict.fromkeys([*by_name[0], *by_name[1]])]
    cells = []
    for k, pair in enumerate(pairs):
        for side, block in zip(("a", "b"), pair, strict=True):
            cells.append(f"<div>{'' if block is None else block_html(block, f'{prefix}-{k}-{side}')}</div>")
    return f'<div class="pair">{"".join(cells)}</div>' if cells else ""
