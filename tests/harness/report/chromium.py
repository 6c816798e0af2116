"""Debian's Chromium without a screen, for the tests of the HTML report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
MISSING = "needs chromium and chromedriver: apt-get install chromium chromium-driver"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # small in containers
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One Chromium with a profile of its own; remembers what pages logged and asked the network for."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))

    def open(self, page: Path, *, width: int = 1280, height: int = 900, theme: str = "light", hash: str = "") -> None:
        """A page at a width (of the viewport, which a window cannot make as narrow as a phone) and in a theme."""
        self.driver.get("about:blank")
        self.size(width, height)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.logs()
        self.driver.get(page.as_uri() + hash)

    def size(self, width: int, height: int) -> None:
        """The size of the viewport in pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        """The visible elements that a selector finds."""
        return [element for element in self.driver.find_elements("css selector", selector) if element.is_displayed()]

    def one(self, selector: str) -> Any:
        """The first of these."""
        return self.all(selector)[0]

    def logs(self) -> tuple[list[str], list[str]]:
        """Since the last call: messages on the console, and addresses that were asked for."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return console, asked

    def quit(self) -> None:
        """End it."""
        self.driver.quit()
