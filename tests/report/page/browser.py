"""A page in headless Chromium, with what went wrong in it."""

import os
import shutil
import time
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium():
    """A browser (playwright's), or a skip that says what is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} (apt-get install chromium)")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=sandbox, timeout=120_000)
        yield browser
        browser.close()


@contextmanager
def opened(browser, file, fragment="", **context):
    """The page of a file; leaving it fails if it logged an error or asked the network."""
    faults = []
    with browser.new_context(**context) as session:
        page = session.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: faults.append(message.text) if _bad(message) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: faults.append(request.url) if _leaves(request) else None)
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("body[data-ready]")
        yield page
    assert faults == []


def until(page, expression, seconds=60):
    """Wait until a JavaScript expression is true (the page's policy forbids playwright's way)."""
    end = time.monotonic() + seconds
    while not _is_true(page, expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(50)


def _is_true(page, expression):
    """Its value now; a page that is just being reloaded has none."""
    from playwright.sync_api import Error

    try:
        return page.evaluate(expression)
    except Error as error:
        if "context was destroyed" not in str(error):
            raise
        return False


def _bad(message):
    return message.type in {"error", "warning"}


def _leaves(request):
    return not request.url.startswith(("file:", "data:", "blob:"))
