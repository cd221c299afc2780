"""Where the numbers are from: formulae, study file, versions, seeds, and the commands that make them again."""

from __future__ import annotations

import polars as pl

from dmcore.report.blocks import Block, Code, Numbers, Section, said
from dmcore.report.sections.tables import texts
from dmcore.report.subject import Subject
from dmcore.store.manifest import Manifest
from dmcore.store.published import index_of

FORMULAE = (
    ("Error", "e = x − Sae(x)", "of every token kept"),
    ("Linear error", "ê = x W + b", "least squares of e on x, or ridge, fitted on the other folds of contexts"),
    ("Nonlinear error", "e − ê", "the rest; the two add up to e at every token"),
    ("FVU", "Σ|e|² / Σ|x − mean x|²", "pooled over tokens and dimensions"),
    ("Nonlinear FVU", "Σ|e − ê|² / Σ|x − mean x|²", "pooled"),
    ("R² of vector, pooled", "1 − Σ|e − ê|² / Σ|e − mean e|²", "pooled"),
    ("R² of vector, mean over dims", "mean over dimensions of 1 − Σ(e − ê)² / Σ(e − mean e)²", "the paper's aggregate"),
    ("R² of squared norm", "1 − Σ(|e|² − p)² / Σ(|e|² − mean |e|²)²", "p: |e|² predicted by a linear map of x, held out"),
    ("Power law", "FVU(W) = c + a W⁻ᵐ", "least squares over SAEs of one L0, a width each"),
    ("Recovered of Sae(x)'s cost", "1 − (CE − CE_clean) / (CE_sae − CE_clean)", "CE: cross-entropy of the next token"),
    ("Interval", "2.5 % to 97.5 % of 1,000 replicates", "Poisson bootstrap over contexts, the same draws for every SAE, so that "
     "differences are paired"),
)  # fmt: skip


def section(subject: Subject) -> Section:
    """Make the section."""
    file, record = subject.published.file, subject.record
    parts = "\n[parts]" in subject.study_text
    commands = [
        f"python -m dmcore sweep {file}",
        *(
            [f"python -m dmcore train-saes {file} --parts", f"python -m dmcore sweep {file}"]
            if parts and file != "demo"
            else []
        ),
        f"python -m dmcore scaling {file}",
        *([f"python -m dmcore parts {file}"] if parts else []),
        f"python -m dmcore structure {file} {subject.sae}",
        f"python -m dmcore detect {file} {'--parts' if parts else subject.sae}",
        f"python -m dmcore reduce {file}",
        f"python -m dmcore downstream {file}",
        f"python -m dmcore shrinkage {file} {subject.sae}",
        f"python -m dmcore controls {file} {subject.sae}",
        f"python -m dmcore report {file} --sae {subject.sae} -o report.html --tables report.zip",
    ]
    formulae = texts({"Number": name, "Formula": formula, "Aggregate": more} for name, formula, more in FORMULAE)
    made = Numbers("versions", "Made by", _versions(subject), f"Seed of the study: {record['seed']}. Each stage keeps its own "
                   "manifest in the cache, with a checksum for every file.")  # fmt: skip
    blocks: list[Block] = [
        Numbers("formulae", "Formulae", formulae),
        made,
        Code("commands", "The commands that make it again", "\n".join(commands) + "\n"),
        *said("Run where the study file is; what is there already is not made again."),
        Code("study", "The study file", subject.study_text),
    ]
    return Section("origin", "How were these numbers made?", tuple(blocks))


def _versions(subject: Subject) -> pl.DataFrame:
    store = subject.published.store
    index = index_of(subject.study_id, store)
    summary, rows = store.find("summary", subject.key), []
    for what, entry in (("index of the study", index), ("numbers of the SAE", summary)):
        if entry is not None:
            rows.append(
                {"Result": what, "Key": entry.key, "Commit of dmcore": entry.manifest.commit or "not known"}
                | libraries(entry.manifest)
            )
    return texts(rows)


def libraries(manifest: Manifest) -> dict[str, str]:
    """Versions of the libraries that made an entry, in one cell."""
    return {"Versions": ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))}
