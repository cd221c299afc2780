"""What the page Downstream says in sentences, made from the numbers."""

from __future__ import annotations

from typing import Any

from dmcore.charts.numbers import number, percent
from dmcore.results import Downstream
from dmcore.words.names import plain
from dmcore.words.paired import paired_cost
from dmcore.words.scaling import triple

NO_LOSS = (
    "The model of this study is an encoder, which predicts no next token: there is no loss that an error could cost. Take a "
    "decoder-only model or an encoder-decoder."
)
"""What is said of encoders."""


def cost_sentence(found: Downstream) -> str:
    """What Sae(x) costs the model."""
    sae = found.variant("sae")
    if sae["delta"] is None:
        return ""
    clean = found.variant("clean")["ce"]
    of = f" from {clean:.2f}" if clean is not None else ""
    return f"With Sae(x) in the place of x the loss rises{of} by {number(*triple(sae, 'delta'))} nats a token."


def parts_sentence(found: Downstream) -> str:
    """What adding each part back recovers, beside its share of the error."""
    rows = {part: found.part(part) for part in ("linear", "nonlinear")}
    if any(row["recovered"] is None for row in rows.values()):
        return plain(found.remark("recovered_sae") or "")
    recovered = {part: percent(*triple(row, "recovered")) for part, row in rows.items()}
    shares = {part: percent(row["norm_sq_share"]) for part, row in rows.items()}
    return (
        f"Adding the linear error recovers {recovered['linear']} of that, the nonlinear error {recovered['nonlinear']}; they are "
        f"{shares['linear']} and {shares['nonlinear']} of its squared norm."
    )


def downstream_finding(found: Downstream) -> str:
    """The sentences that the page opens with."""
    return " ".join(filter(None, (cost_sentence(found), parts_sentence(found))))


def recovered_sentence(found: Downstream) -> str:
    """The loss that Sae(x) recovers, in both normalisations."""
    sae = found.variant("sae")
    told = [
        f"**{percent(*triple(sae, column))}** of what {words} costs"
        for column, words in (("recovered_zero", "putting 0 there"), ("recovered_mean", "putting the mean of x there"))
        if sae[column] is not None
    ]
    return f"Loss recovered by Sae(x): {' and '.join(told)}." if told else ""


def control_sentence(found: Downstream) -> str:
    """Whether the SAE's error costs more than a random vector of its size, by their paired difference."""
    sae, random = found.variant("sae"), found.variant("x_random")
    difference = paired_cost(found, "sae", "x_random")
    if difference is None or sae["delta"] is None or random["delta"] is None:
        return ""
    verdict = "more than" if difference.low > 0 else "less than" if difference.high < 0 else "about what"
    own, other = number(*triple(sae, "delta")), number(*triple(random, "delta"))
    apart = number(difference.value, difference.low, difference.high)
    return (
        f"The error costs **{verdict} its size says**: {own} nats, against {other} for a random vector of its length at x; "
        f"the difference is {apart}."
    )


def both_sentence(found: Downstream) -> str:
    """Whether the parts act each for itself."""
    both = found.part("both")
    value, low, high = triple(both, "recovered")
    if value is None or low is None or high is None:
        return ""
    words = (
        "so each part gives less once the other is there"
        if low > 1
        else "so each part gives more once the other is there"
        if high < 1
        else "as if each acted for itself"
    )
    return f"The two recovered shares add up to {percent(value, low, high)}, {words}."


def gap_sentence(found: Downstream) -> str:
    """How exactly Sae(x) + both parts gives the clean model."""
    gap = found.about["exact_gap"]
    return (
        "" if gap is None else f"Sae(x) + both parts moves no token's loss by more than {gap:.0e} nats, as it should."
    )


def sample_of(found: Downstream) -> str:
    """n and split, as captions end."""
    about = found.about
    skip = about["skip_positions"]
    kept = "" if not skip else " after the first" if skip == 1 else f" after the first {skip}"
    return (
        f"n = {about['n_tokens']:,} predictions at the positions{kept} of {about['n_contexts']:,} contexts; parts out of "
        f"{about['n_folds']} folds of whole contexts. 95 % intervals over contexts."
    )


def remarks_of(found: Downstream, topics: tuple[str, ...]) -> list[str]:
    """The sentences on some topics."""
    return [plain(text) for topic in topics if (text := found.remark(topic)) is not None]


def own_record(found: Downstream) -> dict[str, Any]:
    """`r2_share` of each part, from the SAE's own record: the share of the error vector's variance that each part is."""
    about = found.about
    value, low, high = (about.get(f"r2_error{end}") for end in ("", "_low", "_high"))

    def turned(v: float | None) -> float | None:
        return None if v is None else 1 - v

    return {
        "linear": {"r2_share": value, "r2_share_low": low, "r2_share_high": high},
        "nonlinear": {"r2_share": turned(value), "r2_share_low": turned(high), "r2_share_high": turned(low)},
    }
