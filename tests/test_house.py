"""The house: imports run one way, heavy libraries stay in their rooms, files stay short, nothing unsafe is called."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors", "estimate", "legible", "memory", "places", "progress"},
    {"specs"},
    {"results"},
    {"math"},
    {"store"},
    {"sources"},
    {"analysis"},
    {"explain"},
    {"training"},
    {"charts"},
    {"words"},
    {"figures"},
    {"report"},
    {"run"},
    {"ui"},
    {"demo"},
]
"""From the ground up: a room may import those on its own floor and below."""
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(p for p in [*ROOT.glob("*.py"), *ROOT.glob("dmcore/**/*.py"), *ROOT.glob("pages/*.py")])
IDS = [str(p.relative_to(ROOT)) for p in FILES]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def room(module: str) -> str | None:
    """The room of a module of dmcore: `dmcore.math.moments` -> `math`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "dmcore" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_run_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "dmcore" or len(parts) < 2 or parts[1] in {"__init__", "__main__"}:
        return
    own = ROOMS[parts[1]]
    for module in imported(path):
        other = room(module)
        if other in ROOMS:
            assert ROOMS[other] <= own, f"{'/'.join(parts)} imports {module}, which is on a floor above it"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    libraries = {module.split(".")[0] for module in imported(path)}
    if not place.startswith(("app.py", "pages/", "dmcore/ui/")):
        assert "streamlit" not in libraries
    if not place.startswith(("dmcore/sources/", "dmcore/training/")):
        assert not libraries & {"transformer_lens", "sae_lens"}
    assert not libraries & {"pickle", "dill", "joblib"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 330, "one concept a file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 65, f"{node.name} is too long"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_nothing_unsafe_is_called(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"torch.load", "eval", "exec", "print", "os.system"}
            for keyword in node.keywords:
                if keyword.arg in {"allow_pickle", "trust_remote_code", "unsafe_allow_html"}:
                    assert isinstance(keyword.value, ast.Constant)
                    assert keyword.value.value is False


def test_importing_dmcore_and_reading_results_does_not_import_torch() -> None:
    script = "import dmcore, dmcore.store.published, dmcore.specs, sys; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_every_room_is_on_a_floor() -> None:
    found = {p.stem for p in (ROOT / "dmcore").glob("*.py")} | {p.parent.name for p in (ROOT / "dmcore").glob("*/*.py")}
    assert found - {"__init__", "__main__"} <= set(ROOMS)
