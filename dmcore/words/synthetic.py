"""What the page Synthetic says in sentences, made from the numbers: how often the truth is in the interval, and where not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dmcore.charts.numbers import percent
from dmcore.results.agreement import MEANT, agreement_by, could_be_meant, less_price, n_samples, with_agreement
from dmcore.results.synthetic import INGREDIENTS, NOISES, SPLIT, GroundTruth, Planted
from dmcore.words.names import listed
from dmcore.words.scaling import triple

INGREDIENT_NAMES = {
    "density": "Active features a token",
    "absent": "Features that the SAE lacks",
    "dense": "Dense part",
    "circles": "Circles",
    "introduced": "Spurious activity",
    "shrinkage": "Shrinkage",
    "tokens": "Tokens a dimension",
}
"""Of the grid of known features."""
CELL_NAMES = {"noise": "Noise", "ablated": "Latents taken out", "on_acts": "Noise on x", "on_recon": "Noise on Sae(x)"}
"""Of the grid of an SAE."""
FAR = 0.05
"""An estimate whose median is off by more than this share of the truth is said to be too large or too small."""


def level_text(name: str, level: Any) -> str:
    """A level of an ingredient: `8`, `50 %`, `1,024`, `Gaussian noise`."""
    if name == "noise":
        return NOISES[level]
    if name in ("density", "tokens"):
        return f"{level:,.0f}"
    if name in ("on_acts", "on_recon"):
        return f"{level:g} ×"
    return f"{100 * level:g} %"


def levels_texts(table: pl.DataFrame, names: Sequence[str]) -> dict[str, list[str]]:
    """The levels of each ingredient that a table has, ascending, as texts."""
    return {name: [level_text(name, v) for v in table[name].unique().sort()] for name in names}


def inside_sentence(table: pl.DataFrame, what: str) -> str:
    """In how many settings the interval holds the truth, as it is and less the cost of the fit; `what`: what they are."""
    raw, less = _shares_inside(table), _shares_inside(less_price(table))
    if raw is None or less is None:
        return ""
    return (
        f"Of {len(table):,} {what}, {_samples_words(n_samples(table))}, the 95 % interval holds the truth of the linear error "
        f"in {raw[0]}, of the nonlinear error in {raw[1]}; with the known cost of fitting a map taken off, in {less[0]} and "
        f"{less[1]}."
    )


def _samples_words(n: int) -> str:
    return "all on one sample of tokens" if n == 1 else f"on {n:,} distinct samples of tokens"


def _shares_inside(table: pl.DataFrame) -> tuple[str, str] | None:
    judged = with_agreement(table)
    shares = [judged[f"{part}_inside"].mean() for part in SPLIT]
    if None in shares:
        return None
    linear, nonlinear = (f"{100 * float(share):.0f} %" for share in shares)  # type: ignore[arg-type]
    return linear, nonlinear


def regimes(table: pl.DataFrame, names: Mapping[str, str]) -> list[str]:
    """The levels of ingredients at which estimates are off, in words, the worst first; empty where there are none.

    Args:
        table: settings, with truths and estimates.
        names: of the ingredients, by column.

    Off: an interval holds the truth too seldom to be one of 95 %, given how few distinct samples of tokens the level has
    (`could_be_meant`), or the median estimate is off by more than `FAR`. Where every level of an ingredient is off in the first
    way the ingredient is not why, and one line says so.
    """
    found = []
    by_case: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, row, part in _levels(table, names):
        by_case.setdefault((name, part), []).append(row)
    for (name, part), rows in by_case.items():
        wrong = [row for row in rows if _wrong(row, part)]
        far = [row for row in rows if row[f"{part}_ratio"] is not None and abs(row[f"{part}_ratio"] - 1) > FAR]
        if len(wrong) == len(rows) and not far:
            found.append((_worst(rows, part), f"at every level of {_lower(names[name])} {_all_off(rows, part)}"))
            continue
        for row in (row for row in rows if row in wrong or row in far):
            text = f"at {_lower(names[name])} = {level_text(name, row['level'])} the {part} error"
            found.append((_worst([row], part), f"{text} {_off(row, part, row in far)}"))
    return [text for _, text in sorted(found, key=lambda pair: pair[0])]


def _wrong(row: Mapping[str, Any], part: str) -> bool:
    return row[f"{part}_inside"] is not None and not could_be_meant(row[f"{part}_inside"], row["samples"])


def _worst(rows: Sequence[Mapping[str, Any]], part: str) -> float:
    return min((row[f"{part}_inside"] for row in rows if row[f"{part}_inside"] is not None), default=1.0)


def _off(row: Mapping[str, Any], part: str, far: bool) -> str:
    ratio, on = row[f"{part}_ratio"], _on(row["samples"])
    if far:
        return f"is estimated {abs(100 * (ratio - 1)):.0f} % too {'large' if ratio > 1 else 'small'} (median; {on})"
    return f"has its truth in the interval in {100 * (row[f'{part}_inside'] or 0.0):.0f} % ({on})"


def _all_off(rows: Sequence[Mapping[str, Any]], part: str) -> str:
    shares = [100 * row[f"{part}_inside"] for row in rows]
    on = _on(min(row["samples"] for row in rows))
    return f"the {part} error has its truth in the interval in {min(shares):.0f} to {max(shares):.0f} % ({on} a level)"


def _on(samples: int) -> str:
    return f"{samples:,} distinct sample{'s' if samples > 1 else ''} of tokens"


OFF_WORDS = (
    "Off: intervals hold the truth so seldom that the upper end of the share's 95 % Wilson interval, with distinct samples of "
    "tokens as n, is below 95 %; or the median of estimate / truth is more than 5 % from 1. Many levels are looked at: about one "
    "in forty is named by chance."
)
"""What `regimes` names."""


def unsure_sentence(table: pl.DataFrame, names: Mapping[str, str]) -> str:
    """At how many levels the interval holds the truth in fewer than 95 %, but of too few samples to tell."""
    rows = [(row["samples"], row[f"{part}_inside"]) for _, row, part in _levels(table, names)]
    few = [n for n, inside in rows if inside is not None and inside < MEANT and could_be_meant(inside, n)]
    if not few:
        return ""
    if max(few) == 1:
        return "All of this is on one sample of tokens: how often the interval would hold the truth on others cannot be told."
    span = f"{min(few):,}" if min(few) == max(few) else f"{min(few):,} to {max(few):,}"
    return (
        f"Elsewhere ({len(few)} of {len(rows)} levels of an ingredient and parts) fewer than 95 % of the intervals hold the "
        f"truth too, but on only {span} distinct samples of tokens: whether that is chance cannot be told."
    )


def _levels(table: pl.DataFrame, names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each ingredient that has several levels, each of its levels, each part."""
    for name in names:
        rows = agreement_by(table, name)
        if len(rows) > 1:
            yield from ((name, row, part) for row in rows.to_dicts() for part in SPLIT)


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


