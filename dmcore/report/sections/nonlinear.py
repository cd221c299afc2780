"""What lives in the nonlinear error: SAEs on the parts, what a wider SAE has already, structure, detection."""

from __future__ import annotations

import polars as pl

from dmcore.charts.parts import training_table
from dmcore.charts.seeds import seeds_table
from dmcore.figures import detection as detection_figures
from dmcore.figures import parts as parts_figures
from dmcore.figures import structure as structure_figures
from dmcore.figures.learned import learned_figure
from dmcore.report.blocks import Block, Missing, Numbers, Section, Shown, not_made, said
from dmcore.report.sections.tables import estimates, formatted, texts
from dmcore.report.subject import Subject
from dmcore.results import Parts, Structure
from dmcore.results.detection import scorers_of
from dmcore.results.learned import SAME
from dmcore.results.structure import CLUSTERED_PARTS
from dmcore.words import detection as detection_words
from dmcore.words import parts as parts_words
from dmcore.words.learned import learned_finding, shares_shown
from dmcore.words.names import plain
from dmcore.words.structure import (
    alignment_rows,
    clusters_sentence,
    latent_names,
    parts_rows,
    structure_finding,
)


def section(subject: Subject) -> Section:
    """Make the section."""
    parts = subject.published.parts(subject.key)
    blocks = [*_parts(subject, parts), *_learned(subject, parts), *_structure(subject), *_detection(subject, parts)]
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
        blocks += said(*(plain(clusters_sentence(structure, part)) for part in CLUSTERED_PARTS))
    return [*blocks, *_lifts(subject, structure, key)]


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
    return blocks
