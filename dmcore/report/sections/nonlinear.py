"""What lives in the nonlinear error: SAEs on the parts, what a wider SAE has already, structure, detection."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from dmcore.charts.parts import training_table
from dmcore.charts.seeds import seeds_table
from dmcore.figures import detection as detection_figures
from dmcore.figures import parts as parts_figures
from dmcore.figures import structure as structure_figures
from dmcore.figures.features import scatter_figure
from dmcore.figures.learned import learned_figure
from dmcore.report.blocks import Block, Missing, Numbers, Section, Shown, choices, not_made, part, said
from dmcore.report.sections.tables import estimates, formatted, texts
from dmcore.report.subject import Subject
from dmcore.results import Detection, Parts, Structure
from dmcore.results.detection import scorers_of
from dmcore.results.learned import SAME
from dmcore.results.structure import CLUSTERED_PARTS
from dmcore.words import detection as detection_words
from dmcore.words import parts as parts_words
from dmcore.words.features import features_finding, shown_rows
from dmcore.words.learned import learned_finding, shares_shown
from dmcore.words.names import plain
from dmcore.words.structure import (
    alignment_rows,
    clusters_sentence,
    latent_names,
    parts_rows,
    structure_finding,
)

FEW = 30
"""Latents of an SAE in the report's table; the archive has all that fire."""
FEATURE_HEADS = {
    "latent": ("Latent", ""),
    "frequency": ("Tokens", "%.3f %%"),
    "mean_active": ("Mean", "%.2f"),
    "max_active": ("Largest", "%.2f"),
    "nonlinear_share": ("On high error", "%.0f %%"),
    "nonlinear_r": ("Correlation", "%.2f"),
    "token": ("Fires on", ""),
    "promotes": ("Promotes", ""),
    "base_cosine": ("In base", "%.2f"),
    "widest_cosine": ("In widest", "%.2f"),
}
FEATURE_WORDS = (
    "Tokens: share on which it is active. On high error: share of its activation on the tenth of tokens with the largest "
    "nonlinear error, 10 % by chance. Correlation: with the norm of the nonlinear error. In base, in widest: largest cosine "
    "with a decoder row of the base SAE and of the site's widest. A space is ·, a line break ↵."
)
DETECTION_HEADS = {
    "latent": ("Latent", ""),
    "balanced_accuracy": ("Balanced accuracy", "%.0f %%"),
    "balanced_accuracy_low": ("95 % from", "%.0f %%"),
    "balanced_accuracy_high": ("95 % to", "%.0f %%"),
    "auc": ("AUC", "%.2f"),
    "pattern_balanced_accuracy": ("Best pattern alone", "%.0f %%"),
    "explanation": ("Best pattern, or explanation", ""),
}


def section(subject: Subject) -> Section:
    """Make the section."""
    parts = subject.published.parts(subject.key)
    blocks = [
        *part("SAEs on the parts", _parts(subject, parts)),
        *part("Features", _features(subject, parts)),
        *part("Not yet learned?", _learned(subject, parts)),
        *part("Structure of the error", _structure(subject)),
        *part("Detection scores", _detection(subject, parts)),
    ]
    return Section("nonlinear", "What lives in the nonlinear error?", tuple(blocks))


def _parts(subject: Subject, parts: Parts | None) -> list[Block]:
    if parts is None:
        return [
            Missing(
                "No SAEs have been trained on the parts of this SAE's error: add a [parts] table with it as base to the study, "
                f"run `python -m dmcore train-saes {subject.published.file} --parts`, and sweep it again."
            )
        ]
    key = (subject.key, parts.folder.name)
    blocks: list[Block] = [
        *said(parts_words.parts_finding(parts), finding=True),
        Shown(parts_figures.parts_figure(parts, key)),
        *said(parts_words.harder_sentence(parts)),
    ]
    means = parts["means"].with_columns(pl.col("part").replace(parts_words.NAMES))
    table = estimates(means, {"part": "SAEs on"}, {"fvu": "FVU, mean of the seeds"})
    blocks.append(
        Numbers("parts_means", "SAEs on the parts", table, "95 % intervals over contexts, not over seeds.", means)
    )
    if len(training_table(parts["curves"])):
        blocks.append(Shown(parts_figures.training_figure(parts, key)))
    if len(seeds_table(parts["stability"]).filter(pl.col("value").is_not_null())):
        blocks.append(Shown(parts_figures.seeds_figure(parts, key)))
    return [*blocks, *said(plain(parts.about["note"]))]


def _features(subject: Subject, parts: Parts | None) -> list[Block]:
    """All latents of this SAE, and of those on the parts that have been looked into."""
    trained = [] if parts is None else zip(parts["saes"].to_dicts(), parts.about["entries"], strict=True)
    places: list[tuple[str, str, str | None]] = [("", "x", None)]
    places += [(f"{row['part']}_{row['seed']}", row["part"], entry) for row, entry in trained]
    blocks: list[Block] = []
    for name, part_name, entry in places:
        features = subject.published.features(subject.key, entry)
        if features is None:
            command = f"features {subject.published.file} {subject.sae}"
            blocks += [] if entry else [not_made("The features of this SAE have", command)]
            continue
        whose = f"SAE on {parts_words.NAMES[part_name]}, seed {name.split('_')[-1]}" if entry else "This SAE"
        blocks += said(f"{whose}: {plain(features_finding(features))}" if entry else plain(features_finding(features)),
                       finding=not entry)  # fmt: skip
        if not features.about["n_alive"]:
            continue
        figure = scatter_figure(features, (features.folder.name,), part_name)
        blocks.append(Shown(replace(figure, name=f"features_{name or 'own'}", caption=f"{whose}. {figure.caption}")))
        latents = features.latents.filter(pl.col("n_active") > 0).sort("frequency", descending=True).collect()
        table = texts(
            {head: formatted(row[column], form) for column, (head, form) in FEATURE_HEADS.items() if column in row}
            for row in shown_rows(features, latents.head(FEW)).to_dicts()
        )
        blocks.append(
            Numbers(f"features_{name or 'own'}", f"{whose}: the {len(table)} latents that fire most often", table, FEATURE_WORDS,
                    shown_rows(features, latents))
        )  # fmt: skip
    return blocks