def regimes_sentence(table: pl.DataFrame, names: Mapping[str, str], where: str = "", most: int = 2) -> str:
    """The regimes in which estimates are off, as a sentence; `where` it looked, if that is not all of the grid."""
    found = regimes(table, names)
    if not found:
        return ""
    more = f"; {len(found) - most} more below" if len(found) > most else ""
    return f"Off{where}: {'; '.join(found[:most])}{more}."


def noise_sentence(found: Planted, noise: str) -> str:
    """How much of noise on x is linear at all, by the best map: what is put in x is not what is called linear."""
    rows = found["cells"].filter(noise=noise, ablated=0.0, on_acts=1.0, on_recon=0.0)
    if rows.is_empty() or not rows["truth_fvu"][0]:
        return ""
    row = rows.row(0, named=True)
    share = row["truth_linear"] / row["truth_fvu"]
    return (
        f"Noise added to x that is as strong as this SAE's error is only {100 * share:.0f} % linear even by the best map: x does "
        "not tell it from its features. Noise added to Sae(x) is all nonlinear."
    )


def cost_sentence(found: Planted) -> str:
    """What the fit costs, and by how much an estimate is off at most."""
    cells = found["cells"]
    off = max((float((cells[part] - cells[f"truth_{part}"]).abs().max() or 0.0) for part in SPLIT), default=0.0)  # type: ignore[arg-type]
    price = cells["price"].drop_nulls()
    if price.is_empty():
        return ""
    return (
        f"That cost is {100 * price[0]:.1f} % of the nonlinear error, on {found.about['sample_tokens']:,} tokens; no estimate is "
        f"off by more than {100 * off:.1f} % of the variance of x."
    )


