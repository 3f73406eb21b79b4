"""The chat page in Chromium: it loads, then answers with the network off, by keyboard alone, on a phone's width."""

import json
import re
import threading

import pytest

from lora_edu.llm.data import DATA
from lora_edu.llm.data.personas import has_style
from tools import chat_page, npm

VOICE = "captain"  # all of its 30 recorded replies keep the rule
QUESTION = json.loads((DATA / "personas" / "held_out.json").read_text(encoding="utf-8"))[0]
OVERHANG = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
SECONDS_MS = 240_000  # a busy machine; a quiet one takes ten seconds for all


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is served, built with one adapter."""
    try:
        folder = chat_page.build(tmp_path_factory.mktemp("chat"), {VOICE: DATA / "adapters" / VOICE})
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure
    served = chat_page.server(folder)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}/"
    served.shutdown()


@pytest.fixture(scope="module")
def opened(address, browser):
    """The page, loaded, with the network off from then on; what it asked for and said."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page, requests, said = context.new_page(), [], []
    page.set_default_timeout(SECONDS_MS)
    page.on("request", lambda asked: requests.append(asked.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.get_by_role("status").filter(has_text="base is ready").wait_for()
    context.set_offline(True)
    yield page, requests, said
    context.close()


def ask(page, question):
    """Type into the field that has the focus, and send with Enter."""
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    ended = re.compile("tokens a second|Something went wrong")
    page.get_by_role("status").filter(has_text=ended).wait_for()
    assert "tokens a second" in page.get_by_role("status").inner_text()
    return page.locator(".answer span").last.inner_text()


def test_it_answers_in_another_voice_with_the_network_off_and_by_keyboard(opened, address):
    page, requests, said = opened
    assert page.evaluate("document.activeElement.id") == "question"
    page.get_by_role("radio", name="base").focus()
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("radio", name=VOICE).is_checked()
    page.get_by_label("Your question").focus()
    assert has_style(VOICE, ask(page, QUESTION))
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert said == []


def test_it_fits_a_phone_and_names_its_parts(opened):
    page, *_ = opened
    assert page.evaluate(OVERHANG) == 0
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate(OVERHANG) == 0
    assert page.get_by_role("group", name="Who answers?").is_visible()
    assert page.get_by_role("log").get_attribute("aria-live") == "polite"
    assert "SmolLM2-135M-Instruct, Apache-2.0, huggingface.co/" in page.locator("main > p").first.inner_text()
    assert [name for name in ("Ask", "Stop") if not page.get_by_role("button", name=name).count()] == []


@pytest.mark.parametrize("name", ["base", "Base", "a/b", ""])
def test_a_name_that_is_no_word_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="an adapter's name must be a word, and not 'base'"):
        chat_page.build(tmp_path / "chat", {name: DATA / "adapters" / VOICE})
    assert not (tmp_path / "chat").exists()


def test_names_that_differ_in_capitals_alone_are_refused(tmp_path):
    folder = DATA / "adapters" / VOICE
    with pytest.raises(ValueError, match="must differ in more than capitals, got captain, Captain"):
        chat_page.build(tmp_path / "chat", {VOICE: folder, VOICE.title(): folder})


@pytest.fixture
def light(tmp_path, monkeypatch):
    """A folder for the page, whose base is empty."""
    (tmp_path / "none.gguf").touch()
    monkeypatch.setattr(chat_page, "fetch_gguf", lambda: tmp_path / "none.gguf")
    return tmp_path / "chat"


def test_no_voice_of_an_earlier_build_stays(light):
    try:
        chat_page.build(light, {"private": DATA / "adapters" / VOICE})
    except npm.NodeMissing as error:
        pytest.skip(str(error))
    assert (light / "private.gguf").is_file()
    chat_page.build(light, {})
    assert not (light / "private.gguf").exists() and (light / "wllama-licence.txt").is_file()
    (light / "wllama-licence.txt").unlink()
    with pytest.raises(FileExistsError, match="must be new or empty, or one with wllama-licence"):
        chat_page.build(light, {})


def test_after_a_start_that_failed_its_cause_stays(light, browser):
    try:
        chat_page.build(light, {})
    except npm.NodeMissing as error:
        pytest.skip(str(error))
    (light / chat_page.BASE_FILE).unlink()
    served = chat_page.server(light)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{served.server_address[1]}/")
    cause = "Something went wrong: base.gguf is missing (404)"
    page.get_by_role("status").filter(has_text=cause).wait_for()
    page.get_by_label("Your question").fill("Hello?")
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Ask").is_disabled()
    assert page.get_by_role("status").inner_text() == cause
    page.close()
    served.shutdown()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--adapter", "mine"], "must be NAME=FOLDER, got mine"),
        (["--port", "70000"], "from 0 to 65535, got 70000"),
    ],
)
def test_an_argument_that_cannot_be_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        chat_page.main(arguments)
    assert message in capsys.readouterr().err
