"""Name the repository everywhere at once: `python tools/set_repo.py owner/name`.

The present name is read from [project.urls] in pyproject.toml; badges, notebooks, citation and the rest
follow it, and so does the address of the published pages. With `--check` instead of a name it says what still
bears the name that the course comes with, and ends with exit status 1 if anything does.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+")
PLACEHOLDER = "/".join(("OWNER", "REPO"))  # in two pieces, or this line would be renamed, too


def present_slug(root: Path) -> str:
    """The owner/name that pyproject.toml gives."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    url = project["urls"]["Repository"]
    return url.removeprefix("https://github.com/").removesuffix(".git").strip("/")


def pages_address(slug: str) -> str:
    """Where GitHub Pages publishes a repository, without ``https://``."""
    owner, name = slug.split("/")
    root = f"{owner}.github.io"
    return root if name.lower() == root.lower() else f"{root}/{name}"


def names_of(slug: str) -> dict[bytes, re.Pattern[bytes]]:
    """What `slug` is called by, each with a pattern that finds it, but not inside a longer name.

    "me/lora" is no part of "me/lora-course".
    """
    names = [name.encode() for name in (slug, pages_address(slug))]
    return {name: re.compile(rb"(?<![\w.-])" + re.escape(name) + rb"(?![\w-])") for name in names}


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
    renamed = list(zip(names_of(present_slug(root)).values(), names_of(slug), strict=True))
    changed = []
    for file, content in text_files(root).items():
        replaced = content
        for present, new in renamed:
            replaced = present.sub(new, replaced)
        if replaced != content:
            file.write_bytes(replaced)
            changed.append(file)
    return changed


def places(root: Path, slug: str) -> Iterator[str]:
    """Each line that names the repository `slug`, as file:line."""
    patterns = names_of(slug).values()
    for file, content in text_files(root).items():
        for number, line in enumerate(content.split(b"\n"), start=1):
            if any(pattern.search(line) for pattern in patterns):
                yield f"{file.relative_to(root)}:{number}"


def main(argument: str) -> str | None:
    """Rename the repository in the present folder, or check its name; return what went wrong."""
    root = Path.cwd()
    if argument == "--check":
        found = list(places(root, PLACEHOLDER))
        print("\n".join(found) or f"This is {present_slug(root)}, everywhere.")
        return f"{len(found)} lines name {PLACEHOLDER}: make repo REPO=owner/name" if found else None
    try:
        for file in set_repo(root, argument):
            print(file.relative_to(root))
    except ValueError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else "usage: make repo REPO=owner/name")
