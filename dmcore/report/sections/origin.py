"""Where the numbers are from: formulae, study file, versions, seeds, and the commands that make them again."""

from __future__ import annotations

from collections.abc import Iterable

from dmcore.errors import StoreError
from dmcore.report.blocks import Block, Code, Numbers, Section, part, said
from dmcore.report.sections.tables import texts
from dmcore.report.subject import Subject
from dmcore.store.manifest import Manifest, read_manifest
from dmcore.store.published import SUMMARY, index_of

FORMULAE = (
    ("Error", "e = x − Sae(x)", "of every token kept"),
    ("Linear error", "ê = x W + b", "least squares of e on x, or ridge, fitted on the other folds of contexts"),
    ("Nonlinear error", "e − ê", "the rest; the two add up to e at every token"),
    ("FVU", "Σ|e|² / Σ|x − mean x|²", "pooled over tokens and dimensions"),
    ("Nonlinear FVU", "Σ|e − ê|² / Σ|x − mean x|²", "pooled"),
    ("R² of vector, pooled", "1 − Σ|e − ê|² / Σ|e − mean e|²", "pooled"),
    ("R² of vector, mean over dims", "mean over dimensions of 1 − Σ(e − ê)² / Σ(e − mean e)²", "the paper's aggregate"),
    ("R² of squared norm", "1 − Σ(|e|² − p)² / Σ(|e|² − mean |e|²)²", "p: |e|² predicted by a linear map of x, held out"),
    ("Bias of held-out least squares", "−d / (n − d − 1)", "R² of pure noise: d dimensions, n training tokens"),
    ("Power law", "FVU(W) = c + a W⁻ᵐ", "least squares over SAEs of one L0, a width each"),
    ("Recovered of Sae(x)'s cost", "1 − (CE − CE_clean) / (CE_sae − CE_clean)", "CE: cross-entropy of the next token"),
    ("Share of its own R² (transfer)", "R² of the map fitted elsewhere / R² of that fitted there", "both held out by context"),
    ("Interval", "2.5 % to 97.5 % of 1,000 replicates", "Poisson bootstrap over contexts, the same draws for every SAE, so that "
     "differences are paired"),
)  # fmt: skip
NAMES = {
    "index": "index of the study",
    "summary": "numbers of an SAE",
    "scaling": "comparison of a site",
    "parts": "SAEs on the parts",
    "features": "features",
    "learned": "latents known already",
    "structure": "structure of the error",
    "detection": "detection scores",
    "reduction": "methods",
    "downstream": "cost to the model",
    "shrinkage": "shrinkage",
    "transfer": "transfer",
    "controls": "controls",
    "synthetic": "planted errors",
    "ground-truth": "known features",
}
"""Of stages, in the order of the pages."""


def section(subject: Subject) -> Section:
    """Make the section: the last, so that every other one has read what it reads."""
    formulae = texts({"Number": name, "Formula": formula, "Aggregate": more} for name, formula, more in FORMULAE)
    blocks: list[Block] = [
        *part("Formulae", [Numbers("formulae", "What each number is", formulae)]),
        *part("Commands", [
            Code("commands", "The commands that make it again", "\n".join(commands(subject)) + "\n"),
            *said("Run where the study file is; what is there already is not made again."),
        ]),
        *part("Results and versions", [made_by(subject)]),
        *part("The study file", [Code("study", "The study file", subject.study_text)]),
    ]  # fmt: skip
    return Section("origin", "How were these numbers made?", tuple(blocks))


def commands(subject: Subject) -> list[str]:
    """What makes everything of the report again, in an order that works."""
    file, sae = subject.published.file, subject.sae
    parts = "\n[parts]" in subject.study_text
    train = [f"train-saes {file} --parts", f"sweep {file}"] if parts and file != "demo" else []
    lines = [
        f"sweep {file}",
        *train,
        f"scaling {file}",
        *([f"parts {file}"] if parts else []),
        f"features {file} {sae}",
        f"structure {file} {sae}",
        f"detect {file} {sae}",
        *([f"detect {file} --parts"] if parts else []),
        f"reduce {file}",
        f"downstream {file}",
        f"shrinkage {file} {sae}",
        f"transfer {file} {sae}",
        f"controls {file} {sae}",
        f"synthetic {file} {sae}",
        "synthetic --ground-truth",
        f"claims {file}",
        f"report {file} --sae {sae} -o report.html --tables report.zip",
    ]
    return [f"python -m dmcore {line}" for line in lines]


def made_by(subject: Subject) -> Numbers:
    """Every entry that the report reads: what it is, key, date, seconds, commit and versions."""
    published = subject.published
    index = index_of(subject.study_id, published.store)
    manifests = [] if index is None else [index.manifest]
    summaries = [published.store.folder(SUMMARY, key) for key in published.records["summary_key"]]
    for folder in dict.fromkeys([*summaries, *published.entries]):
        try:
            manifests.append(read_manifest(folder))
        except StoreError:
            continue
    order = list(NAMES)
    manifests.sort(key=lambda one: order.index(one.stage) if one.stage in order else len(order))
    saes = dict(published.records.select("summary_key", "sae").rows())
    sets = list(dict.fromkeys(libraries(one) for one in manifests))
    rows = texts(
        {
            "Result": NAMES.get(one.stage, one.stage),
            "Of": subject_of(one, saes),
            "Key": one.key,
            "Made (UTC)": one.created[:16].replace("T", " "),
            "Seconds": f"{one.seconds:,.1f}",
            "Version": str(one.spec.get("version", "")),
            "Commit": one.commit or "not known",
            "Libraries": letter(sets.index(libraries(one))),
        }
        for one in manifests
    )
    told = " ".join(f"{letter(k)}: {one}." for k, one in enumerate(sets))
    caption = (
        f"{len(rows):,} results; each is a folder of the cache with a manifest and a checksum for every file. Seed of the study: "
        f"{subject.record['seed']}. Seconds: time that making it took, without what it was made from. Version: of what the stage "
        f"computes. Libraries {told}"
    )
    return Numbers("versions", "Made by", rows, caption)


def letter(number: int) -> str:
    """A, B, ... of a set of versions."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def subject_of(manifest: Manifest, saes: dict[str, str]) -> str:
    """The SAE, site or study that a result is of."""
    spec = manifest.spec
    sae = spec.get("sae")
    members = spec.get("members")
    found = (
        saes.get(manifest.key)
        or saes.get(str(spec.get("summary")))
        or spec.get("site")
        or (spec.get("name") if manifest.stage == "index" else None)
        or (sae.get("path") or sae.get("id") if isinstance(sae, dict) else sae)
        or (f"{len(members)} members" if isinstance(members, Iterable) and not isinstance(members, str) else "")
    )
    return str(found or "")


def libraries(manifest: Manifest) -> str:
    """Versions of the libraries that made an entry."""
    return ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
