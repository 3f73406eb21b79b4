"""A class on deploy/jupyterhub, simulated on this machine: what a student needs, and what a crash takes.

    python -m tools.record_class_server [--students 12] [--at-once 4] [--notebooks 01 04]

Starts the hub on loopback. Each student opens the teacher's link, logs in, gets the notebooks, runs them cell by cell,
and saves. In mid-run, after the first notebook is saved and again after half of all, hub and proxy are killed with
SIGKILL. At the end every notebook on the disk has to be what was saved, also after the teacher has changed the course
and the student has opened the link anew. Writes data/runs/class_server.json. Linux; the spawner isolates nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import nbformat
import psutil

from deploy.jupyterhub.link import FOLDER, link, notebook_names
from lora_edu.llm import provenance
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.files import write_json
from tools import npm
from tools.simulated_student import PATIENCE, Student

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "deploy" / "jupyterhub" / "jupyterhub_config.py"
TARGET = ROOT / "data" / "runs" / "class_server.json"
PACKAGES = ("jupyterhub", "nbgitpuller", "jupyterlab", "jupyter-server", "ipykernel", "torch", "lora_edu")
PROXY = "configurable-http-proxy"


class Hub:
    """JupyterHub with our configuration on free ports of this machine; everything that it leaves lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = secrets.token_hex(8)
        public, api, inner = free_ports(3)
        self.url = f"http://127.0.0.1:{public}"
        self.addresses = [
            f"--JupyterHub.bind_url={self.url}",
            f"--JupyterHub.hub_bind_url=http://127.0.0.1:{inner}",
            f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{api}",
        ]
        npm.install(ROOT / "web" / "hub")
        (folder / "tmp").mkdir()
        self.environment = os.environ | {
            "TMPDIR": str(folder / "tmp"),
            "LORA_EDU_SPAWNER": "loopback",
            "LORA_EDU_CLASS_PASSWORD": self.password,
            "LORA_EDU_TEACHER_PASSWORD": secrets.token_hex(20),
            "LORA_EDU_CACHE": str(fetch_base_model().parent),
        }
        self.repository = make_repository(folder / "course")

    async def start(self) -> None:
        """Start the hub, and wait until it answers through its proxy."""
        command = [sys.executable, "-m", "jupyterhub", "-f", str(CONFIGURATION), *self.addresses]
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        await self.answers()

    async def answers(self) -> None:
        """Wait until the hub answers through its proxy."""
        end = time.monotonic() + PATIENCE
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < end and self.process.poll() is None:
                try:
                    async with session.get(f"{self.url}/hub/health") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        raise RuntimeError(f"the hub does not answer:\n{self.log()[-2000:]}")

    async def kill_hub(self) -> float:
        """Kill the hub and start it again, as systemd would. Returns the seconds until it answers."""
        start = time.monotonic()
        self.process.kill()
        self.process.wait()
        await self.start()
        return time.monotonic() - start

    async def kill_proxy(self) -> float:
        """Kill the proxy. Returns the seconds until the hub has it back."""
        start = time.monotonic()
        for process, command in self.processes():
            if PROXY in command:
                process.kill()
                psutil.wait_procs([process], timeout=PATIENCE)
        await self.answers()
        return time.monotonic() - start

    def processes(self, below: str = "") -> list[tuple[psutil.Process, str]]:
        """What runs in the folder, with its command: hub and proxy, or what works `below` it."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to((self.folder / below).resolve()):
                    found.append((process, " ".join(process.cmdline())))
            except psutil.Error:  # it has ended, or is not ours
                continue
        return found

    def stop(self) -> None:
        """End everything that the hub has started."""
        running = [process for process, _ in self.processes()]
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(running, timeout=PATIENCE)
        self.process.wait()

    def log(self) -> str:
        """What the hub has printed."""
        return (self.folder / "hub.log").read_text(encoding="utf-8", errors="replace")


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


def git(folder: Path, *arguments: str) -> None:
    """Run git in `folder`, as a teacher."""
    who = ["-c", "user.name=teacher", "-c", "user.email=teacher@localhost"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def make_repository(folder: Path) -> Path:
    """Put what git holds of this checkout, as it is now, into a new repository: the one that students copy."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=The course")
    return folder


def memory(hub: Hub, name: str) -> dict[str, float]:
    """MiB of a student's server and kernels: proportional set size now, and the kernels' highest resident size."""
    sizes = {"server_MiB": 0.0, "kernel_MiB": 0.0, "kernel_peak_MiB": 0.0}
    for process, command in hub.processes(f"homes/{name}"):
        kernel = "ipykernel_launcher" in command
        sizes["kernel_MiB" if kernel else "server_MiB"] += process.memory_full_info().pss / 2**20
        if kernel:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            sizes["kernel_peak_MiB"] += int(peak.split()[1]) / 2**10
    return {key: round(size) for key, size in sizes.items()}