def planted_finding(found: Planted, noise: str) -> tuple[str, str]:
    """The sentences that the view of an SAE opens with, and those below them."""
    return noise_sentence(found, noise), " ".join(
        filter(None, (inside_sentence(found["cells"], "planted errors"), cost_sentence(found)))
    )


def known_finding(found: GroundTruth) -> tuple[str, str]:
    """The sentences that the view of known features opens with, where tokens are many; and below them, where it is off."""
    settings = found["settings"]
    if settings.is_empty():
        return "", ""
    counts = settings["tokens"].unique().sort().to_list()
    most = settings.filter(pl.col("tokens") == counts[-1])
    others = {name: title for name, title in INGREDIENT_NAMES.items() if name != "tokens"}
    many = f"settings with {counts[-1]:,.0f} tokens a dimension"
    off = (
        fewer_sentence(settings, counts),
        regimes_sentence(most, others, f" even with {counts[-1]:,.0f} tokens a dimension")
        or f"With {counts[-1]:,.0f} no level of another ingredient is off beyond doubt. {unsure_sentence(most, others)}".strip(),
    )
    return inside_sentence(most, many), " ".join(filter(None, off))


def fewer_sentence(settings: pl.DataFrame, counts: Sequence[float]) -> str:
    """What fewer tokens do to the estimate of the nonlinear error."""
    said = []
    for row in agreement_by(settings, "tokens").to_dicts():
        ratio = row["nonlinear_ratio"]
        if row["level"] != counts[-1] and ratio is not None:
            side = "large" if ratio > 1 else "small"
            said.append(f"{abs(100 * (ratio - 1)):.1f} % too {side} with {row['level']:,.0f}")
    return f"Where tokens are fewer the nonlinear error is estimated {listed(said)} (medians)." if said else ""


def setting_sentence(setting: Mapping[str, Any], components: pl.DataFrame) -> str:
    """Truth and estimate of one setting, and how far the nonlinear error is from what the SAE introduces."""
    row = with_agreement(pl.DataFrame([dict(setting)], infer_schema_length=None)).row(0, named=True)
    said = []
    for part in SPLIT:
        verdict = "in its interval" if row[f"{part}_inside"] else "outside its interval"
        said.append(
            f"{percent(*triple(row, part))} {part} against {100 * row[f'truth_{part}']:.2f} % in truth, {verdict}"
        )
    text = f"Here the estimate is {listed(said)}."
    truth = setting["truth_nonlinear"]
    own = components.filter(component="introduced")
    if own.is_empty() or not truth:
        return text
    share = max(float(own["nonlinear"][0]) / truth, 0.0)
    return f"{text} Introduced error is {100 * share:.0f} % of what is nonlinear: the rest is in x, but no linear map finds it."


def planted_sample(found: Planted) -> str:
    """n and split, as captions end."""
    about = found.about
    return (
        f"Estimates: n = {about['sample_tokens']:,} tokens in {about['sample_contexts']:,} contexts, held out over "
        f"{about['n_folds']} folds of whole contexts; bars: 95 % intervals over contexts. Truth: {about['n_tokens']:,} tokens in "
        f"{about['n_contexts']:,} contexts, noise by its covariance."
    )


def known_sample(found: GroundTruth) -> str:
    """n and split of known features, as captions end."""
    about = found.about
    sizes = [round(v * about["d_model"]) for v in (INGREDIENTS["tokens"][0], INGREDIENTS["tokens"][-1])]
    return (
        f"d = {about['d_model']}, {about['n_features']} features. Estimates: {sizes[0]:,} to {sizes[1]:,} tokens, held out over "
        f"{about['n_folds']} folds of whole contexts of {about['context_length']} tokens; bars: 95 % intervals over contexts. "
        f"Truth: the best affine map of {about['truth_tokens']:,} other tokens."
    )
