"""The course for machines without a network, in one folder or archive: `python -m tools.kit` writes it to build/kit/.

It holds wheels, base model, book, slides, source with all notebooks, checksums, and what sets it up: tools/kit/files.
"""

import argparse
import io
import platform as this
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from lora_edu.llm.base_model.fetch import REQUIREMENT
from lora_edu.llm.files import whole, whole_folder, write_json
from tools.kit.files import check, start
from tools.kit.wheels import PLATFORMS, KitFailed, fetch_wheels
from tools.publish import NEEDED

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(__file__).resolve().parent / "files"
LIMIT = 2_500_000_000
"""Bytes for each platform, at most."""
SPACE = 1_500_000_000
"""Bytes that are free before it begins, for each platform: the kit, and what pip keeps while it fetches."""


def write_kit(
    folder: Path,
    platforms: list[str],
    python: str,
    root: Path = ROOT,
    extra: str = "course",
    model: str = REQUIREMENT,
) -> str:
    """Write a kit whole or not at all; one that is there already is replaced when the new one is whole.

    Parameters
    ----------
    folder
        New, empty, or an older kit.
    platforms
        Keys of `PLATFORMS`.
    python
        The version for which its wheels are, such as ``"3.11"``.
    root, extra, model
        The checkout, which of its optional dependencies, and the requirement that brings the base model.

    Returns
    -------
    str
        The sha256 of the kit's list of checksums.

    Raises
    ------
    KitFailed
        The checkout has uncommitted changes, book or slides are not built, wheels are missing, or it grows too large.
    FileExistsError, OSError
        As `whole_folder`.
    """
    commit = clean_commit(root)
    for file in NEEDED:
        if not (root / "build" / file).is_file():
            raise KitFailed(f"{file} is missing in {root / 'build'}: make book")
    with whole_folder(folder, needed=SPACE * len(platforms), known_by="kit.json") as partial:
        for platform in platforms:
            fetch_wheels(root, extra, model, platform, python, partial / "wheels")
        for part in ("book", "slides"):
            shutil.copytree(root / "build" / part, partial / part)
        unpack_source(root, commit, partial / "course")
        for file in FILES.glob("*.*"):
            shutil.copyfile(file, partial / file.name)
        (partial / "python-version").write_text(f"{python}\n", newline="\n")
        write_json(partial / "kit.json", {"platforms": platforms, "commit": commit}, indent=1)
        write_sums(partial)
        size = size_of(partial)
        if size > LIMIT * len(platforms):
            raise KitFailed(f"the kit has {size / 1e9:.1f} GB, more than {LIMIT / 1e9} a platform")
        return check.digest(partial / check.SUMS)


def clean_commit(root: Path) -> str:
    """The commit that is checked out, where no tracked file differs from it."""
    if git(root, "status", "--porcelain", "--untracked-files=no"):
        raise KitFailed(
            "the checkout has changes that are not committed: the kit holds the source of a commit"
        )
    return git(root, "rev-parse", "HEAD").decode().strip()


def git(root: Path, *arguments: str) -> bytes:
    """What a git command in `root` prints."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, check=True, stdout=subprocess.PIPE).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise KitFailed(f"the kit needs the course as a git checkout: {error}") from error


def unpack_source(root: Path, commit: str, folder: Path) -> None:
    """Write the files of a commit to `folder`."""
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", "--format=tar", commit))) as archive:
        archive.extractall(folder, filter="data")


def write_sums(folder: Path) -> None:
    """List the sha256 of every file, as check.py and `sha256sum --check` read it."""
    lines = [f"{check.digest(folder / name)}  {name}\n" for name in check.names(folder)]
    (folder / check.SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def write_archive(kit: Path, archive: Path) -> None:
    """Write a kit as a zip file, whole or not at all; the same kit gives the same bytes."""
    with whole(archive) as [partial], zipfile.ZipFile(partial, "w") as zipped:
        for name in [*check.names(kit), check.SUMS]:
            entry = zipfile.ZipInfo(f"{kit.name}/{name}")
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with (kit / name).open("rb") as source, zipped.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def this_platform() -> str:
    """The platform of this machine, where there are kits for it."""
    return start.MACHINES.get((sys.platform, this.machine()), "all")


def main() -> None:
    """Write the kit that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.kit", description="Write the course for machines without a network."
    )
    names = [*PLATFORMS, "all"]
    parser.add_argument(
        "--platform", choices=names, default=this_platform(), help="default: that of this machine"
    )
    python = "{}.{}".format(*sys.version_info[:2])
    parser.add_argument("--python", default=python, help="for which version of Python; default: %(default)s")
    parser.add_argument("--archive", action="store_true", help="one zip file instead of a folder")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "kit", help="where it is written")
    arguments = parser.parse_args()
    if not re.fullmatch(r"3\.\d+", arguments.python):
        parser.error(f"--python must be such as 3.11, got {arguments.python}")
    platforms = list(PLATFORMS) if arguments.platform == "all" else [arguments.platform]
    name = f"lora_edu-kit-{arguments.platform}-python{arguments.python}"
    try:
        if arguments.archive:
            made = arguments.output / f"{name}.zip"
            arguments.output.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=arguments.output, prefix=f".{name}-") as work:
                sums = write_kit(Path(work) / name, platforms, arguments.python)
                write_archive(Path(work) / name, made)
        else:
            made = arguments.output / name
            sums = write_kit(made, platforms, arguments.python)
    except (KitFailed, OSError) as error:
        sys.exit(str(error))
    size = size_of(made) if made.is_dir() else made.stat().st_size
    print(f"The kit: {made}, {size / 1e6:,.0f} MB")
    print(f"The sha256 of its {check.SUMS}, which check.py prints too:\n{sums}")


if __name__ == "__main__":
    main()
