"""Name the repository everywhere at once: `python tools/set_repo.py owner/name`.

The present name is read from [project.urls] in pyproject.toml; badges, notebooks, citation and the rest
follow it.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+")


def present_slug(root: Path) -> str:
    """The owner/name that pyproject.toml gives."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    url = project["urls"]["Repository"]
    return url.removeprefix("https://github.com/").removesuffix(".git").strip("/")


def text_files(root: Path) -> dict[Path, bytes]:
    """The content of every text file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    files = [root / name for name in listed.split("\0") if (root / name).is_file()]
    contents = {file: file.read_bytes() for file in files}
    return {file: content for file, content in contents.items() if b"\0" not in content}


def set_repo(root: Path, slug: str) -> list[Path]:
    """Replace the repository's present name by `slug` and return the files that changed.

    Raises
    ------
    ValueError
        When `slug` is not of the form owner/name.
    """
    if not SLUG.fullmatch(slug):
        raise ValueError(f"REPO must be of the form owner/name, as GitHub writes it; got {slug!r}")
    # Not inside a longer name: "me/lora" is no part of "me/lora-course".
    present = re.compile(rf"(?<![\w.-]){re.escape(present_slug(root))}(?![\w-])".encode())
    changed = []
    for file, content in text_files(root).items():
        replaced = present.sub(slug.encode(), content)
        if replaced != content:
            file.write_bytes(replaced)
            changed.append(file)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make repo REPO=owner/name")
    try:
        for path in set_repo(Path.cwd(), sys.argv[1]):
            print(path.relative_to(Path.cwd()))
    except ValueError as error:
        sys.exit(str(error))
