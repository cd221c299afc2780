"""Arrays: shapes, types, strides, scales, gaps and groups of every kind, for the functions that anyone may call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import dmcore

TYPES = ("float32", "float64", "float16", "int64", "uint8", "bool", "complex64", "object", "U3", "bfloat16")
SCALES = (0.0, 1e-320, 1e-160, 1e-30, 1.0, 1e6, 1e30, 1e160, 1e300)


@dataclass(frozen=True)
class Recipe:
    """How an array is made: small enough to print."""

    shape: tuple[int, ...]
    dtype: str
    scale: float
    seed: int
    holes: tuple[float, ...]
    """NaN, infinities or numbers put into it."""
    layout: str
    rank: int
    """Directions in which it varies; 0 for all."""

    def make(self) -> Any:
        """The array or tensor."""
        rng = np.random.default_rng(self.seed)
        found = rng.standard_normal(self.shape)
        if self.rank and found.ndim == 2:
            found = rng.standard_normal((self.shape[0], self.rank)) @ rng.standard_normal((self.rank, self.shape[1]))
        with np.errstate(all="ignore"):
            found = np.asarray(found * self.scale)
            for hole in self.holes:
                if found.size:
                    found.flat[int(rng.integers(found.size))] = hole
            if self.dtype == "bfloat16":
                return torch.from_numpy(np.asarray(found)).bfloat16()
            found = np.asarray(np.asarray(found).astype(self.dtype))
        if self.layout == "fortran":
            return np.asfortranarray(found)
        if self.layout == "strided" and found.ndim:
            return np.repeat(found, 2, axis=0)[::2]
        if self.layout == "backwards" and found.ndim:
            return found[::-1]
        if self.layout == "torch" and found.dtype.kind in "fiub":
            return torch.from_numpy(np.ascontiguousarray(found))
        if self.layout == "readonly" and found.ndim:
            found.flags.writeable = False
        if self.layout == "list":
            return found.tolist()
        return found


layouts = st.sampled_from(["plain", "fortran", "strided", "backwards", "torch", "torch", "readonly", "list"])


@st.composite
def recipes(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> Recipe:
    """An array of some shape; of this one if it is given."""
    if shape is None:
        shape = tuple(draw(st.lists(st.integers(0, 60), max_size=3)))
    sound = draw(st.integers(0, 3)) > 0
    holes = () if sound else draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e30, 1e300]), max_size=2))
    return Recipe(
        shape,
        "float32" if sound else draw(st.sampled_from(TYPES)),
        1.0 if sound else draw(st.sampled_from(SCALES)),
        draw(st.integers(0, 99)),
        tuple(holes),
        draw(layouts),
        draw(st.integers(0, 3)),
    )


@st.composite
def errors(draw: st.DrawFn) -> dict[str, Any]:
    """What `decompose` is given: one or two things wrong with it, or none."""
    n, d = draw(st.integers(30, 80)), draw(st.integers(1, 6))
    wrong = draw(
        st.sets(st.sampled_from(["shape", "groups", "n_folds", "ridge", "seed", "fit_bias", "values"]), max_size=2)
    )
    if "shape" in wrong and draw(st.booleans()):
        n = draw(st.integers(0, 12))
    shape = None if "shape" in wrong and draw(st.booleans()) else (n, d)
    given: dict[str, Any] = {
        "acts": draw(recipes(shape)),
        "recon": draw(recipes(shape if draw(st.integers(0, 3)) else (n, d))),
    }
    if "groups" in wrong:
        given["groups"] = draw(
            st.one_of(
                st.lists(st.integers(-3, 5), min_size=n, max_size=n),
                st.lists(st.one_of(st.text(max_size=3), st.integers(), st.none(), st.floats()), max_size=n + 1),
                recipes(),
                recipes((n,)),
                st.sampled_from(["text", 5, {}, {"a": 1}, object()]),
            )
        )
    elif draw(st.booleans()):
        ids = draw(
            st.sampled_from(
                [("a", "b", "c", "é\u202e", "", "d"), (0, 1, 2, 3, 4, 5), (-1.5, np.nan, 0.0, 1e300, 2.0, 3.0)]
            )
        )
        given["groups"] = [ids[k % 6] for k in range(n)]
    odd = {
        "n_folds": st.one_of(
            st.integers(-2, 90), st.sampled_from([2**70, 2.0, 2.5, "5", None, np.nan, True, np.int64(3)])
        ),
        "ridge": st.one_of(st.floats(), st.sampled_from([-1, 1e-300, 1e300, "1", None, 10**400, True, 1 + 2j])),
        "seed": st.one_of(st.integers(-3, 9), st.sampled_from([2**200, 0.5, "s", None, np.nan])),
        "fit_bias": st.sampled_from([True, False, 0, 1, "no", None]),
    }
    sound = {
        "n_folds": st.integers(2, 5),
        "ridge": st.floats(0, 100),
        "seed": st.integers(0, 9),
        "fit_bias": st.booleans(),
    }
    for name in odd:
        if name in wrong or draw(st.integers(0, 3)) == 0:
            given[name] = draw(odd[name] if name in wrong else sound[name])
    return given


def decompose(given: dict[str, Any]) -> None:
    """The parts add up, are finite, and the numbers lie in their intervals."""
    made = {name: value.make() if isinstance(value, Recipe) else value for name, value in given.items()}
    split = dmcore.decompose(made.pop("acts"), made.pop("recon"), **made)
    for part in (split.linear_error, split.nonlinear_error):
        assert bool(np.isfinite(np.asarray(torch.as_tensor(part).double())).all()), "a part is not finite"
    for name in ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm_sq", "r2_error_mean_dims"):
        found = getattr(split, name)
        assert not np.isinf(found), f"{name} is infinite"
        assert np.isnan(found.low) or found.low <= found <= found.high, f"{name} lies outside its interval"


@st.composite
def laws(draw: st.DrawFn) -> dict[str, Any]:
    """What `fit_power_law` is given."""
    n = draw(st.integers(2, 8))
    positive = st.floats(1e-6, 1e6)
    odd = st.one_of(st.lists(st.one_of(st.floats(), positive), max_size=8), recipes(), recipes((n,)))
    sound = draw(st.integers(0, 2)) > 0
    given: dict[str, Any] = {
        "widths": [2.0**k for k in range(8, 8 + n)] if sound else draw(odd),
        "values": draw(st.lists(positive, min_size=n, max_size=n) if sound or draw(st.booleans()) else odd),
        "space": draw(st.sampled_from(["log", "linear"] if sound else ["log", "linear", "", None, "LOG"])),
        "floor": draw(st.booleans()),
    }
    if draw(st.integers(0, 2)) == 0:
        given["replicates"] = draw(recipes((30, n)) if draw(st.booleans()) else recipes())
    return given


def fit_law(given: dict[str, Any]) -> None:
    """The law can be asked for all that it knows."""
    made = {name: value.make() if isinstance(value, Recipe) else value for name, value in given.items()}
    law = dmcore.fit_power_law(made.pop("widths"), made.pop("values"), **made)
    assert all(not np.isinf(x) for x in (law.c, law.aic) if not np.isnan(x)) or law.aic == -np.inf
    law.predict(np.array([256.0, 4096.0])), law.band(np.array([256.0, 4096.0]))
    law.a, law.m, law.scatter_m
