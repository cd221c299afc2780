"""`train-saes`: train the SAEs that a study asks for."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.progress import Reporter, terminal_sink
from dmcore.run.commands.shared import device_named, resolve_study, say, say_aside
from dmcore.specs import ENGINES, NAME, TRAINABLE, ModelSpec, Study, TextsSpec, TrainSpec, load_study
from dmcore.store.store import Store

GRID = (
    "hooks",
    "widths",
    "l0s",
    "architectures",
    "tokens",
    "batch_tokens",
    "learning_rate",
    "engine",
    "source",
    "seed",
)
"""Options that make or change a [train] table."""
HELD_OUT = 64
"""Contexts asked for beyond those to be trained on."""


def register(commands: Any) -> None:
    """Add the command."""
    train = commands.add_parser(
        "train-saes",
        help="train the SAEs that a study asks for",
        description="Train the SAEs of a study's [train] table; those that are there already, made with the same "
        "settings, are kept. Interrupted training goes on from its last checkpoint. With options for the grid and --out, "
        "a new study is written first, which then can be swept. SAEs on the parts of an SAE's error (its [parts] table) come "
        "last; they need the linear map that a sweep fits.",
    )
    train.add_argument("study", help="a study file, or: demo")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    train.add_argument("--json", action="store_true", help="print the records as JSON")
    train.add_argument("--parts", action="store_true", help="train the SAEs of the [parts] table alone")
    grid = train.add_argument_group("a grid, where the study has no [train] table, or instead of it; needs --out")
    grid.add_argument("--hooks", nargs="+", metavar="HOOK", help="sites, e.g. blocks.2.hook_resid_post")
    grid.add_argument("--widths", nargs="+", type=int, metavar="N", help="latents")
    grid.add_argument("--l0s", nargs="+", type=int, metavar="N", help="active latents a token")
    grid.add_argument("--architectures", nargs="+", choices=TRAINABLE, metavar="NAME", help=", ".join(TRAINABLE))
    grid.add_argument("--tokens", type=int, metavar="N", help="training tokens of each SAE")
    grid.add_argument("--batch-tokens", type=int, metavar="N", help="tokens in a step (4096)")
    grid.add_argument("--learning-rate", type=float, metavar="RATE", help="peak learning rate (by architecture)")
    grid.add_argument("--engine", choices=ENGINES, help="SAELens's trainers, or this project's faster ones (sae-lens)")
    grid.add_argument("--source", choices=["live", "captured"], help="run the model as training goes, or before (live)")
    grid.add_argument("--seed", type=int, metavar="N", help="of first weights and order (0)")
    grid.add_argument(
        "--texts", metavar="PATH", help="texts to train on: a folder of tokens, a file or folder of texts"
    )
    grid.add_argument("--out", metavar="FOLDER", help="where study.toml and the SAEs go")
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from dmcore.run.parts import train_all

    study = resolve_study(arguments.study)
    changes = {name: value for name in GRID if (value := getattr(arguments, name)) is not None}
    if arguments.parts and (arguments.out or changes or arguments.texts):
        raise SpecError("Options for the grid make a study without [parts]: leave them out, or --parts.")
    if arguments.out:
        study = _new_study(study, changes, arguments.texts, Path(arguments.out))
    elif changes or arguments.texts:
        raise SpecError("Options for the grid make another study: say with --out FOLDER where it goes.")
    device = device_named(arguments.device)
    trained, left = train_all(study, device, Reporter(terminal_sink()), Store(), parts_only=arguments.parts)
    records = [one.record() for one in trained]
    if left:
        say_aside(left)
    if arguments.json:
        say(json.dumps(records, indent=1))
        return 0
    say(_table(records))
    new = sum(record["trained"] for record in records)
    where = Path(arguments.out) / "study.toml" if arguments.out else arguments.study
    say(f"{new} of {len(records)} SAEs trained, {len(records) - new} were there. Next: python -m dmcore sweep {where}")
    return 0


def _new_study(base: Study, changes: dict[str, Any], texts: str | None, out: Path) -> Study:
    """Write `out/study.toml`: the base's model, texts and settings, and a grid; read back.

    Raises:
        SpecError: the grid lacks something, or the folder holds another study.
    """
    from dmcore.sources.study_file import study_toml

    if base.train:
        train = replace(base.train, **changes)
    else:
        lacking = [f"--{name}" for name in ("hooks", "widths", "l0s") if name not in changes]
        if lacking:
            raise SpecError(f"The study has no [train] table: give {', '.join(lacking)}.")
        train = TrainSpec(**changes)
    if texts:
        train = replace(train, texts=_texts(base, train, Path(texts).absolute()))
    elif train.texts:
        train = replace(train, texts=_absolute(base, train.texts))
    name = out.absolute().name
    written = study_toml(
        name if NAME.fullmatch(name) else f"{base.name[:56]}-trained",
        f"{base.title}: trained SAEs",
        _absolute(base, base.model),
        _absolute(base, base.texts),
        base.settings,
        (),
        base.seed,
        train,
    )
    file = out / "study.toml"
    if file.exists() and file.read_text(encoding="utf-8") != written:
        raise SpecError(
            f"{file} is another study: give another --out, or change its [train] table and run train-saes {file}."
        )
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(written, encoding="utf-8")
    return load_study(file)


def _absolute(base: Study, spec: Any) -> Any:
    """A model or texts whose local paths no longer depend on the base study's folder."""
    assert isinstance(spec, ModelSpec | TextsSpec)
    paths = {name: str(base.resolve(value)) for name in ("path", "files") if (value := getattr(spec, name, ""))}
    return replace(spec, **paths)


def _texts(base: Study, train: TrainSpec, path: Path) -> TextsSpec:
    """Texts given by a path: contexts as long as those that the study measures on, as many as the tokens need."""
    if (path / "tokens.npy").is_file():
        return TextsSpec(path=str(path))
    if not path.exists():
        raise SpecError(f"There is nothing at {path}: check --texts.")
    length = base.texts.context_length
    if base.texts.path:
        from dmcore.sources.contexts import load_contexts

        length = load_contexts(base, Store()).length
    used = max(1, length - base.settings.skip_positions)
    needed = -(-train.tokens // used) + HELD_OUT
    return TextsSpec(files=str(path), n_contexts=needed, context_length=length, short_documents="pack")


def _table(records: list[dict[str, Any]]) -> str:
    rows = [["SAE", "FVU", "L0", "dead", "tokens", "seconds"]]
    for one in records:
        rates = [f"{one['fvu']:.4f}", f"{one['l0']:.2f}", f"{100 * one['dead_share']:.1f} %"]
        rows.append([one["sae"], *rates, f"{one['tokens']:,}", f"{one['seconds']:,.1f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
