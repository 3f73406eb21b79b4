"""Record the events adapter of notebook 13: train it, then count its answers in PyTorch and in llama.cpp.

    python -m tools.record_events_adapter train --output data/adapters --revision REVISION
    python -m tools.record_events_adapter score --output data/runs/events_adapter.json --revision REVISION

``train``, on a GPU, takes 200 steps of eight sentences at each of `RATES`, twice: over `load_events("fit")`, scored on
`load_events("validation")`, and over all 1,600. The rate that is best on validation decides which of the latter is
kept, as ``events/`` (PEFT's format, float16, below 1 MB), and ``events/training.json`` says how it was trained.

``score``, on a CPU, asks that adapter the same sentences of the test file by each of `WAYS`, one after another. A way
that the record holds already is not asked again, so that a run that was ended goes on.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lora_edu.classroom.experiments import outside
from lora_edu.llm.base_model import DEFAULT_NAME, fetch_gguf, load_base_model, load_config
from lora_edu.llm.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_adapter, write_adapter_files
from lora_edu.llm.data import DATA, load_events
from lora_edu.llm.data.extraction import generate_answers, parse_event
from lora_edu.llm.export import export_gguf_adapter, export_gguf_model, export_merged
from lora_edu.llm.files import write_json
from lora_edu.llm.gguf_layout import separate_rows
from lora_edu.llm.provenance import provenance
from tools import npm
from tools.record_gpu_runs import COMMON, common_of, run

ADAPTER = DATA / "adapters" / "events"
RATES = (2.5e-3, 5e-3, 1e-2)
RECIPE = COMMON | {"method": "lora", "backend": "scratch", "target_modules": ["q_proj", "v_proj"], "r": 8}
RECIPE |= {"lora_alpha": 16, "seed": 0}
SENTENCES = 200  # the test file's first ones: patterns that training showed, and others, mixed


# ---------------------------------------------------------------- train


def train(output: Path, revision: str, seconds: float) -> None:
    """Train at each rate, over the validation's split and over all lines, side by side; keep the chosen adapter."""
    folder = Path("build") / "events_adapter"
    deadline = time.monotonic() + seconds
    splits = {"tuning": common_of("tune", folder) | RECIPE, "final": RECIPE}
    runs = [(name, {"learning_rate": rate}) for name in splits for rate in RATES]
    with ThreadPoolExecutor(len(runs)) as pool:
        results = list(pool.map(lambda r: run(r[1], splits[r[0]], folder / r[0], deadline), runs))
    tuning = [result for (name, _), result in zip(runs, results, strict=True) if name == "tuning"]
    for entry in tuning:
        entry.pop("losses", None)
    best = max(
        (r for r in tuning if "failed" not in r), key=lambda r: r["exact_match"] + r["exact_match_unseen"]
    )
    finished = folder / "final" / str(best["learning_rate"])
    keep(finished / "adapter", output / "events")
    record = json.loads((finished / "run.json").read_text(encoding="utf-8"))
    write_training(output / "events", revision, record, tuning)
    failed = [result for result in results if "failed" in result]
    print(f"kept the rate {best['learning_rate']}; failed: {failed}", flush=True)


def keep(adapter: Path, out: Path) -> None:
    """Write an adapter in 16 bits, naming the base and no folder of this machine."""
    config = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = DEFAULT_NAME
    tensors = load_file(adapter / WEIGHTS_FILE)
    write_adapter_files(out, config, {key: tensor.half() for key, tensor in tensors.items()})


def write_training(out: Path, revision: str, run: dict[str, Any], tuning: list[dict[str, Any]]) -> None:
    """Write how the adapter was trained, and what was tried before, as ``training.json``."""
    keys = ("seed", "config", "device", "versions", "losses", "kept_step")
    origin = {"command": "python -m tools.record_events_adapter", "revision": revision}
    write_json(out / "training.json", origin | {key: run[key] for key in keys} | {"tuning": tuning})


# ---------------------------------------------------------------- score


def by_pytorch(quantization: Any) -> Callable[[Sequence[str], Path], dict[str, Any]]:
    """The adapter beside the base that PyTorch holds, in float32 arithmetic."""

    def ask(sentences: Sequence[str], _folder: Path) -> dict[str, Any]:
        model, tokenizer = load_base_model(dtype="float32", quantization=quantization)
        load_adapter(model, ADAPTER)
        return {"answers": generate_answers(model, tokenizer, sentences, progress="PyTorch")}

    return ask


