"""The command `python -m lora_edu.llm.export`; it ends with 0 when the file is written, 2 when it was refused."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lora_edu.llm import export
from lora_edu.llm.base_model import DEFAULT_NAME, require_consent
from lora_edu.llm.console import say
from lora_edu.llm.export.source import base_name

_BASE = "model under the adapter: smollm2-135m, a folder or a hub id; default: what the adapter names"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    settings = _parser().parse_args(arguments)
    try:
        written = _run(settings)
    except (ValueError, TypeError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    say(str(written))
    return 0


def _run(settings: argparse.Namespace) -> Path:
    if settings.what == "adapter":
        return export.export_gguf_adapter(settings.folder, settings.out, settings.base)
    if settings.what == "merged":
        base = base_name(settings.folder, settings.base)
        require_consent(base, settings.allow_download, "--allow-download")
        return export.export_merged(
            settings.folder, settings.out, settings.dtype, settings.base, settings.quantization
        )
    if settings.what == "model":
        return export.export_gguf_model(settings.folder, settings.out, settings.quantization)
    return export.write_modelfile(
        settings.out, settings.model, settings.adapter, settings.base or DEFAULT_NAME
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lora_edu.llm.export",
        description="Write an adapter, or base and adapter in one, in the formats that other programs run.",
    )
    commands = parser.add_subparsers(dest="what", required=True)

    adapter = commands.add_parser("adapter", help="the adapter alone as GGUF, for llama.cpp and Ollama")
    merged = commands.add_parser("merged", help="base and adapter in one folder, for transformers and vLLM")
    for command in (adapter, merged):
        command.add_argument("folder", help="adapter in PEFT's format, or folder of a fine-tune")
        command.add_argument("out", help="file.gguf" if command is adapter else "new folder")
        command.add_argument("--base", help=_BASE)
    merged.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    merged.add_argument(
        "--quantization",
        choices=("nf4",),
        help="nf4: round the base to NF4 first, which QLoRA was trained on",
    )
    merged.add_argument(
        "--allow-download",
        action="store_true",
        help="fetch a base of more than 1 GB from the hub, if it is not here",
    )

    model = commands.add_parser("model", help="a whole model as one GGUF file")
    model.add_argument("folder", help="what `merged` wrote, or a model's name")
    model.add_argument("out", help="file.gguf")
    model.add_argument("--quantization", default="q8_0", choices=tuple(export.QUANTIZATIONS))

    modelfile = commands.add_parser("modelfile", help="Ollama's Modelfile for GGUF files")
    modelfile.add_argument("out", help="the Modelfile")
    modelfile.add_argument("--model", required=True, help="GGUF file of the model")
    modelfile.add_argument("--adapter", help="GGUF file of an adapter")
    modelfile.add_argument(
        "--base", help=f"whose chat template it is, as for the others; default {DEFAULT_NAME}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
