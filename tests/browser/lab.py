"""A JupyterLab with nobody's settings, and a page on one of its notebooks."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tools import build_notebooks

ROOT = Path(__file__).resolve().parents[2]
LAB_OPTIONS = [
    "--no-browser",
    "--allow-root",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.extension_manager=readonly",
]
SETTINGS = {
    # Cells that are out of sight would otherwise not be on the page.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
SECONDS_TO_START = 180


def wait_until_up(url, process, log):
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@contextmanager
def running_lab(home):
    """Yield the address of a notebook, with a place for its name, and the folder to put notebooks into."""
    course = home / "course"
    (course / "work").mkdir(parents=True, exist_ok=True)
    for name in ("lora_edu", "data", "pyproject.toml"):
        if not (course / name).exists():
            (course / name).symlink_to(ROOT / name)
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        **build_notebooks.KERNEL_ENVIRONMENT,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    address = [
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={course / 'work'}",
    ]
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *LAB_OPTIONS, *address],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(f"{url}/api?token={token}", process, log)
        # A workspace each, or the second page would open with the tabs of the first.
        yield f"{url}/lab/workspaces/{{name}}/tree/{{name}}.ipynb?token={token}", course / "work"
    finally:
        process.terminate()  # the server ends its kernels
        process.wait(timeout=SECONDS_TO_START)


RUN_ALL = """async () => {
    await window.jupyterapp.restored;
    const context = window.jupyterapp.shell.currentWidget.sessionContext;
    await context.ready;
    await context.session.kernel.info;
    window.jupyterapp.commands.execute('notebook:run-all-cells');  // not awaited: it ends with the last cell
}"""
# The cells' errors once the last cell has run or one has failed; until then null.
ERRORS = """() => {
    const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type == 'code');
    const outputs = cells.flatMap(cell => cell.outputs.toJSON());
    const errors = outputs.filter(output => output.output_type == 'error').map(output => output.evalue);
    return errors.length || cells.every(cell => cell.executionCount) ? errors : null;
}"""


def open_notebook(browser, address, name):
    """A page that shows the notebook `name`, not yet run."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(address.format(name=name))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=1000 * SECONDS_TO_START)
    return page


def run_all(page, seconds):
    """Run all cells; the errors that they raised."""
    page.evaluate(RUN_ALL)
    return page.wait_for_function(ERRORS, timeout=1000 * seconds).json_value()


def end_kernel(page):
    """End the kernel of the page's notebook, which would live on, and draw ahead, when the page is closed."""
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
