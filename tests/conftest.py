"""Every test: offline, and jaxtyping's shapes checked by beartype in the maths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
# As the command line does: threads that spin while they wait make small products many times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jaxtyping
import pytest
from jaxtyping import install_import_hook

MATH = Path(__file__).parents[1] / "dmcore" / "math"
# Not the estimator: scikit-learn's own checks pass it numbers of every type on purpose.
CHECKED = [f"dmcore.math.{path.stem}" for path in MATH.glob("*.py") if path.stem not in {"__init__", "streaming_ridge"}]
install_import_hook(CHECKED, "beartype.beartype")

from tests.chromium import browser  # noqa: E402, F401


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Hostile texts that a test writes reach the report of a parallel run, which is sent in UTF-8: without lone surrogates."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without beartype: what users see of wrong types; and thousands of fits, which it would make longer."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
