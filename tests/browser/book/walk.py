"""A page opened as a file, with the network off, and all that it asks for and says."""

from contextlib import contextmanager


@contextmanager
def walked(browser, file, **settings):
    """Yield the page, the addresses that it asks for, and what it says; settings are those of its context."""
    context = browser.new_context(offline=True, **settings)
    context.set_default_timeout(120_000)  # a busy machine answers late
    page, requests, said = context.new_page(), [], []
    page.on("request", lambda asked: requests.append(asked.url))
    page.on("requestfailed", lambda asked: said.append(f"failed: {asked.url}"))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri(), wait_until="load")
    page.evaluate("() => document.fonts.ready")
    yield page, requests, said
    context.close()
