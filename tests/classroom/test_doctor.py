"""The doctor's report, and `ensure_packages` in a virtual environment of its own."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from lora_edu.classroom.doctor import GIB, doctor, ensure_packages, tier
from lora_edu.llm import tiers

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("capability", "gib", "expected"),
    [
        (None, 0, "cpu"),
        ((7, 5), 1, "cpu"),
        ((7, 5), 6, "t4"),
        ((7, 5), 14.56, "t4"),
        ((8, 9), 12, "large"),
        ((9, 0), 80, "large"),
    ],
)
def test_the_tier_is_that_of_the_model_that_is_proposed(monkeypatch, capability, gib, expected):
    """A pretended GPU, by its compute capability and its free memory; the disk has room."""
    properties = type("Properties", (), {"total_memory": int(gib * GIB), "name": "pretended"})
    for name, answer in {
        "is_available": capability is not None,
        "get_device_capability": capability,
        "get_device_name": "pretended",
        "get_device_properties": properties,
        "mem_get_info": (int(gib * GIB), int(gib * GIB)),
        "memory_reserved": 0,
        "memory_allocated": 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(tiers, "free_disk_bytes", lambda _: 10**12)
    report = doctor()
    assert report["tier"] == expected and report["model"] == tiers.propose().name


def test_doctor_prints_what_it_returns(capsys):
    report = doctor()
    printed = capsys.readouterr().out
    assert report["python"] in printed and report["torch"] in printed
    assert f"tier          {report['tier']}." in printed
    assert f"computes with {report['threads']} thread" in printed
    assert 1 <= report["threads"] <= report["cpus"]
    assert 0 < report["memory_bytes"] < 1024 * GIB
    assert tier(report["model"]) == report["tier"]


def test_nothing_is_installed_or_printed_when_nothing_is_missing(capsys):
    ensure_packages("bitsandbytes", "scikit-learn")  # the second is imported under another name
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- installing, for real


def make_wheel(folder, name, version, requires=""):
    """A minimal wheel: one empty module and its metadata."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A Python that has alpha 1.0, and wheels of alpha 2.0 and of two packages that depend on alpha."""
    folder = tmp_path_factory.mktemp("environment")
    for wheel in [
        ("alpha", "1.0"),
        ("alpha", "2.0"),
        ("fits", "1.0", "alpha"),
        ("clashes", "1.0", "alpha>=2"),
    ]:
        make_wheel(folder, *wheel)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip_environment = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PATH": "",
        "PYTHONPATH": str(ROOT),
    }

    subprocess.run([python, "-m", "pip", "install", "-q", "alpha==1.0"], check=True, env=pip_environment)

    def ensure(*needed, **variables):
        """Run ensure_packages for a course that needs these packages; print alpha's version after it."""
        dependencies = ", ".join(f'"{name}"' for name in needed)
        (folder / "pyproject.toml").write_text(
            f"[project]\ndependencies = [{dependencies}]\n[project.optional-dependencies]\n"
        )
        return subprocess.run(
            [python, "-c", CODE],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**pip_environment, **variables},
        )

    return ensure


CODE = """
import importlib.metadata
from pathlib import Path
from lora_edu.classroom import doctor
doctor.PYPROJECT = Path("pyproject.toml")
try:
    doctor.ensure_packages()
finally:
    print("alpha", importlib.metadata.version("alpha"))
"""


def test_only_what_is_missing_is_installed_and_nothing_changes(environment):
    first = environment("alpha>=0.5", "fits")
    assert first.stdout == "Installing fits. Nothing that is already installed changes.\nalpha 1.0\n", (
        first.stderr
    )
    assert environment("alpha>=0.5", "fits").stdout == "alpha 1.0\n"


def test_a_package_that_would_change_another_is_refused(environment):
    result = environment("clashes")
    assert result.returncode != 0 and result.stdout.endswith("\nalpha 1.0\n")
    assert "RuntimeError: Could not install clashes." in result.stderr and "conflicting" in result.stderr


def test_no_network_is_a_clear_error(environment):
    result = environment("nowhere", PIP_FIND_LINKS="")
    assert "RuntimeError: Could not install nowhere. Is there a network connection?" in result.stderr
