"""Links: parameters of every page, through the functions that read them, and through the pages themselves."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from hypothesis import strategies as st

from dmcore.ui.grid import choose_nearest
from dmcore.ui.link import SHARED, full_link, read_study, read_wish, write_params
from tests.fuzz.values import texts
from tests.pages.fake_results import fake_published

PAGES = Path(__file__).parents[2] / "pages"
OWN = {
    "overview": (),
    "regression": ("skip", "bias", "part"),
    "scaling": ("view", "metric", "space", "surface", "over", "value", "of", "by", "context", "token"),
    "nonlinear": ("look", "whose", "sort", "latent", "clusters", "cluster", "scorer", "told"),
    "reduction": ("reduce", "method", "left"),
    "downstream": ("cost", "against", "gained", "spliced", "read", "at"),
    "synthetic": ("synthetic", "noise", "ablated", "price"),
    "controls": ("trust", "shrunk", "weighting", "between", "kept", "cells"),
    "catalogue": ("q", "model", "release"),
    "runs": (),
}
"""Each page's own parameters."""

NEAR = (
    "demo",
    "residual",
    "mlp",
    "2",
    "16",
    "256",
    "1024",
    "topk",
    "jumprelu",
    "yes",
    "no",
    "width",
    "plane",
    "tokens",
    "0",
    "7",
)
link_values = st.one_of(st.sampled_from(NEAR), texts)


@st.composite
def links(draw: st.DrawFn) -> dict[str, str]:
    """Parameters of some page."""
    names = st.sampled_from([*SHARED, *dict.fromkeys(name for own in OWN.values() for name in own)])
    return draw(st.dictionaries(st.one_of(names, texts), link_values, max_size=8))


@st.composite
def pages(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """A page and parameters that it reads, as UTF-8, which is all that a browser's address can say."""
    page = draw(st.sampled_from(sorted(OWN)))
    names = [*SHARED, *OWN[page]]
    found = draw(st.dictionaries(st.one_of(st.sampled_from(names), texts), link_values, min_size=1, max_size=6))
    return page, {_sent(name): _sent(value) for name, value in found.items()}


def _sent(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=1)
def _published():
    return fake_published()


def follow(params: dict[str, str]) -> None:
    """The functions that a page calls: whatever is asked for, an SAE of the study is shown."""
    study, _ = read_study(params, {"demo": "Demo", "other": "Other"})
    assert study in ("demo", "other")
    wish, unreadable = read_wish(params)
    assert set(unreadable) <= set(params)
    records = _published().records
    choice = choose_nearest(records, wish)
    assert choice.record["sae"] in records["sae"].to_list()
    link = full_link("http://localhost:8501/scaling", write_params(study, choice.record))
    assert link.isascii() and " " not in link


def open_page(page: str, params: dict[str, str]) -> None:
    """The page itself, in the fake study's cache."""
    from streamlit.testing.v1 import AppTest

    at = AppTest.from_file(str(PAGES / f"{page}.py"), default_timeout=25)
    for key, value in params.items():
        at.query_params[key] = value
    at.run()
    if at.exception:
        shown = at.exception[0]
        raise AssertionError(f"{page} {params!r}: {shown.message} {' | '.join(shown.stack_trace)[-600:]}")
