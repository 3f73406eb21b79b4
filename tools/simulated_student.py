"""A student of a JupyterHub, for tests: a browser's requests, without a browser.

It follows the teacher's link through login and start of the server, lets nbgitpuller copy the notebooks, runs a
notebook's cells in a kernel as JupyterLab does, and saves. When hub or proxy go away it does what JupyterLab does: it
connects again, to the same kernel.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import nbformat
from nbformat import NotebookNode
from nbformat.v4.rwbase import strip_transient

PATIENCE = 120
"""Seconds after which something that does not come counts as lost."""
AWAY = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)


class Student:
    """One student with one browser; ``async with`` it."""

    def __init__(self, hub: str, name: str, password: str) -> None:
        self.hub, self.name, self.password = hub, name, password
        self.base = f"{hub}/user/{name}"

    async def __aenter__(self) -> Student:
        self.jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address without a name
        self.http = aiohttp.ClientSession(cookie_jar=self.jar, timeout=aiohttp.ClientTimeout(total=PATIENCE))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.http.close()

    def token(self, path: str) -> str:
        """What a form or a request has to repeat of the cookie for `path`."""
        found = (cookie for cookie in self.jar if cookie.key == "_xsrf")
        return next(cookie.value for cookie in found if cookie["path"].rstrip("/") == path)

    async def open(self, link: str) -> dict[str, float]:
        """Open the teacher's link: log in, wait for the server, get the notebooks. Returns the seconds of each."""
        clock = Clock()
        await self.log_in(link)
        clock.lap("login_s")
        await self.wait_for(link)
        clock.lap("server_s")
        await self.pull(link)
        clock.lap("pull_s")
        return clock.laps

    async def log_in(self, link: str) -> None:
        """Fill in the form to which the link leads, again while the hub is away."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return await self.fill_in(link)
            except (*AWAY, RuntimeError):
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(0.5)

    async def fill_in(self, link: str) -> None:
        """Fill in the form to which the link leads."""
        async with self.http.get(link) as form:
            if form.url.path != "/hub/login":
                raise RuntimeError(f"{link} leads to {form.url}, not to the form")
            action = form.url
        data = {"username": self.name, "password": self.password, "_xsrf": self.token("/hub")}
        async with self.http.post(action, data=data, allow_redirects=False) as answer:
            if answer.status != 302:
                raise RuntimeError(f"{self.name} cannot log in: {answer.status}")

    async def wait_for(self, link: str) -> None:
        """Open the link until it leads to the page of nbgitpuller on the student's own server."""
        end, last = time.monotonic() + PATIENCE, "no answer"
        while time.monotonic() < end:
            try:
                async with self.http.get(link) as page:
                    if page.status == 200 and page.url.path == f"/user/{self.name}/git-pull":
                        return
                    last = f"{page.status} {page.url.path}"
            except AWAY as error:
                last = repr(error)
            await asyncio.sleep(0.5)
        raise RuntimeError(f"the server of {self.name} does not come: {last}")

    async def pull(self, link: str) -> None:
        """Do what the page of nbgitpuller does: ask for the copy, and wait for its end."""
        asked = {key: values[0] for key, values in parse_qs(urlsplit(link).query).items()}
        asked.pop("urlpath")
        text = await self.ask("GET", "/git-pull/api", params=asked)
        last = json.loads(text.strip().rpartition("data: ")[2])
        if last["phase"] != "finished":
            raise RuntimeError(f"{self.name} cannot get the notebooks: {last}")

    async def ask(self, method: str, path: str, **arguments: Any) -> str:
        """Ask the student's server, again while hub or proxy are away. Every request here may be repeated."""
        end = time.monotonic() + PATIENCE
        while True:
            headers = {"X-XSRFToken": self.token(f"/user/{self.name}"), "Referer": self.base}
            try:
                async with self.http.request(
                    method, self.base + path, headers=headers, **arguments
                ) as answer:
                    text = await answer.text()
                    if answer.status < 300 or (method, answer.status) == ("DELETE", 404):  # gone already
                        return text
                    error = RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
            except AWAY as failure:
                error = failure
            if time.monotonic() > end:
                raise error
            await asyncio.sleep(0.5)

    async def work(
        self, path: str, cells: int | None, measure: Callable[[], dict[str, float]]
    ) -> dict[str, Any]:
        """Run the first `cells` code cells of the notebook (all, if None), save it, stop its kernel.

        Returns
        -------
        dict
            Seconds, cells, errors; how often the line to the kernel was ``broken``, and of how many cells the request
            was ``sent_again`` or the end of the output was lost; what `measure` says while the kernel lives; and the
            saved ``document``.
        """
        clock = Clock()
        content = json.loads(await self.ask("GET", f"/api/contents/{path}"))["content"]
        document = nbformat.reads(json.dumps(content), as_version=4)
        asked = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        session = json.loads(await self.ask("POST", "/api/sessions", json=asked))
        clock.lap("open_s")
        kernel = Kernel(self, session["kernel"]["id"])
        code = [cell for cell in document.cells if cell.cell_type == "code"][:cells]
        for cell in code:
            cell.outputs = await kernel.run(cell.source)
        await kernel.close()
        clock.lap("run_s")
        document.cells.append(nbformat.v4.new_markdown_cell(f"Saved by {self.name}", id="mine"))
        await self.ask("PUT", f"/api/contents/{path}", json={"type": "notebook", "content": document})
        clock.lap("save_s")
        document = strip_transient(document)  # the server says `trusted` of each cell, and stores it not
        memory = measure()
        await self.ask("DELETE", f"/api/sessions/{session['id']}")
        crash = {name: getattr(kernel, name) for name in ("broken", "sent_again", "without_output")}
        return {
            **clock.laps,
            "cells": len(code),
            "errors": kernel.errors,
            **crash,
            **memory,
            "document": document,
        }


