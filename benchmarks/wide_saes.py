"""Peak memory of SAEs that are read in slices of latents, at growing widths, and whether the results equal the whole one's.

Random JumpReLU SAEs are written to disk as SAELens folders, and each goes through a pass in a process of its own: codes,
decode, moments and split, from activations on disk. `--whole` also loads the narrowest one whole and compares the codes.

    python benchmarks/wide_saes.py [--d-model 3584] [--tokens 8192] [--widths 65536 262144 1048576] [--l0 60] [--whole]
                                   [--encode-only] [--folder DIR]

The widest takes 15 GB of disk in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.one_sae_pass import CPU, LENGTH, anonymous_memory, write_activations
from dmcore.analysis.activations import Activations
from dmcore.analysis.encode import decoded, encoded, error_moments, groups_of, site_moments
from dmcore.analysis.partition import Partition
from dmcore.analysis.split_pass import SplitInputs, split_pass
from dmcore.progress import Reporter
from dmcore.sources.sae_layouts import open_weights
from dmcore.sources.sliced_dictionary import SlicedDictionary
from dmcore.specs import Settings

POOL = 2**24
SETTINGS = Settings(skip_positions=16)


def write_sae(folder: Path, d_in: int, d_sae: int, l0: float) -> None:
    """A random JumpReLU SAE in bfloat16, about L0 latents active on unit normal activations."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "sae_weights.safetensors"
    config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu"}
    config |= {
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.54.0"},
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    sizes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,), "threshold": (d_sae,)}
    header, offset = {}, 0
    for name, shape in sizes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    if weights.exists() and weights.stat().st_size == 8 + len(text) + offset:
        return
    g = torch.Generator().manual_seed(d_sae)
    pool = (torch.randn(POOL + d_sae, generator=g) / math.sqrt(d_in)).bfloat16().view(torch.int16).numpy()
    starts = torch.randint(POOL, (d_in,), generator=g).tolist()
    with weights.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in starts:
            file.write(pool[start : start + d_sae].tobytes())
        left = d_sae * d_in
        while left:
            size = min(left, POOL)
            file.write(pool[:size].tobytes())
            left -= size
        quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * l0 / d_sae, dtype=torch.float64)))
        for vector in (torch.zeros(d_sae), torch.zeros(d_in), torch.full((d_sae,), quantile)):
            file.write(vector.bfloat16().view(torch.int16).numpy().tobytes())


def measure(folder: Path, acts_folder: Path, work: Path, encode_only: bool) -> dict[str, float]:
    """One pass in this process: seconds and the peak of anonymous memory."""
    peak, stop = [anonymous_memory()], threading.Event()
    before = peak[0]

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    acts, sae = Activations(acts_folder), SlicedDictionary(open_weights(folder))
    n_active = 0
    if encode_only:
        for part in encoded(acts, sae, work, CPU):
            n_active += part.codes.latents.numel()
    else:
        partition, reporter = Partition.of(SETTINGS, acts.n_contexts, acts.length, 0), Reporter()
        inputs = site_moments(acts, partition, CPU, reporter, "site")
        targets = error_moments(encoded(acts, sae, work, CPU), inputs, partition, reporter, "sae", acts.n_tokens)
        given = SplitInputs(inputs, targets, partition, SETTINGS, 0, sae.d_sae, acts.n_tokens)
        found = split_pass(decoded(acts, sae, work, CPU), given, work, reporter, "sae")
        n_active = int(found.l0 * acts.n_tokens)
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    return {"seconds": seconds, "peak": peak[0], "before": before, "l0": n_active / acts.n_tokens}


def compare_whole(folder: Path, acts: Activations) -> None:
    """Codes and reconstructions of the first group: in slices against whole."""
    from sae_lens import SAE

    from dmcore.sources.dictionary import Dictionary

    chunks = next(groups_of(acts.chunks(), 1))
    x = acts.read_all(chunks, CPU)
    whole, sliced = Dictionary(SAE.load_from_disk(folder).eval()), SlicedDictionary(open_weights(folder))
    one, two = whole.encode(x), sliced.encode(x)
    same = torch.equal(one.latents, two.latents) and torch.equal(one.offsets, two.offsets)
    largest = float((one.values - two.values).abs().max()) if same else float("nan")
    recon = float((whole.decode(one, x) - sliced.decode(two, x)).abs().max())
    print(
        f"whole against slices: same latents {same}, largest difference of values {largest:.1e}, of Sae(x) {recon:.1e}"
    )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=3584)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--widths", type=int, nargs="+", default=[65_536, 262_144, 1_048_576])
    parser.add_argument("--l0", type=float, default=60)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--encode-only", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*(Path(p) for p in arguments.measure), arguments.encode_only)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        (folder / "acts").mkdir()
        acts = write_activations(folder / "acts", arguments.tokens // LENGTH * LENGTH, arguments.d_model)
        peaks = []
        for width in arguments.widths:
            sae = (arguments.folder or folder) / f"jumprelu_{arguments.d_model}_{width}"
            write_sae(sae, arguments.d_model, width, arguments.l0)
            (folder / str(width)).mkdir()
            command = [sys.executable, __file__, "--measure", str(sae), str(folder / "acts"), str(folder / str(width))]
            command += ["--encode-only"] if arguments.encode_only else []
            said = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            peaks.append(said["peak"])
            rate = acts.n_tokens / said["seconds"]
            print(
                f"{width:>9,} latents: peak {said['peak'] / 2**30:.2f} GiB ({said['before'] / 2**30:.2f} before the pass), "
                f"{said['seconds']:.0f} s, {rate:,.0f} tokens/s, L0 {said['l0']:.0f}",
                flush=True,
            )
            if arguments.whole and width == min(arguments.widths):
                compare_whole(sae, acts)
        print(f"largest peak / smallest: {max(peaks) / min(peaks):.3f}  (asked: at most 1.1)")


if __name__ == "__main__":
    main()
