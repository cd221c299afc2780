"""Write docs/benchmarks.md and its chart from the JSON files that `benchmarks/all.py` left in docs/benchmarks.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import altair as alt
import polars as pl

from dmcore.run.commands.precision import WORDS

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, PAGE, CHART = DOCS / "benchmarks", DOCS / "benchmarks.md", "pass-over-floor.svg"
PRECISION = "precision-demo.json"
GIB = 2**30
NOT = "not measured"

INTRO = """# Benchmarks

How long the work takes and how much memory, each beside its floor or a plain version in the same run. Made by
`python benchmarks/page.py` from what `python benchmarks/all.py` writes. Seconds are those of one machine; ratios carry over
better.

- **Floor** of a pass: the bare product of the activations and the encoder's weights in the same precision, nothing kept.
- **Pass**: sparse codes and moments of one SAE with random weights (JumpReLU), from activations on disk to files on disk.
- **Plain**: the same, as one would write it first: dense codes, dense decode, products in float64, some tokens at a time
  so that it fits at all (`benchmarks/plain_pass.py`).
"""

ON_GPU = """## What a GPU does

Written, compared with the CPU's code path by path where that can be done on a CPU, and **not measured** unless a table below says
so. To fill this page on a GPU host (some minutes, by the count of operations):

```bash
python benchmarks/all.py --device cuda --out docs/benchmarks/gpu.json && python benchmarks/page.py
pytest tests/gpu -m gpu                    # CPU and GPU compared, stage by stage, and the estimates of memory
python -m dmcore precision STUDY SAE       # what tf32 and bfloat16 change of an SAE's own numbers
```

- *Encode* goes in blocks of 8,192 latents. `--precision float32`, the default, screens in bfloat16 and makes float32
  products of what passes, so that its answer is float32's (`dmcore/math/halved_encoders.py`); `tf32` and `bfloat16`
  round the inputs of the product, and their results have keys and a name of their own.
- *Memory*: an encoder is kept in four bytes a weight, bfloat16 and what is missing to float32. {million}, by the estimate
  that is made before an SAE is loaded (`dmcore/math/device_memory.py`).
- *Pursuit* finds its atoms by a screen in bfloat16 with exact products of what passes, as on a CPU (`dmcore/math/best_atom.py`).
- *Transfers*: a thread reads the next activations into one of two pinned buffers, a stream of its own copies them; codes go back
  one chunk behind the work.
- *Moments* are made in float64 on chips that are fast at it (V100, A100, H100, H200, B200), elsewhere from slices of
  float32 whose products are exact (`dmcore/math/exact_product.py`).
- *Too little memory* is said before an SAE is begun; where it runs out in the middle, half as many tokens are tried, and
  so on; if that does not help, the SAE is named as failed and the sweep goes on.
- `torch.compile` and Triton are left out: where they pay can only be told by measuring. By the count of operations, what
  is left to gain is the products of the candidates of the screen (two reads of 4 bytes a candidate and dimension), and
  the screen's own reading of its product.
- A pass of 1.1 times its floor in bfloat16 is not claimed: at d_model 3,584 and 131,072 latents the moments alone have
  2.7 % of the floor's operations, in float64 at a fifteenth of the rate of bfloat16.
"""


def million() -> str:
    """The estimate for a million latents, in words."""
    import torch

    from dmcore.math.device_memory import sae_memory

    found = sae_memory(3584, 2**20, torch.device("cuda"))
    return f"1,048,576 latents at d_model 3,584 take {found.words()}"


def load() -> list[dict[str, Any]]:
    """Every run, those of GPUs first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    runs = [run for run in found if isinstance(run, dict)]
    return sorted(runs, key=lambda run: run["about"]["kind"] != "cuda")


def machine(about: dict[str, Any]) -> list[str]:
    """What a run was made on."""
    versions = about["versions"]
    where = f"{about['device']}, {about['cores']} cores, {about['threads']} threads"
    if about["kind"] == "cpu":
        where += (
            f"; load {about['load']:.0f} when it began, so others worked on it"
            if about["load"] > about["cores"]
            else ""
        )
        where += ". Times are processor times, but for the growth with processes"
    return [
        f"## {'GPU' if about['kind'] == 'cuda' else 'CPU'}: {about['device']}",
        "",
        f"{where}. Python {versions['python']}, torch {versions['torch']}, CUDA {versions['cuda'] or 'none'}; moments in "
        f"{about['moments']}. {about['date'][:10]}, commit {about['commit']}.",
        "",
    ]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' for _ in head)} |",
        *(f"| {' | '.join(r)} |" for r in rows),
        "",
    ]