class Clock:
    """Seconds between one lap and the next."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self.last = round(now - self.last, 2), now


class Kernel:
    """A student's end of the channels to one kernel."""

    def __init__(self, student: Student, kernel: str) -> None:
        self.student = student
        self.session = uuid.uuid4().hex  # the server keeps what comes for it while nobody listens
        self.url = (
            f"{student.base.replace('http', 'ws')}/api/kernels/{kernel}/channels?session_id={self.session}"
        )
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.errors: list[str] = []
        self.broken = self.sent_again = self.without_output = 0

    async def run(self, code: str) -> list[NotebookNode]:
        """Run a cell, through crashes of hub and proxy. Returns its outputs."""
        while True:
            cell = Cell()
            request = await self.send("execute_request", cell.id, code=code, silent=False, store_history=True)
            if request and await self.listen(cell):
                break
            self.sent_again += 1
        self.without_output += not cell.idle
        self.errors += cell.errors
        return cell.outputs

    async def listen(self, cell: Cell) -> bool:
        """Gather what the cell says until it has ended. False if the kernel never got it."""
        fence = ""
        while not cell.ended:
            message = await self.receive()
            if (
                message is None
            ):  # connect again; the kernel is idle after this request when all of the cell has come
                self.broken += 1
                fence = uuid.uuid4().hex
                await self.send("kernel_info_request", fence)
                continue
            parent, kind = message["parent_header"].get("msg_id"), message["msg_type"]
            if parent == cell.id:
                cell.hear(kind, message["content"])
            elif parent == fence and message["content"].get("execution_state") == "idle":
                return cell.begun
        return True

    async def send(self, kind: str, message_id: str, **content: Any) -> bool:
        """Send a request on the shell channel; connects if need be. False if the line broke meanwhile."""
        header = {"msg_id": message_id, "msg_type": kind, "session": self.session, "version": "5.3"}
        header |= {"username": self.student.name, "date": ""}
        content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": False} if content else {}
        message = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "channel": "shell",
        }
        try:
            await (await self.connected()).send_str(json.dumps(message | {"buffers": []}))
        except AWAY:
            self.socket = None
            return False
        return True

    async def receive(self) -> dict[str, Any] | None:
        """The next message of the kernel; None if the line broke."""
        if self.socket is None:
            return None
        message = await self.socket.receive(PATIENCE)
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            return json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else IGNORED
        self.socket = None
        return None

    async def connected(self) -> aiohttp.ClientWebSocketResponse:
        """The open line to the kernel: a new one, as soon as the server can be reached, if the old one broke."""
        end = time.monotonic() + PATIENCE
        while self.socket is None or self.socket.closed:
            try:
                # A proxy that knows no servers yet answers nothing at all to this request.
                line = self.student.http.ws_connect(
                    self.url, max_msg_size=0, headers={"Origin": self.student.hub}
                )
                self.socket = await asyncio.wait_for(line, 5)
            except AWAY:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.5)
        return self.socket

    async def close(self) -> None:
        if self.socket is not None:
            await self.socket.close()


IGNORED: dict[str, Any] = {"parent_header": {}, "msg_type": "", "content": {}}
"""A message in a form that no cell of the course uses: a widget's buffers."""
SHOWN = {"stream", "display_data", "execute_result", "error"}


class Cell:
    """What one execution of a cell has said so far."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.begun = self.idle = self.replied = False
        self.outputs: list[NotebookNode] = []
        self.errors: list[str] = []

    @property
    def ended(self) -> bool:
        return self.idle and self.replied

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Take one message that answers this cell."""
        self.begun = True
        self.replied |= kind == "execute_reply"
        self.idle |= kind == "status" and content["execution_state"] == "idle"
        if kind in SHOWN:
            message = nbformat.from_dict({"msg_type": kind, "header": {"msg_type": kind}, "content": content})
            self.outputs.append(nbformat.v4.output_from_msg(message))
        if kind == "error":
            self.errors.append(f"{content['ename']}: {content['evalue'][:200]}")
