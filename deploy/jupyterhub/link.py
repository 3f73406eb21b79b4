"""Links that hand out copies: who opens one logs in, gets the notebooks, and stands in the one that it names.

    python deploy/jupyterhub/link.py https://hub.example.org        # a line for each notebook
    python deploy/jupyterhub/link.py https://hub.example.org 04     # one

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


def notebook_names(number: str | None = None) -> list[str]:
    """The notebooks, or the one of that number.

    Raises
    ------
    ValueError
        There is no such notebook.
    """
    names = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    numbers = [name.partition("_")[0] for name in names]
    if number is not None and number not in numbers:
        raise ValueError(f"there is no notebook {number}: it may be {', '.join(numbers)}")
    return [name for name in names if number in (None, name.partition("_")[0])]


def link(hub: str, notebook: str, repository: str, branch: str = "main") -> str:
    """The link to a copy of `notebook`, a file's name, on the JupyterHub at the address `hub`."""
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
    options = parser.parse_args()
    try:
        names = notebook_names(options.notebook)
    except ValueError as error:
        parser.error(str(error))
    for name in names:
        print(f"{name}\t{link(options.hub, name, options.repository, options.branch)}")


if __name__ == "__main__":
    main()
