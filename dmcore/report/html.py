"""A report as one HTML file: nothing in it is fetched, and no script runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from dmcore.report.blocks import Block, Code, Missing, Numbers, Part, Said, Section, Shown
from dmcore.report.build import Report, Told
from dmcore.report.escape import escape, inline
from dmcore.report.pictures import inline_svg
from dmcore.report.style import STYLE
from dmcore.words.names import plain, sae_phrase
from dmcore.words.sample import sample_words
from dmcore.words.streams import site_phrase

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LONG = 12
"""Rows up to which a table cannot be folded away."""
FOLDED = 60
"""Rows beyond which it is, until it is opened."""


def page(title: str, body: str) -> str:
    """A document around its body, which is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def report_html(report: Report, told: Told | None = None) -> str:
    """The whole report."""
    subject, drawn = report.subject, 0
    total = sum(len(list(section.of(Shown))) for section in report.sections)
    body = [heading(report), contents(report.sections), "<main>"]
    for section in report.sections:
        if told is not None:
            told(section.title, drawn, total)
        body.append(section_html(section, section.name))
        drawn += len(list(section.of(Shown)))
    body += ["</main>", f"<footer>{footer(report)}</footer>"]
    return page(f"{subject.published.title}: what its SAEs miss", "\n".join(body))


def contents(sections: Sequence[Section]) -> str:
    """Links to sections and their parts."""
    items = []
    for one in sections:
        parts = "".join(
            f'<li><a href="#{part_id(one.name, part.title)}">{escape(part.title)}</a></li>' for part in one.of(Part)
        )
        inner = f"<ul>{parts}</ul>" if parts else ""
        items.append(f'<li><a href="#{one.name}">{escape(one.title)}</a>{inner}</li>')
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def part_id(prefix: str, title: str) -> str:
    """The link of a part of a section."""
    return f"{prefix}-{''.join(c if c.isascii() and c.isalnum() else '-' for c in title.lower())}"


def heading(report: Report) -> str:
    """Title, study, model, sites, the SAE; and how much of the study is missing."""
    subject = report.subject
    published, records, model = subject.published, subject.published.records, subject.published.model
    sites = records["site"].unique(maintain_order=True).to_list()
    rows = {
        "Study": published.study_id,
        "Model": model if "/" in model or "(" in model else f"{model} (a folder beside the study file)",
        "Sites": ", ".join(sites),
        "SAEs": f"{len(records):,} with results",
        "This SAE": subject.record["sae"],
    }
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    where = f"{site_phrase(subject.record)} · {sae_phrase(subject.record)}"
    missing = ""
    if published.n_missing > 0:
        n = (
            "1 of the study's SAEs has"
            if published.n_missing == 1
            else f"{published.n_missing:,} of the study's SAEs have"
        )
        missing = block_html(Missing(f"{n} no result yet: run `python -m dmcore sweep {published.file}`."), "")
    return (
        f"<header><h1>{escape(published.title)}</h1><p>{inline(where[0].upper() + where[1:])}. "
        f"{inline(plain(sample_words(subject.record)))}</p><dl>{facts}</dl>{missing}</header>"
    )


def footer(report: Report) -> str:
    """What made the file."""
    file = escape(report.subject.published.file)
    return f"Made by dmcore, the dark-matter explorer: <code>python -m dmcore report {file} -o report.html</code>"


def section_html(section: Section, prefix: str) -> str:
    """A section; `prefix` begins the ids of its pictures."""
    made = []
    for first, blocks in folds(section.blocks):
        inner = "\n".join(block_html(block, f"{prefix}-{first + k}") for k, block in enumerate(blocks))
        if isinstance(blocks[0], Shown) and blocks[0].more:
            of = "Another choice" if len(blocks) == 1 else f"{len(blocks)} other choices"
            inner = f'<details class="more"><summary>{of} of this chart</summary>{inner}</details>'
        made.append(f'<h3 id="{part_id(prefix, blocks[0].title)}">{escape(blocks[0].title)}</h3>'
                    if isinstance(blocks[0], Part) else inner)  # fmt: skip
    return f'<section id="{prefix}"><h2>{escape(section.title)}</h2>\n' + "\n".join(made) + "\n</section>"


def folds(blocks: Sequence[Block]) -> Iterator[tuple[int, list[Block]]]:
    """Blocks one by one with their numbers; charts that are folded away, together."""
    group: list[Block] = []
    for k, block in enumerate(blocks):
        if isinstance(block, Shown) and block.more:
            group.append(block)
            continue
        if group:
            yield k - len(group), group
            group = []
        yield k, [block]
    if group:
        yield len(blocks) - len(group), group


def block_html(block: Block, prefix: str) -> str:
    """One block."""
    if isinstance(block, Part):
        return f"<h3>{escape(block.title)}</h3>"
    if isinstance(block, Said):
        return f'<p class="{"finding" if block.finding else "said"}">{inline(block.text)}</p>'
    if isinstance(block, Missing):
        return f'<p class="missing"><strong>Missing.</strong> {inline(block.text)}</p>'
    if isinstance(block, Code):
        return f"<h4>{escape(block.title)}</h4><pre>{escape(block.text)}</pre>"
    if isinstance(block, Numbers):
        return numbers_html(block)
    return figure_html(block, prefix)


def figure_html(block: Shown, prefix: str) -> str:
    """A chart under its question, over its caption."""
    figure = block.figure
    question = f"<h4>{inline(figure.question)}</h4>" if figure.question else ""
    if not len(figure.data()):
        return f'<figure>{question}<p class="missing">There are no rows for this chart.</p></figure>'
    svg = inline_svg(figure, prefix)
    caption = f"<figcaption>{inline(figure.caption.replace('$', ''))}</figcaption>"
    return f'<figure>{question}<div class="chart" tabindex="0">{svg}</div>{caption}</figure>'


def numbers_html(block: Numbers) -> str:
    """A table under its title; a long one can be folded away."""
    table = f'<div class="table" tabindex="0">{table_html(block.table)}</div>'
    caption = f'<p class="caption">{inline(block.caption)}</p>' if block.caption else ""
    if len(block.table) <= LONG:
        return f"<h4>{escape(block.title)}</h4>{table}{caption}"
    head = f"<h4>{escape(block.title)}</h4> {len(block.table):,} rows"
    shown = " open" if len(block.table) <= FOLDED else ""
    return f"<details{shown}><summary>{head}</summary>{table}{caption}</details>"


def table_html(table: pl.DataFrame) -> str:
    """Every cell is text; the first of a row is its head, and stays in sight as the rest is scrolled sideways."""
    if not len(table):
        return "<p>There are no rows.</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(k, cell) for k, cell in enumerate(row))}</tr>\n" for row in table.rows())
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"


def _cell(k: int, cell: str) -> str:
    text = escape(cell)
    if not k:
        return f'<th scope="row" class="long">{text}</th>' if len(cell) > 30 else f'<th scope="row">{text}</th>'
    return f'<td class="long">{text}</td>' if len(cell) > 60 else f"<td>{text}</td>"
