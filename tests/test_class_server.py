"""deploy/jupyterhub: a small class works on it while hub and proxy are killed; what its files promise, they hold."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
import yaml
from traitlets.config import PyFileConfigLoader

from deploy.jupyterhub import link
from tools import npm, record_class_server

FOLDER = record_class_server.CONFIGURATION.parent
PASSWORDS = {"LORA_EDU_CLASS_PASSWORD": "low-rank-2026", "LORA_EDU_TEACHER_PASSWORD": "t" * 32}


@pytest.fixture
def configured(monkeypatch):
    """Read the configuration with other settings in the environment."""

    def read(**environment):
        for name in ("LORA_EDU_SPAWNER", "LORA_EDU_CACHE", "LORA_EDU_IMAGE", *PASSWORDS):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return PyFileConfigLoader(str(record_class_server.CONFIGURATION)).load_config()

    return read


@pytest.mark.slow
def test_a_class_loses_nothing_when_hub_and_proxy_are_killed(tmp_path):
    names = ["student-a", "student-b"]
    notebooks = [*link.notebook_names("01"), *link.notebook_names("04")]
    lesson = record_class_server.teach(tmp_path, names, notebooks, at_once=2, cells=5)
    try:
        with ThreadPoolExecutor(
            1
        ) as pool:  # this thread may have a loop: a browser's tests leave theirs running
            result = pool.submit(asyncio.run, lesson).result()
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure
    ran = [notebook for student in result["students"] for notebook in student["notebooks"].values()]
    assert result["kept"] == len(ran) == 4
    assert [notebook["errors"] for notebook in ran] == [[]] * 4
    assert len(result["kills"]) == 2
    assert result["kills"][0]["saved"] < len(ran)  # somebody was at work
    left = [process.info for process in psutil.process_iter(["cwd", "cmdline"])]
    assert [info["cmdline"] for info in left if str(tmp_path) in (info["cwd"] or "")] == []


def test_a_link_names_the_copy_and_the_notebook_in_it():
    (name,) = link.notebook_names("05b")
    address = urlsplit(link.link("https://hub.example.org/", name, "https://example.org/course"))
    asked = {key: values[0] for key, values in parse_qs(address.query).items()}
    assert address.path == "/hub/user-redirect/git-pull"
    assert asked["repo"] == "https://example.org/course"
    assert asked["urlpath"] == f"lab/tree/{asked['targetpath']}/notebooks/{name}"


def test_a_link_may_name_a_translation():
    assert link.notebook_names("04", "de") == ["de/04_lora_from_scratch.ipynb"]
    (name,) = link.notebook_names("00", "de")
    address = urlsplit(link.link("https://hub.example.org/", name, "https://example.org/course"))
    assert parse_qs(address.query)["urlpath"] == ["lab/tree/lora-edu/notebooks/de/00_start_here.ipynb"]
    for number, language in (("05", "de"), (None, "xx")):
        with pytest.raises(ValueError, match="there is no notebook"):
            link.notebook_names(number, language)


def test_no_link_to_a_notebook_that_is_not_there():
    with pytest.raises(ValueError, match="no notebook 44: it may be 00, 01"):
        link.notebook_names("44")


@pytest.mark.parametrize("name", PASSWORDS)
def test_a_password_that_jupyterhub_cannot_compare_is_refused(configured, name):
    with pytest.raises(SystemExit, match=f"{name} must be ASCII"):
        configured(**{**PASSWORDS, "LORA_EDU_CACHE": "/srv/cache", name: "schönes-niedriges-Passwort-" * 2})


@pytest.mark.parametrize("missing", [*PASSWORDS, "LORA_EDU_CACHE"])
def test_the_hub_says_what_it_lacks(configured, missing):
    environment = {**PASSWORDS, "LORA_EDU_CACHE": "/srv/cache"}
    del environment[missing]
    with pytest.raises(SystemExit, match=f"{missing} is not set"):
        configured(**environment)


def test_a_spawner_that_is_not_known_is_refused(configured):
    with pytest.raises(SystemExit, match="'local': it may be systemd, docker, loopback"):
        configured(LORA_EDU_SPAWNER="local", **PASSWORDS)


@pytest.mark.parametrize("spawner", ["systemd", "docker"])
def test_a_student_gets_one_thread_and_a_limit(configured, spawner):
    config = configured(LORA_EDU_SPAWNER=spawner, LORA_EDU_CACHE="/srv/cache", **PASSWORDS)
    assert config.Spawner.environment["OMP_NUM_THREADS"] == "1"
    assert (config.Spawner.mem_limit, config.Spawner.cpu_limit) == ("3G", 1.0)


def test_a_student_cannot_take_the_name_of_a_system_folder(configured):
    names = re.compile(configured(LORA_EDU_CACHE="/srv/cache", **PASSWORDS).Authenticator.username_pattern)
    assert names.match("student-ada") and names.match("teacher")
    assert not any(map(names.match, ["dpkg", "teacher2", "student-", "student-../dpkg", "student-ada\n"]))


def test_the_values_for_kubernetes_are_those_of_the_configuration(configured):
    values = yaml.safe_load((FOLDER / "zero-to-jupyterhub.yaml").read_text(encoding="utf-8"))
    config = configured(LORA_EDU_SPAWNER="docker", **PASSWORDS)
    hub, student = values["hub"], values["singleuser"]
    assert hub["concurrentSpawnLimit"] == config.JupyterHub.concurrent_spawn_limit
    assert hub["activeServerLimit"] == config.JupyterHub.active_server_limit
    assert hub["config"]["JupyterHub"]["authenticator_class"] == config.JupyterHub.authenticator_class
    assert hub["config"]["Authenticator"] == {**config.Authenticator, "admin_users": ["teacher"]}
    assert (student["memory"]["limit"], student["cpu"]["limit"]) == (config.Spawner.mem_limit, 1)
    start = (Path(link.ROOT) / "binder" / "start").read_text(encoding="utf-8")
    assert student["extraEnv"] | {"OMP_NUM_THREADS": "1"} == config.Spawner.environment
    assert f"--MappingKernelManager.cull_idle_timeout={values['cull']['timeout']}" in config.Spawner.args
    assert "export OMP_NUM_THREADS=1" in start
