"""The README says what is true: its study loads, its SAEs exist, its commands and folders are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmcore.run.cli import build_parser
from dmcore.sources.catalogue import find_saes, read_catalogue
from dmcore.specs import load_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_study_in_full_loads_and_its_sae_exists(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.+?)```", README, re.DOTALL)
    (tmp_path / "study.toml").write_text(text)
    study = load_study(tmp_path / "study.toml")
    assert len(study.saes) == 1 + 2 * 2 * 2
    row = find_saes(read_catalogue(tmp_path), [(study.saes[0].release, study.saes[0].id)])
    assert (row["hook"].item(), row["model"].item()) == (study.saes[0].hook, study.model.id)


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"^python -m dmcore (.+?) *(?:#.*)?$", README, re.MULTILINE)))
)
def test_every_command_is_understood(command: str) -> None:
    if " | " in command:
        command = command.split(" | ")[0]
    build_parser().parse_args(command.split())


def test_every_folder_and_file_of_the_layout_is_there() -> None:
    block = README.split("## Layout")[1].split("```")[1]
    above: list[Path] = [ROOT]  # the folder that each depth of indentation is in
    drawn = set()
    for line in filter(None, block.splitlines()):
        depth, names = (len(line) - len(line.lstrip())) // 2, re.split(r"  +", line.strip())[0]
        for one in names.split(", "):
            path = above[depth] / one
            assert path.exists() or path.with_suffix(".py").exists(), one
            drawn.add(path)
        above[depth + 1 :] = [path]
    rooms = {p.parent for p in [*ROOT.glob("dmcore/*/*.py"), *ROOT.glob("dmcore/run/*/*.py")]}
    assert rooms - drawn == set(), "folders that the picture lacks"


@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])
def test_every_script_and_link_of_a_page_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for script in re.findall(r"python (benchmarks/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / link).exists(), link
