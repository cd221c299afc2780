"""The study file and the report of a build: what was trained on what, how well, and what stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmcore.demo.parts import part_table
from dmcore.demo.scale import SEED, SKIP_POSITIONS, Scale
from dmcore.training.checkpoints import write_json
from dmcore.training.target import SaeTarget

STUDY_TITLE = "A small Python-code model and its SAEs"


def write_study(out: Path, specs: Sequence[SaeTarget], scale: Scale) -> None:
    """`study.toml`, which names every SAE that is there, and the SAEs on the parts of an error."""
    lines = [
        "schema = 1",
        'name = "demo"',
        f'title = "{STUDY_TITLE}"',
        f"seed = {SEED}",
        "[model]",
        'path = "model"',
        'dtype = "float32"',
        "[texts]",
        'path = "contexts"',
        "[settings]",
        f"skip_positions = {SKIP_POSITIONS}",
    ]
    for spec in specs:
        lines += ["[[saes]]", f'hook = "{spec.hook}"', f'path = "{spec.path}"']
        if spec.architecture == "batchtopk":  # its folder says jumprelu
            lines += [f'label = "{spec.architecture}"']
    lines += part_table(scale)
    (out / "study.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_report(out: Path, found: dict[str, Any]) -> None:
    """`build_report.json` with everything, and `README.md` with the tables that a person reads first."""
    write_json(out / "build_report.json", found)
    parts = [
        "# The embedded default\n",
        "Made by `python -m dmcore.demo build`; this file too, so edit the builder, not it.\n",
        _model_section(found["model"]),
        _sae_section(found["saes"], found["scale"]["saes"]),
        _parts_section(found["scale"]["parts"]),
        _corpus_section(found["text"]["corpus"]),
        _licence_section(found["text"]["corpus"]),
    ]
    (out / "README.md").write_text("\n".join(parts), encoding="utf-8")


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _model_section(model: dict[str, Any]) -> str:
    """Size, training and loss of the model."""
    rows = [
        ["this model, as stored (float16)", f"{model['validation_loss']:.3f}"],
        ["this model, before rounding", f"{model['validation_loss_before_rounding']:.3f}"],
        ["bigram, interpolated Kneser-Ney", f"{model['bigram_loss']:.3f}"],
        ["unigram, add-one", f"{model['unigram_loss']:.3f}"],
    ]
    return (
        f"## Model\nA Llama of {model['parameters']:,} parameters and {model['vocabulary']:,} tokens, trained on "
        f"{model['tokens']:,} tokens of Python source. Loss in nats a token, on the same "
        f"{model['validation_contexts']} held-out contexts of 256 tokens (positions 1 to 255); the n-grams are fitted on "
        f"the contexts that the model was trained on.\n\n" + _table(["predictor", "nats a token"], rows)
    )


def _sae_section(saes: Sequence[dict[str, Any]], scale: dict[str, Any]) -> str:
    """One row an SAE, with the rule that stopped it."""
    header = ["site", "architecture", "width", "target L0", "L0", "FVU", "dead %", "tokens", "stopped by"]
    rows = [
        [
            f"`{sae['hook']}`",
            sae["architecture"],
            sae["width"],
            sae["target_l0"],
            f"{sae['l0']:.2f}",
            f"{sae['fvu']:.4f}",
            f"{100 * sae['dead_share']:.2f}",
            f"{sae['tokens']:,}",
            sae["stopped_by"],
        ]
        for sae in saes
    ]
    by_plateau = sum(sae["stopped_by"] == "plateau" for sae in saes)
    rule = (
        f"Each SAE is trained at a constant learning rate until the best FVU of the last {scale['plateau_window']} looks "
        f"(one every {scale['block_contexts'] * 240:,} tokens) is less than {100 * scale['plateau_improvement']:g} % below "
        f"the best before (and, where sparsity is a penalty's, L0 is within 5 % of its target); then the rate falls to "
        f"zero over {_decay_shares(saes)} % more tokens. "
        f"{by_plateau} of {len(saes)} stopped by that rule, the others by the budget named in the last column; "
        "`build_report.json` has the curve of every one. FVU (about the mean, pooled) and L0 are of the stored, rounded "
        "SAE on all validation contexts, positions 16 to 255. `dead` is the share of latents that fired on none of the "
        "last 245,760 training tokens (of all, where there were fewer). BatchTopK is stored as a JumpReLU.\n"
    )
    return "## SAEs\n" + rule + "\n" + _table(header, rows)


def _parts_section(scale: dict[str, Any]) -> str:
    """What the SAEs on the parts are."""
    return (
        f"## SAEs on the parts of an error\nTopK SAEs of {scale['width']:,} latents, L0 {scale['l0']}, on x, on the error "
        f"of the SAE that `study.toml` names as base, and on the linear and the nonlinear part of that error: "
        f"{len(scale['seeds'])} seeds each, {scale['tokens']:,} training tokens each. `python -m dmcore parts demo` has "
        "their numbers.\n"
    )


def _decay_shares(saes: Sequence[dict[str, Any]]) -> str:
    """The lengths of the final decays in per cent of the tokens before them, e.g. `30 to 50`."""
    shares = {round(100 * (sae["tokens"] / sae["constant_rate_tokens"] - 1)) for sae in saes}
    return " to ".join(f"{share}" for share in sorted({min(shares), max(shares)})) if shares else "0"


def _corpus_section(corpus: dict[str, Any]) -> str:
    """Where the text comes from."""
    rows = [[p["name"], p["version"], p["licence"], p["files"], f"{p['bytes']:,}"] for p in corpus["packages"]]
    intro = (
        f"## Training text\n{corpus['training_files']:,} files, {corpus['training_bytes']:,} bytes; the standard library "
        f"stands {corpus['stdlib_epochs']} times in the stream. {len(corpus['held_out_files'])} standard-library files were "
        f"held out, and {len(corpus['dropped_near_copies'])} files that resemble them were dropped.\n"
    )
    return intro + "\n" + _table(["package", "version", "licence", "files", "bytes"], rows)


def _licence_section(corpus: dict[str, Any]) -> str:
    """What may be done with the text that is shipped."""
    return (
        f"## Licence of the shipped text\n`contexts/` holds excerpts of the CPython {corpus['python']} standard library, "
        "under the PSF licence in `contexts/LICENSE.txt`. No other text is shipped.\n"
    )
