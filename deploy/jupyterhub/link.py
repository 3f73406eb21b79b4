"""Links that hand out copies: who opens one logs in, gets the notebooks, and stands in the one that it names.

    python deploy/jupyterhub/link.py https://hub.example.org        # a line for each notebook
    python deploy/jupyterhub/link.py https://hub.example.org 04     # one
    python deploy/jupyterhub/link.py https://hub.example.org 04 --language de    # its translation

nbgitpuller, on the student's server, clones the repository, or brings a clone up to date. What a student has changed
stays; what the teacher has changed elsewhere arrives.
"""

import argparse
import tomllib
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "lora-edu"
"""Where the copy lies, in the student's home. No module's name: it would hide the package there."""


def course_repository() -> str:
    """The repository that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def notebook_names(number: str | None = None, language: str = "") -> list[str]:
    """The notebooks, or the one of that number; in a language their names begin with its folder, ``de/``.

    Raises
    ------
    ValueError
        There is no such notebook.
    """
    notebooks = ROOT / "notebooks"
    paths = sorted((notebooks / language).glob("[0-9]*.ipynb"))
    numbers = [path.name.partition("_")[0] for path in paths]
    if not paths or number not in (None, *numbers):
        there = ", ".join(numbers) or "none in this language"
        raise ValueError(f"there is no notebook {number or language}: it may be {there}")
    chosen = [path for path in paths if number in (None, path.name.partition("_")[0])]
    return [path.relative_to(notebooks).as_posix() for path in chosen]


def link(hub: str, notebook: str, repository: str, branch: str = "main") -> str:
    """The link to a copy of `notebook`, named as by `notebook_names`, on the JupyterHub at the address `hub`."""
    asked = {
        "repo": repository,
        "branch": branch,
        "targetpath": FOLDER,
        "urlpath": f"lab/tree/{FOLDER}/notebooks/{notebook}",
    }
    return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(asked)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Links that hand out copies of the notebooks.")
    parser.add_argument("hub", help="address of the JupyterHub")
    parser.add_argument("notebook", nargs="?", help="number of a notebook, such as 05b; all without it")
    parser.add_argument("--repository", default=course_repository(), help="what is cloned: a public address")
    parser.add_argument("--branch", default="main")
    parser.add_argument("--language", default="", help="of a translation, such as de; English without it")
    options = parser.parse_args()
    try:
        names = notebook_names(options.notebook, options.language)
    except ValueError as error:
        parser.error(str(error))
    for name in names:
        print(f"{name}\t{link(options.hub, name, options.repository, options.branch)}")


if __name__ == "__main__":
    main()