def seconds(value: float) -> str:
    """`1.23 s`, `45 ms`."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def gib(value: float | None) -> str:
    """`1.23 GiB`."""
    return "-" if value is None else f"{value / GIB:.2f} GiB"


def of(run: dict[str, Any], section: str) -> list[dict[str, Any]]:
    """The rows of a section."""
    return [row for row in run["rows"] if row["section"] == section]


def pass_table(run: dict[str, Any]) -> list[str]:
    """Passes over their floor."""
    rows = []
    for r in of(run, "pass"):
        spread = ", ".join(f"{v:.2f}" for v in r["seconds"]["pass"])
        rows.append([
            f"{r['d_sae']:,}", r["precision"], f"{r['tokens']:,}", f"{r['l0']:.0f}", seconds(r["floor_s"]),
            f"{seconds(r['pass_s'])} ({spread})", f"{r['over_floor']:.2f}", seconds(r["plain_s"]),
            f"{r['plain_over_pass']:.1f}", gib(r["peak_bytes"]), gib(r["estimate_bytes"]),
        ])  # fmt: skip
    if not rows:
        return []
    d_model = of(run, "pass")[0]["d_model"]
    head = [
        "latents",
        "precision",
        "tokens",
        "L0",
        "floor",
        "pass (each)",
        "pass / floor",
        "plain",
        "plain / pass",
        "peak",
        "estimate",
    ]
    return [f"### One SAE, d_model {d_model:,}", "", *table(head, rows)]


def other_tables(run: dict[str, Any]) -> list[str]:
    """Growth, sweep, workers, pursuit."""
    lines: list[str] = []
    if grown := of(run, "growth, tokens"):
        first = grown[0]
        rows = [
            [f"{r['tokens']:,}", seconds(r["seconds"]), f"{r['seconds'] / first['seconds']:.2f}", gib(r["peak_bytes"]),
             f"{r['peak_bytes'] / first['peak_bytes']:.2f}"] for r in grown
        ]  # fmt: skip
        head = ["tokens", "pass", "to the first", "peak", "to the first"]
        lines += [f"### Growth with tokens, {first['d_sae']:,} latents", "", *table(head, rows)]
    if swept := of(run, "sweep"):
        rows = [[str(r["saes"]), seconds(r["seconds"]), seconds(r["seconds"] / r["saes"])] for r in swept]
        about = f"d_model {swept[0]['d_model']:,}, {swept[0]['tokens']:,} tokens, widths {swept[0]['widths'][0]:,} to "
        lines += [
            "### A sweep of 60 SAEs of one site",
            "",
            f"{about}{swept[0]['widths'][-1]:,}; codes, moments and split.",
            "",
        ]
        lines += table(["SAEs done", "time", "an SAE"], rows)
    if worked := of(run, "growth, workers"):
        rows = [[str(r["workers"]), str(r["saes"]), seconds(r["seconds"]), f"{r['efficiency']:.2f}"] for r in worked]
        lines += ["### Growth with processes", "", *table(["processes", "SAEs", "time", "efficiency"], rows)]
    if pursued := of(run, "pursuit"):
        rows = [
            [f"{r['d_sae']:,}", str(r["d_model"]), str(r["l0"]), f"{r['tokens']:,}", seconds(r["pass_s"]), seconds(r["plain_s"]),
             f"{r['plain_over_pass']:.1f}"] for r in pursued
        ]  # fmt: skip
        head = ["latents", "d_model", "L0", "tokens", "gradient pursuit", "plain", "plain / this"]
        lines += ["### Pursuit", "", *table(head, rows)]
    return lines


def precision_table() -> list[str]:
    """What `python -m dmcore precision demo --json` said."""
    path = RESULTS / PRECISION
    if not path.exists():
        return []
    rows = [r for r in json.loads(path.read_text(encoding="utf-8")) if r["precision"] != "float32"]
    first = rows[0]
    cells = [
        [r["precision"], WORDS[r["number"]], f"{r['value']:.5g}", f"{r['difference']:+.2g}",
         f"{r['difference_low']:+.2g} to {r['difference_high']:+.2g}"] for r in rows
    ]  # fmt: skip
    said = f"{first['sae']}: {first['n_tokens']:,} tokens of {first['n_contexts']} contexts, on {first['device']}; paired, "
    return [
        "## What tf32 and bfloat16 change of the demo's numbers", "", f"{said}with 95 % intervals over contexts.", "",
        *table(["precision", "number", "value", "less float32's", "95 % interval"], cells),
    ]  # fmt: skip


def draw(runs: list[dict[str, Any]]) -> list[str]:
    """The chart of the passes; nothing where there is none."""
    rows = [
        {"latents": r["d_sae"], "ratio": r[key], "what": what, "run": f"{run['about']['device']}, {r['precision']}"}
        for run in runs
        for r in of(run, "pass")
        for key, what in (("over_floor", "pass / floor"), ("plain_ratio", "plain / floor"))
        for r in [{**r, "plain_ratio": r["plain_s"] / r["floor_s"]}]
    ]
    if not rows:
        return []
    chart = (
        alt.Chart(pl.DataFrame(rows), title="How many times its bare product does a pass take?")
        .mark_line(point=True)
        .encode(
            alt.X("latents:Q", scale=alt.Scale(type="log", base=2), title="latents"),
            alt.Y("ratio:Q", scale=alt.Scale(type="log"), title="times the floor"),
            alt.Color("what:N", title=None, scale=alt.Scale(range=["#0072B2", "#999999"])),
            alt.StrokeDash("run:N", title=None),
        )
        .properties(width=480, height=240)
    )
    chart.save(RESULTS / CHART)
    return [f"![Pass and plain version over the floor, by width](benchmarks/{CHART})", ""]


def main() -> None:
    """Write the page."""
    runs = load()
    lines = [INTRO, *draw(runs), ON_GPU.format(million=million())]
    if not any(run["about"]["kind"] == "cuda" for run in runs):
        head = ["latents", "precision", "pass / floor", "plain / pass", "peak"]
        rows = [[w, p, NOT, NOT, NOT] for w in ("16,384", "131,072", "1,048,576") for p in ("float32", "bfloat16")]
        lines += ["### On a GPU, d_model 3,584, 246,900 tokens", "", *table(head, rows)]
    for run in runs:
        lines += [*machine(run["about"]), *pass_table(run), *other_tables(run)]
    lines += precision_table()
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
