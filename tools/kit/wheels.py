"""The wheels that the course needs on a machine: resolved for it by uv, fetched by pip, on any other machine."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# pip takes each name literally, but manylinux2014, by which it means the two older names as well.
LINUX = [*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64"]
PLATFORMS = {
    "linux": ("x86_64-manylinux_2_28", LINUX),
    "macos": ("aarch64-apple-darwin", ["macosx_14_0_arm64"]),
    "windows": ("x86_64-pc-windows-msvc", ["win_amd64"]),
}
"""The target as uv names it, and the platforms of wheels as pip does; both as far as PyTorch has wheels for them."""


class KitFailed(Exception):
    """No kit can be made; the message says why."""


def fetch_wheels(root: Path, extra: str, model: str, platform: str, python: str, folder: Path) -> None:
    """Fetch to `folder` the wheels that a checkout needs on `platform`.

    Parameters
    ----------
    root
        The checkout, with pyproject.toml and constraints.txt.
    extra
        Which of its optional dependencies.
    model
        Requirement that brings the base model; nothing that it depends on is fetched.
    platform
        A key of `PLATFORMS`.
    python
        Such as ``"3.11"``.

    Raises
    ------
    KitFailed
        Something cannot be resolved or fetched, or PyTorch came with CUDA.
    """
    needed = resolve(root, extra, platform, python)
    torch = [line for line in needed if line.startswith("torch==")]
    others = [line for line in needed if line not in torch]
    download([*others, model], platform, python, folder)
    if torch and platform == "linux":
        download(torch, platform, python, folder, ["--retries", "1", *cpu_index(torch)])
        require_cpu_build(folder)
    elif torch:
        download(torch, platform, python, folder)


def resolve(root: Path, extra: str, platform: str, python: str) -> list[str]:
    """What a checkout needs on `platform`, its build included, as exact requirements; no packages for CUDA."""
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    target = PLATFORMS[platform][0]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header"]
    command += ["--python-platform", target, "--python-version", python, "--extra", extra]
    resolved = subprocess.run(
        [*command, "-c", "constraints.txt", "pyproject.toml", "-"],
        cwd=root,
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"},
        input="\n".join(build),
        stdout=subprocess.PIPE,
        text=True,
    )
    if resolved.returncode:
        raise KitFailed(f"uv found no packages for {platform} and Python {python}; its own words are above")
    # Of PyTorch with CUDA alone, as `make constraints` leaves them out.
    return [line for line in resolved.stdout.split() if not line.startswith(("nvidia", "cuda", "triton"))]


def cpu_index(torch: list[str]) -> list[str]:
    """pip's option for PyTorch's own index, which alone has the build for Linux without CUDA.

    uv knows its address. Where it does not answer there is no option: pip may have the build from a folder.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-deps"]
    asked = subprocess.run(
        [*command, "--torch-backend=cpu", "--emit-index-annotation", "-"],
        env={**os.environ, "UV_HTTP_RETRIES": "1"},
        input="\n".join(torch),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return [f"--extra-index-url={address}" for address in re.findall(r"# from (\S+)", asked.stdout)]


def download(
    requirements: list[str], platform: str, python: str, folder: Path, options: list[str] | None = None
) -> None:
    """Fetch exactly these wheels by pip, which reads its settings: mirrors, proxies, local folders."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--dest", str(folder), *(options or [])]
    for tag in PLATFORMS[platform][1]:
        command += ["--platform", tag]
    if subprocess.call([*command, *requirements]):
        raise KitFailed(
            f"pip could not fetch the wheels for {platform} and Python {python}; its own words are above"
        )


def require_cpu_build(folder: Path) -> None:
    """Raise KitFailed when PyTorch's wheel for Linux is the one for CUDA, which needs gigabytes more."""
    found = [name for name in names_of(folder) if name.startswith("torch-") and "linux" in name]
    if not all("+cpu" in name for name in found):
        raise KitFailed(
            f"the CPU build of PyTorch was not found: is PyTorch's own index out of reach? got {', '.join(found)}"
        )


def names_of(folder: Path) -> Iterator[str]:
    """The names of the wheels in a folder."""
    return (wheel.name for wheel in folder.glob("*.whl"))
