"""The chat page: one folder in which a browser answers with the base model and its adapters, the network off.

`.venv/bin/python -m tools.chat_page` (or `make chat`) builds build/lora-chat/ and serves it on this machine alone. The
folder is all that is needed: any web server can serve it. Your own adapter, a LoRA of the base model, joins the three
of the course with `--adapter mine=runs/mine`.
"""

import argparse
import functools
import html
import http.server
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_edu.llm.base_model import DEFAULT_NAME, TIERS, fetch_gguf
from lora_edu.llm.data import DATA, PERSONAS
from lora_edu.llm.export import export_gguf_adapter
from lora_edu.llm.files import whole_folder, write_json
from tools import npm

ROOT = Path(__file__).resolve().parents[1]
SOURCE = npm.WEB / "chat"
PAGE = ("chat.css", "chat.js")
LICENCE = (
    "wllama-licence.txt"  # wllama's own alone: npm's package holds none of llama.cpp, which is in its wasm
)
ENGINE = {"esm/index.js": "wllama.js", "esm/wasm/wllama.wasm": "wllama.wasm", "LICENCE": LICENCE}
BASE_FILE = "base.gguf"


def build(folder: Path, adapters: Mapping[str, Path]) -> Path:
    """Write the page's folder: page, engine, base (98 MB), adapters (1.8 MB each with those of the course).

    Parameters
    ----------
    folder
        New, or empty, or an earlier build, which is replaced. It appears whole, or not at all.
    adapters
        Name to the folder of an adapter in PEFT's format.

    Raises
    ------
    NodeMissing
        npm could not fetch the engine, wllama.
    ValueError
        A name is no word, or an adapter cannot be written as GGUF.
    FileExistsError
        The folder holds something else.
    """
    lowered = [name.lower() for name in adapters]  # some disks know one file under both cases
    for name in adapters:
        if not re.fullmatch(r"[\w-]+", name) or name.lower() == "base":
            raise ValueError(f"an adapter's name must be a word, and not 'base', got {name!r}")
        if lowered.count(name.lower()) > 1:
            raise ValueError(f"adapters' names must differ in more than capitals, got {', '.join(adapters)}")
    engine = npm.install(SOURCE) / "@wllama" / "wllama"
    with whole_folder(folder, known_by=LICENCE) as partial:
        (partial / "index.html").write_text(_page(), encoding="utf-8")
        for name in PAGE:
            shutil.copyfile(SOURCE / name, partial / name)
        for source, name in ENGINE.items():
            shutil.copyfile(engine / source, partial / name)
        shutil.copyfile(fetch_gguf(), partial / BASE_FILE)
        voices = {name: f"{name}.gguf" for name in adapters}
        for name, adapter in adapters.items():
            export_gguf_adapter(adapter, partial / voices[name], base=DEFAULT_NAME)
        write_json(partial / "models.json", {"base": BASE_FILE, "voices": voices})
    return folder


def _page() -> str:
    """The page, which names the model and its licence."""
    model = TIERS[DEFAULT_NAME]
    about = f"{model.title}, {model.licence}, {model.source.removeprefix('https://')}"
    return (SOURCE / "index.html").read_text(encoding="utf-8").replace("{model}", html.escape(about))


def server(folder: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """Return a server of the folder that this machine alone reaches; port 0: any that is free."""
    handler = functools.partial(_Quiet, directory=str(folder))
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the page and serve it until the keyboard stops it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "lora-chat", help="the page's folder")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=FOLDER", help="one more voice"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--build-only", action="store_true", help="do not serve it")
    settings = parser.parse_args(arguments)
    if not 0 <= settings.port <= 65_535:
        parser.error(f"--port must be from 0 to 65535, got {settings.port}")
    for text in settings.adapter:
        if "=" not in text:
            parser.error(f"--adapter must be NAME=FOLDER, got {text}")
    own = dict(text.partition("=")[::2] for text in settings.adapter)
    voices = {name: DATA / "adapters" / name for name in PERSONAS} | {n: Path(f) for n, f in own.items()}
    try:
        folder = build(settings.output, voices)
    except (npm.NodeMissing, ValueError, OSError) as error:
        raise SystemExit(f"The chat page was not built: {error}") from None
    print(f"The page is in {folder}", flush=True)
    if settings.build_only:
        return
    try:
        served = server(folder, settings.port)
    except OSError as error:
        reason = f"Port {settings.port} cannot be used ({error.strerror})"
        raise SystemExit(f"{reason}: choose another with --port, or 0 for any that is free") from None
    print(f"Open http://127.0.0.1:{served.server_address[1]} (stop with Ctrl-C)", flush=True)
    try:
        served.serve_forever()
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()
