"""What the page Synthetic says in sentences, made from the numbers: how often the truth is in the interval, and where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dmcore.charts.numbers import percent
from dmcore.results.agreement import SOUND, agreement_by, less_price, with_agreement
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
        f"Of {len(table):,} {what} the 95 % interval holds the truth of the linear error in {raw[0]}, of the nonlinear error in "
        f"{raw[1]}; with the known cost of fitting a map taken off, in {less[0]} and {less[1]}."
    )


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

    Off: an interval holds the truth in fewer than `SOUND` of the settings, or the median estimate is off by more than `FAR`.
    """
    found = []
    for name, title in names.items():
        rows = agreement_by(table, name)
        if len(rows) < 2:
            continue
        for row in rows.to_dicts():
            for part in SPLIT:
                inside, ratio = row[f"{part}_inside"], row[f"{part}_ratio"]
                wrong = inside is not None and inside < SOUND
                far = ratio is not None and abs(ratio - 1) > FAR
                if wrong or far:
                    found.append(
                        (
                            inside if inside is not None else 1.0,
                            _regime(name, title, row["level"], part, inside, ratio, far),
                        )
                    )
    return [text for _, text in sorted(found, key=lambda pair: pair[0])]


def _regime(name: str, title: str, level: Any, part: str, inside: float | None, ratio: float | None, far: bool) -> str:
    text = f"at {_lower(title)} = {level_text(name, level)} the {part} error"
    if far and ratio is not None:
        return f"{text} is estimated {abs(100 * (ratio - 1)):.0f} % too {'large' if ratio > 1 else 'small'} (median)"
    return f"{text} has its truth in the interval in {100 * (inside or 0.0):.0f} %"


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
        regimes_sentence(most, others, f" even with {counts[-1]:,.0f} tokens a dimension"),
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
