"""Texts on which a latent is active, one a line, the token of each example under that of the one above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite
from dmcore.charts.theme import NEUTRAL, PARTS, TOTAL, as_part
from dmcore.charts.token_strip import CUT, MONOSPACE, READABLE
from dmcore.charts.token_text import cells, visible
from dmcore.results.features import Example

LINE = 23
"""Height of a line, in pixels."""
COLUMNS = 118
"""Characters of a line, with the names of the groups at the left and the activations at the right."""
LEFT, RIGHT = 12, 9
"""Characters of both."""
PEAK_AT = 76
"""Where the token of the example starts: most of the window is before it."""
N_TOP, N_PER_DECILE = 12, 2
"""Lines of the largest activations, and of each lower decile."""
APART = 0.35
"""Between groups, in lines."""

EXAMPLE_TOKENS = {
    "example": pl.Int32,  # its number, in the order of lines
    "decile": pl.Int32,  # null for one of the largest
    "context": pl.Int64,
    "position": pl.Int64,  # of this token in its context
    "text": pl.String,  # raw
    "activation": pl.Float64,
    "peak": pl.Boolean,  # this is the token of the example
}


def example_tokens(examples: Sequence[Example], texts: Mapping[int, str]) -> pl.DataFrame:
    """The tokens of the windows of examples, a row each, as `EXAMPLE_TOKENS`.

    Args:
        examples: of one latent, in the order of `Features.examples`.
        texts: text of each token id.
    """
    rows = []
    for number, example in enumerate(examples):
        for place, (token, activation) in enumerate(
            zip(example.tokens.tolist(), example.activations.tolist(), strict=True)
        ):
            own = place == example.at
            rows.append(
                (number, example.decile, example.context, example.position + place - example.at,
                 texts.get(int(token), ""), example.activation if own else activation, own)
            )  # fmt: skip
    return pl.DataFrame(rows, schema=EXAMPLE_TOKENS, orient="row")


def windows_table(
    tokens: pl.DataFrame, n_top: int = N_TOP, n_per_decile: int = N_PER_DECILE, first: str = "largest"
) -> pl.DataFrame:
    """The boxes: the columns of `EXAMPLE_TOKENS`, `token` (made visible), `group`, `line`, `start`, `end` (characters).

    Tokens that do not fit before or after the token of the example are left out, the farthest first.

    Args:
        tokens: `EXAMPLE_TOKENS`.
        n_top, n_per_decile: most examples of the largest activations and of each decile, the first ones.
        first: what examples that are of no decile are called.
    """
    boxes, line, before, kept = [], 0.0, None, 0
    for window in tokens.partition_by("example", maintain_order=True):
        rows = window.sort("position").to_dicts()
        decile = rows[0]["decile"]
        new = before is None or decile != before[0]
        kept = 0 if new else kept + 1
        if kept >= (n_top if decile is None else n_per_decile):
            continue
        if before is not None:
            line += 1 + (APART if new else 0)
        before = (decile,)
        group = (first if decile is None else f"decile {decile + 1}") if new else ""
        boxes += [{**row, "group": group, "line": line, "start": start, "end": end, "token": shown}
                  for row, shown, start, end in _placed(rows)]  # fmt: skip
    schema = {**EXAMPLE_TOKENS, "token": pl.String, "group": pl.String, "line": pl.Float64,
              "start": pl.Int64, "end": pl.Int64}  # fmt: skip
    return pl.DataFrame(boxes, schema=schema)


def _placed(rows: list[dict]) -> list[tuple[dict, str, int, int]]:
    """The tokens of a window that fit, with text, start and end, in their order."""
    at = next((k for k, row in enumerate(rows) if row["peak"]), 0)
    words = [visible(row["text"] or "", CUT) for row in rows]
    shown = [(text, max(cells(text), 1) + 1) for text in words]
    found, column = [], PEAK_AT
    for row, (text, width) in zip(rows[at:], shown[at:], strict=True):
        if column + width > COLUMNS - RIGHT:
            break
        found.append((row, text, column, column + width))
        column += width
    column = PEAK_AT
    for row, (text, width) in zip(rows[:at][::-1], shown[:at][::-1], strict=True):
        if column - width < LEFT:
            break
        found.insert(0, (row, text, column - width, column))
        column -= width
    return found


def windows_chart(
    tokens: pl.DataFrame,
    n_top: int = N_TOP,
    n_per_decile: int = N_PER_DECILE,
    title: str = "activation of the latent",
    largest: float | None = None,
    first: str = "largest",
) -> alt.LayerChart:
    """A line an example: boxes coloured by activation, the token of the example framed, its activation at the right.

    Args:
        tokens: `EXAMPLE_TOKENS`, of one latent.
        title: what the colours show. Tokens without a value have a box without colour; where only the tokens of the
            examples have one, it is written, and there is no legend.
        largest: activation at which colours end; the largest of the tokens where none is given.
        first: what examples that are of no decile are called.
    """
    table = windows_table(tokens, n_top, n_per_decile, first)
    most = max(finite([largest] if largest is not None else table["activation"]), default=0.0) or 1.0
    lines = float(table["line"].max() or 0.0) + 1  # type: ignore[arg-type]
    drawn = table.select(
        "context", "position", "token", "start", "line", "group", "peak", value=pl.col("activation").fill_nan(None),
        right=pl.col("end") - 0.12, top=pl.col("line") + 0.05, bottom=pl.col("line") + 0.95,
        middle=(pl.col("start") + pl.col("end")) / 2, height=pl.col("line") + 0.5,
    )  # fmt: skip
    x = alt.X("start:Q", axis=None, scale=alt.Scale(domain=[0, COLUMNS], nice=False))
    y = alt.Y("top:Q", axis=None, scale=alt.Scale(domain=[lines, 0], nice=False, zero=False))
    legend = alt.Legend(title=title, orient="top", direction="horizontal", gradientLength=160, gradientThickness=8,
                        tickCount=4, titleLimit=500)  # fmt: skip
    others = drawn.filter(~pl.col("peak"))["value"]
    shown = None if others.null_count() == len(others) else legend
    colour = alt.Color("value:Q", scale=alt.Scale(domain=[0.0, most], clamp=True), legend=shown)
    tooltip = [alt.Tooltip("token:N"), alt.Tooltip("value:Q", title=title, format=".3~g"),
               alt.Tooltip("context:Q", format="d"), alt.Tooltip("position:Q", format="d")]  # fmt: skip
    place = {"x": x, "x2": alt.X2("right:Q"), "y": y, "y2": alt.Y2("bottom:Q")}
    ink = alt.condition(READABLE, alt.value("#ffffff"), alt.value("#1a1a1a"))
    boxes, missing = drawn.filter(pl.col("value").is_not_null()), drawn.filter(pl.col("value").is_null())
    pale = alt.Chart(missing).mark_rect(cornerRadius=2, color=NEUTRAL, opacity=0.12)
    layers = [] if missing.is_empty() else [pale.encode(**place)]
    text = {"x": alt.X("middle:Q"), "y": alt.Y("height:Q"), "text": alt.Text("token:N")}
    plain = alt.Fill("part:N", scale=alt.Scale(domain=list(PARTS)), legend=None)  # ink of the page: `color` is taken
    words = [
        alt.Chart(some).mark_text(font=MONOSPACE, fontSize=_size(), aria=False).encode(**text, **shade)
        for some, shade in ((boxes, {"color": ink}), (as_part(missing, TOTAL), {"fill": plain}))
        if len(some)
    ]
    return alt.layer(
        *layers,
        alt.Chart(boxes).mark_rect(cornerRadius=2).encode(**place, color=colour, tooltip=tooltip),
        *words,
        *_margins(drawn.filter("peak")),
    ).properties(height=round(lines * LINE), autosize=FIT_WIDTH)


def _size() -> alt.ExprRef:
    """Font size at which a monospace text fits its box."""
    return alt.ExprRef(f"min(13, max(5, width / {COLUMNS} * 1.6))")


def _margins(peaks: pl.DataFrame) -> list[alt.Chart]:
    """A frame around the token of each example; its activation at the right; the groups by name at the left."""
    numbers = peaks.filter(pl.col("value").is_not_null()).with_columns(at=pl.lit(COLUMNS))
    groups = peaks.filter(pl.col("group") != "").with_columns(at=pl.lit(0))
    frame = alt.Chart(peaks).mark_rect(filled=False, stroke=NEUTRAL, strokeWidth=2.5, cornerRadius=2, aria=False)
    words = alt.Chart(groups).mark_text(align="left", color=NEUTRAL, fontWeight="bold", fontSize=12)
    figures = alt.Chart(numbers).mark_text(align="right", color=NEUTRAL, fontSize=12)
    return [
        frame.encode(x=alt.X("start:Q"), x2=alt.X2("right:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q")),
        words.encode(x=alt.X("at:Q"), y=alt.Y("height:Q"), text=alt.Text("group:N")),
        figures.encode(x=alt.X("at:Q"), y=alt.Y("height:Q"), text=alt.Text("value:Q", format=".3~g")),
    ]
