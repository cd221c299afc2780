"""The tables and pictures of a report as a zip: the same results are the same bytes."""

from __future__ import annotations

import io
import zipfile

import polars as pl

from dmcore.charts import picture
from dmcore.legible import visible
from dmcore.report.blocks import Code, Numbers, Shown
from dmcore.report.build import Report, Told
from dmcore.report.escape import unmarked

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every file: that of a day would make another archive of the same results."""


def archive(report: Report, told: Told | None = None) -> bytes:
    """A zip of every table as Parquet, every chart as SVG and its table as Parquet, the study file, and a README."""
    published = report.subject.published
    lines = [
        visible(published.title),
        f"Study {published.study_id}; charts of single SAEs: {visible(report.subject.record['sae'])}",
        "",
        "tables/*.parquet   tables of the report, unrounded; <name>, <name>_low, <name>_high: a number and its 95 % interval",
        "charts/*.svg       charts with their captions, other choices among them",
        "charts/*.parquet   the table that each chart draws",
        "study.toml         the study file",
        "commands.txt       what makes the results again",
        "",
    ]
    files: dict[str, bytes] = {}
    drawn, total = 0, sum(len(list(section.of(Shown))) for section in report.sections)
    for section in report.sections:
        if told is not None:
            told(f"Tables and pictures of: {section.title}", drawn, total)
        drawn += len(list(section.of(Shown)))
        lines += [section.title, ""]
        for block in section.blocks:
            if isinstance(block, Numbers):
                table = block.table if block.data is None else block.data
                name = _fresh(files, f"tables/{block.name}", ".parquet")
                files[name] = _parquet(table)
                lines += [f"{name}: {block.title}. {unmarked(block.caption)}".rstrip()]
            elif isinstance(block, Shown) and len(block.figure.data()):
                figure = block.figure
                name = _fresh(files, f"charts/{figure.name}", ".svg")
                caption = unmarked(figure.caption)
                files[name] = picture.svg(figure.chart(), figure.question, caption)
                files[name.removesuffix(".svg") + ".parquet"] = _parquet(figure.data())
                lines += [f"{name}: {unmarked(figure.question)} {caption}"]
            elif isinstance(block, Code):
                name = {"study": "study.toml"}.get(block.name, f"{block.name}.txt")
                files[name] = block.text.encode("utf-8", "replace")
        lines += [""]
    files["README.txt"] = "\n".join(map(visible, lines)).encode()
    return _zipped(files)


def _fresh(files: dict[str, bytes], stem: str, ending: str) -> str:
    """A name that no file has yet."""
    name, k = f"{stem}{ending}", 2
    while name in files:
        name, k = f"{stem}_{k}{ending}", k + 1
    return name


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            made.writestr(info, files[name])
    return buffer.getvalue()
