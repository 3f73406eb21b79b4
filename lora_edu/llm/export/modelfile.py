"""What Ollama wants to know of a model: which files, how turns are written, where to stop."""

import os
from pathlib import Path
from typing import Any

from lora_edu.llm.base_model import DEFAULT_NAME, load_tokenizer
from lora_edu.llm.data.chat_template import end_of_turn, render
from lora_edu.llm.files import write_text

_SYSTEM, _PROMPT = "<the system's words>", "<the user's words>"


def write_modelfile(
    out: str | Path, model: str | Path, adapter: str | Path | None = None, base: str = DEFAULT_NAME
) -> Path:
    """Write Ollama's Modelfile for a GGUF model, with an adapter over it or without; return the file.

    Ollama has a template language of its own. The template is derived from the base's chat template, so that the text
    of a conversation is the same, letter by letter: a model that was trained on one text answers worse to another.

    Parameters
    ----------
    out
        The file, most often called ``Modelfile``. It names the others relative to its own folder.
    model
        The GGUF file of the model.
    adapter
        The GGUF file of an adapter; None: there is none.
    base
        As `load_base_model` takes it: whose chat template it is.

    Raises
    ------
    FileNotFoundError
        ``model`` or ``adapter`` is not there.
    ValueError
        The chat template has no fixed text before and after a turn, or one that Ollama would read as its own language.

    References
    ----------
    Ollama, ``docs/modelfile.md`` (FROM, ADAPTER, TEMPLATE, SYSTEM, PARAMETER) and ``docs/template.md``.
    """
    out, files = Path(out), {"FROM": Path(model)}
    if adapter is not None:
        files["ADAPTER"] = Path(adapter)
    for word, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(f"{word} must be a file that exists, got {file}")
    template, default, stop = ollama_template(load_tokenizer(base))
    here = out.resolve().parent
    lines = [f"{word} ./{Path(os.path.relpath(f.resolve(), here)).as_posix()}" for word, f in files.items()]
    lines += [f'TEMPLATE """{template}"""']
    if default:
        lines += [f'SYSTEM """{default}"""']
    lines += [f'PARAMETER stop "{stop}"', "PARAMETER temperature 0"]
    return write_text(out, "\n".join(lines) + "\n")


def ollama_template(tokenizer: Any) -> tuple[str, str, str]:
    """Return Ollama's template for a model's chat template, the system's words where none are given, and the end.

    Ollama fills the template once a turn of the user and joins the results; ``.System`` is empty after the first.

    Raises
    ------
    ValueError
        As `write_modelfile`.
    """
    system, user = {"role": "system", "content": _SYSTEM}, {"role": "user", "content": _PROMPT}
    before = render(tokenizer, [system])
    both = render(tokenizer, [system, user], add_generation_prompt=True)
    turn = both.removeprefix(before)
    alone = render(tokenizer, [user], add_generation_prompt=True)
    start, _, end = before.partition(_SYSTEM)
    default = alone.removesuffix(turn)
    fixed = both.startswith(before) and alone.endswith(turn) and default.startswith(start)
    if not (fixed and _PROMPT in turn and default.endswith(end)):
        raise ValueError(
            f"base must have a chat template that writes each turn alike, {tokenizer.name_or_path!r} has not"
        )
    stop, after = end_of_turn(tokenizer, [user])
    template = "".join(
        [
            "{{ if .System }}" + start + "{{ .System }}" + end + "{{ end }}",
            turn.replace(_PROMPT, "{{ .Prompt }}") + "{{ .Response }}" + stop + after,
        ]
    )
    for text in (before, both, alone, stop + after):
        if "{{" in text or '"""' in text:
            raise ValueError(f'base must have a chat template without {{{{ and """, got {text!r}')
    words = default.removeprefix(start).removesuffix(end) if default else ""
    return template, words, stop