async def attend(
    hub: Hub, name: str, notebooks: list[str], cells: int | None, saved: list[Path]
) -> dict[str, Any]:
    """One student's lesson: open the link, run each notebook's first `cells` code cells, save. Returns what it took."""
    first = link(hub.url, notebooks[0], hub.repository.as_uri())
    async with Student(hub.url, name, hub.password) as student:
        took: dict[str, Any] = {"student": name, **await student.open(first), "notebooks": {}}
        for notebook in notebooks:
            path = f"{FOLDER}/notebooks/{notebook}"
            ran = await student.work(path, cells, lambda: memory(hub, name))
            took["notebooks"][notebook.partition("_")[0]] = ran
            saved.append(hub.folder / "homes" / name / path)
    files = (hub.folder / "homes" / name).rglob("*")
    took["disk_MiB"] = round(sum(file.stat().st_blocks * 512 for file in files) / 2**20)
    return took


async def disturb(hub: Hub, saved: list[Path], thresholds: list[int]) -> list[dict[str, float]]:
    """Kill hub and proxy each time so many notebooks are saved. Returns the seconds until each was back."""
    kills = []
    for threshold in thresholds:
        while len(saved) < threshold:
            await asyncio.sleep(0.2)
        back = {"saved": len(saved), "hub_s": await hub.kill_hub(), "proxy_s": await hub.kill_proxy()}
        kills.append({key: round(seconds, 1) for key, seconds in back.items()})
    return kills


async def teach(
    folder: Path, names: list[str], notebooks: list[str], at_once: int, cells: int | None = None
) -> dict[str, Any]:
    """Let a class work on a hub in `folder`, through crashes. Returns the record; raises if anything is lost."""
    hub, turn, saved = Hub(folder), asyncio.Semaphore(at_once), []

    async def in_turn(name: str) -> dict[str, Any]:
        async with turn:
            return await attend(hub, name, notebooks, cells, saved)

    try:
        await hub.start()
        start = time.monotonic()
        total = len(names) * len(notebooks)
        killing = asyncio.create_task(disturb(hub, saved, sorted({1, total // 2})))
        students = await asyncio.gather(*map(in_turn, names))
        seconds = round(time.monotonic() - start, 1)
        kills = await killing
        kept = sum(check_kept(hub, took) for took in students)
        await come_back(hub, students, notebooks[0])
        for took in students:
            for ran in took["notebooks"].values():
                del ran["document"]
        return {"seconds": seconds, "kills": kills, "kept": kept, "students": students}
    finally:
        hub.stop()


def check_kept(hub: Hub, took: dict[str, Any], first: int = 0) -> int:
    """Compare a student's notebooks on the disk, from cell `first` on, with what was saved. Returns how many.

    Raises
    ------
    RuntimeError
        One is not what was saved.
    """
    folder = hub.folder / "homes" / took["student"] / FOLDER / "notebooks"
    for number, ran in took["notebooks"].items():
        path = next(folder.glob(f"{number}_*.ipynb"))
        if nbformat.read(path, as_version=4).cells[first:] != ran["document"].cells[first:]:
            raise RuntimeError(f"{path} is not what was saved")
    return len(took["notebooks"])


async def come_back(hub: Hub, students: list[dict[str, Any]], notebook: str) -> None:
    """The teacher changes the README and the first cell of a notebook that all have; each opens the link once more.

    Raises
    ------
    RuntimeError
        A student's work is lost, or one of the teacher's changes has not arrived.
    """
    (hub.repository / "README.md").write_text("Corrected\n", encoding="utf-8")
    theirs = hub.repository / "notebooks" / notebook
    changed = nbformat.read(theirs, as_version=4)
    changed.cells[0].source += "\nCorrected\n"
    nbformat.write(changed, theirs)
    git(hub.repository, "commit", "--quiet", "--all", "--message=Corrected")
    for took in students:
        name = took["student"]
        async with Student(hub.url, name, hub.password) as student:
            await student.open(link(hub.url, notebook, hub.repository.as_uri()))
        home = hub.folder / "homes" / name / FOLDER
        arrived = [home / "README.md", home / "notebooks" / notebook]
        if not all("Corrected" in path.read_text(encoding="utf-8") for path in arrived):
            raise RuntimeError(f"{name} did not get the teacher's change")
        check_kept(hub, took, first=1)


def main() -> None:
    revision = provenance.revision()  # before the class, which takes minutes
    parser = argparse.ArgumentParser(description="Simulate a class on deploy/jupyterhub.")
    parser.add_argument("--students", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=4, help="students who work at the same time")
    parser.add_argument("--notebooks", nargs="+", default=["01", "04"], help="their numbers")
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    notebooks = [name for number in options.notebooks for name in notebook_names(number)]
    names = [f"student-{number:02d}" for number in range(1, options.students + 1)]
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(teach(Path(folder), names, notebooks, options.at_once))
    head = {
        "revision": revision,
        "versions": provenance.versions(PACKAGES),
        "proxy": npm.version(ROOT / "web" / "hub", PROXY),
        "device": provenance.device() | {"cores": os.cpu_count()},
        "at_once": options.at_once,
    }
    write_json(options.output, head | result)


if __name__ == "__main__":
    main()