def by_llama_cpp(
    quantization: Any, merged: str | None, woven: bool = True
) -> Callable[[Sequence[str], Path], dict[str, Any]]:
    """The adapter beside the course's GGUF file; or merged into the base, in the format `merged`.

    Without `woven` the file holds the rows of B in peft's order, as if its tensors had only been given new names.
    """

    def ask(sentences: Sequence[str], folder: Path) -> dict[str, Any]:
        adapter, model = None, fetch_gguf()
        if merged is None:
            source = ADAPTER if woven else not_to_be_woven(folder / "renamed")
            adapter = export_gguf_adapter(source, folder / "events.gguf")
        else:
            whole = export_merged(ADAPTER, folder / "merged", "float32", quantization=quantization)
            model = export_gguf_model(whole, folder / "merged.gguf", merged)
        replies = llama_cpp(model, adapter, sentences)
        files = [model] if adapter is None else [model, adapter]
        return {
            "answers": [reply["text"] for reply in replies],
            "bytes": sum(f.stat().st_size for f in files),
        }

    return ask


def not_to_be_woven(folder: Path) -> Path:
    """Write the adapter with the query rows of B in such an order that the export's own brings them back."""
    config = json.loads((ADAPTER / CONFIG_FILE).read_text(encoding="utf-8"))
    heads, tensors = load_config().num_attention_heads, load_file(ADAPTER / WEIGHTS_FILE)
    turned = {k: separate_rows(t, heads) if "q_proj.lora_B" in k else t for k, t in tensors.items()}
    return write_adapter_files(folder, config, {key: tensor.contiguous() for key, tensor in turned.items()})


WAYS = {
    "pytorch, Q4_1": by_pytorch(None),
    "llama.cpp, Q4_1 file": by_llama_cpp(None, None),
    "llama.cpp, Q4_1 file, rows not woven": by_llama_cpp(None, None, woven=False),
    "pytorch, NF4": by_pytorch("nf4"),
    "llama.cpp, NF4 merged, f16": by_llama_cpp("nf4", "f16"),
    "llama.cpp, merged, f16": by_llama_cpp(None, "f16"),
    "llama.cpp, merged, q8_0": by_llama_cpp(None, "q8_0"),
    "llama.cpp, merged, q4_0": by_llama_cpp(None, "q4_0"),
}
"""Who computes, over which base: the course's file (linear layers in Q4_1), or its weights rounded to NF4."""


def llama_cpp(model: Path, adapter: Path | None, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """Ask llama.cpp; each reply has ``prompt`` and ``reply`` (token ids) and ``text``.

    Raises
    ------
    tools.npm.NodeMissing
        JavaScript cannot run here.
    """
    npm.install(outside.LLAMA)
    return outside.answer(npm.node(), model, adapter, list(outside.prompts(sentences)))


def score(output: Path, revision: str, sentences: int, ways: Sequence[str]) -> None:
    """Ask by each way that the record lacks, and write the record after each."""
    lines = load_events("test")[:sentences]
    record = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    training = json.loads((ADAPTER / "training.json").read_text(encoding="utf-8"))
    if record and (record["sentences"], record["training"]) != (len(lines), training):
        raise ValueError(f"{output} holds other sentences, or those of another adapter: name a new file")
    asked = record.get("ways", {})
    for name in ways:
        if name in asked:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = WAYS[name]([line["sentence"] for line in lines], Path(folder))
        right = [parse_event(a) == line["event"] for a, line in zip(found["answers"], lines, strict=True)]
        asked[name] = {"exact_match": sum(right) / len(right), "right": right, **found}
        asked[name]["seconds"] = time.perf_counter() - start
        print(name, asked[name]["exact_match"], f"{asked[name]['seconds']:.0f} s", flush=True)
        write_json(output, head(revision, len(lines)) | {"ways": {w: asked[w] for w in WAYS if w in asked}})


def head(revision: str, sentences: int) -> dict[str, Any]:
    """Where the numbers come from, and how the adapter was trained."""
    packages = json.loads((npm.WEB / "llama" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    return {
        "command": "python -m tools.record_events_adapter score",
        **provenance(),
        "revision": revision,
        "llama_cpp": packages,
        "sentences": sentences,
        "unseen": sum(line["unseen_pattern"] for line in load_events("test")[:sentences]),
        "training": json.loads((ADAPTER / "training.json").read_text(encoding="utf-8")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["train", "score"])
    parser.add_argument("--output", type=Path, required=True, help="folder for events/; or the JSON file")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument("--seconds", type=float, default=520, help="time for all trainings")
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="of the test file, that are asked")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS), help="who is asked")
    settings = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if settings.what == "train":
        train(settings.output, settings.revision, settings.seconds)
    else:
        score(settings.output, settings.revision, settings.sentences, settings.ways)


if __name__ == "__main__":
    main()