def _learned(subject: Subject, parts: Parts | None) -> list[Block]:
    if parts is None:
        return []
    learned = subject.published.learned(subject.key, parts)
    if learned is None:
        return [
            not_made("The comparison of those SAEs' latents with wider SAEs has", f"sweep {subject.published.file}")
        ]
    found = said(learned_finding(learned), finding=True)
    if learned.latents["cosine"].null_count() == len(learned.latents):
        return found
    shares = shares_shown(learned)
    table = texts(
        {"SAEs on": row["SAEs on"], "compared with": row["compared with"], f"Same direction (cosine ≥ {SAME})": row["same"],
         "Above 95 % of random directions": row["above_random"], "Median cosine": formatted(row["median_cosine"], "%.2f")}
        for row in shares.to_dicts()
    )  # fmt: skip
    caption = "Shares of the latents that fire: mean of the seeds, and the least and the most of them."
    return [
        *found,
        Shown(learned_figure(learned, (learned.key,))),
        Numbers("learned_shares", "Latents that another dictionary has", table, caption, learned.shares()),
    ]


def _structure(subject: Subject) -> list[Block]:
    structure = subject.published.structure(subject.key)
    if structure is None:
        command = f"structure {subject.published.file} {subject.sae}"
        return [not_made("The directions and clusters of this SAE's error have", command)]
    key = (structure.folder.name,)
    caption = (
        f"95 % intervals: jackknife over {structure.about['n_groups']} groups of contexts, the linear maps held fixed. "
        f"n = {structure.about['n_tokens']:,} tokens in {structure.about['n_contexts']:,} contexts."
    )
    blocks: list[Block] = [
        *said(structure_finding(structure), finding=True),
        Shown(structure_figures.spectrum_figure(structure, key)),
        Numbers("structure_parts", "Directions that a part takes", parts_rows(structure), caption, structure["parts"]),
        Shown(structure_figures.halves_figure(structure, key)),
        Numbers("structure_alignment", f"Share of variance in the first {structure.compared_k} directions",
                alignment_rows(structure), caption, structure["alignment"]),
    ]  # fmt: skip
    if len(structure["silhouettes"]):
        blocks.append(Shown(structure_figures.silhouettes_figure(structure, key)))
        blocks += said(*(plain(clusters_sentence(structure, name)) for name in CLUSTERED_PARTS))
    there = [name for name in CLUSTERED_PARTS if structure.chosen_k(name) is not None]
    blocks += choices(structure_figures.clusters_figure(structure, key, name) for name in reversed(there))
    remarks = structure["remarks"]["text"].unique(maintain_order=True)
    return [*blocks, *_lifts(subject, structure, key), *said(*map(plain, remarks))]


def _lifts(subject: Subject, structure: Structure, key: tuple[str, ...]) -> list[Block]:
    blocks: list[Block] = []
    if structure.about["least_share"] is not None:
        features = subject.published.features(subject.key, None)
        names = latent_names(structure, features)
        if len(structure["latents"]):
            blocks.append(Shown(structure_figures.latents_figure(structure, key, features, names)))
        for by, question in (("class", "Which kinds of token?"), ("position", "Which positions?")):
            figure = structure_figures.groups_figure(structure, key, by, question)
            blocks += [Shown(figure)] if len(figure.data()) else []
    return blocks


def _detection(subject: Subject, parts: Parts | None) -> list[Block]:
    found = subject.published.detections(subject.key)
    on_parts = detection_words.of_parts(found, parts)
    found = [one for one in found if one.about["part"] is None] + on_parts
    if not found:
        command = f"detect {subject.published.file} {'--parts' if parts is not None else subject.sae}"
        return [not_made("Detection scores of these latents have", command)]
    blocks: list[Block] = []
    for scorer in scorers_of(found):
        own = detection_words.scored_by(found, scorer)
        told = detection_words.of_parts(own, parts)
        blocks += said(detection_words.detection_finding(own, parts, scorer), finding=True)
        if told:
            blocks += [
                Shown(detection_figures.parts_figure(told, scorer)),
                *said(detection_words.harder_sentence(told)),
            ]
            blocks.append(Shown(detection_figures.deciles_figure(told, scorer)))
        blocks += [Shown(detection_figures.own_figure(one, scorer)) for one in own if one.about["part"] is None]
        blocks += [_latents(one) for one in own]
        blocks += said(detection_words.HOW.get(scorer, ""))
    return blocks


def _latents(one: Detection) -> Numbers:
    """The latents that were scored, the best told first."""
    about = one.about
    whose = (
        f"SAE on {parts_words.NAMES[about['part_name']]}, seed {about['train_seed']}" if about["part"] else "This SAE"
    )
    name = f"{about['part_name']}_{about['train_seed']}" if about["part"] else "own"
    rows = detection_words.latent_rows(one)
    table = texts(
        {head: formatted(row[column], form) for column, (head, form) in DETECTION_HEADS.items() if column in row}
        for row in rows.head(FEW).to_dicts()
    )
    caption = f"95 % intervals over the latent's windows. {detection_words.sample_of([one])}"
    return Numbers(f"detection_{name}", f"{whose}: the {len(table)} latents that are told best", table, caption, rows)
