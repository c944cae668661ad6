"""One headless Chromium for all tests of a module."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from tests.waiting import until

_WIDE = {"width": 1400, "height": 1000, "deviceScaleFactor": 1, "mobile": False}


class Browser:
    """Chromium, driven from gevent's thread pool: the node under test runs in this very thread."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return gevent.get_hub().threadpool.apply(function, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.call(self.driver.execute_script, script, *arguments)

    def open(self, url: str, *, width: int = 1400, scheme: str = "light") -> None:
        self.resize(width, scheme)
        self.call(self.driver.get, url)

    def resize(self, width: int, scheme: str = "light") -> None:
        size = _WIDE | {"width": width, "mobile": width < 500}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.call(self.driver.execute_cdp_cmd, "Emulation.setDeviceMetricsOverride", size)
        self.call(self.driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", media)

    def until(self, script: str, what: str, *arguments: Any, timeout: float = 10.0) -> Any:
        """Wait until a script in the page returns something true."""
        detail = lambda: self.run("return document.body.innerText.slice(0, 2000)")  # noqa: E731  # short
        return until(lambda: self.run(script, *arguments), what, timeout=timeout, detail=detail)

    def texts(self, selector: str) -> list[str]:
        """The texts of all shown elements that a selector finds."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())"
            ".map(e => e.textContent)",
            selector,
        )

    def peers(self) -> list[str]:
        """The peers in the table, from top to bottom."""
        return self.run(
            "return [...document.querySelectorAll('#links-size .row')].filter(row => !row.hidden)"
            ".sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)"
            ".map(row => row.querySelector('.peer .value').textContent)"
        )

    def type(self, selector: str, text: str) -> None:
        """Type into a field, as a person would."""

        def typing() -> None:
            field = self.driver.find_element("css selector", selector)
            field.clear()
            field.send_keys(text)

        self.call(typing)

    def press(self, selector: str, key: str) -> None:
        """Press a key on an element."""
        self.call(lambda: self.driver.find_element("css selector", selector).send_keys(key))

    def click(self, selector: str) -> None:
        self.call(lambda: self.driver.find_element("css selector", selector).click())

    def complaints(self) -> list[str]:
        """What the console has said since it was asked last: errors, and what the policy has blocked."""
        return [entry["message"] for entry in self.call(self.driver.get_log, "browser")]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; without one the tests are skipped, and fail in CI, which installs it."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        reason = "Debian's packages chromium and chromium-driver are not installed"
        if os.environ.get("CI") and os.environ.get("SNOWGREEN_BROWSER") != "none":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "lang=en"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    pool = gevent.get_hub().threadpool
    running = pool.apply(lambda: webdriver.Chrome(options=options, service=Service(driver)))
    yield Browser(running)
    with contextlib.suppress(Exception):
        pool.apply(running.quit)


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser with an empty page, no cookies, and a console that must stay silent."""
    chromium.complaints()
    yield chromium
    complaints = chromium.complaints()
    chromium.open("about:blank")
    chromium.call(chromium.driver.execute_cdp_cmd, "Network.clearBrowserCookies", {})
    assert complaints == []
