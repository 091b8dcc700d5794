"""A headless Chromium, driven by its chromedriver in the protocol of WebDriver, https://www.w3.org/TR/webdriver2.

The few commands that the tests need are a request each, so no library has to be installed for them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any
from urllib.request import Request, urlopen

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # of its own affairs, at every start
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,900",
]


class Browser:
    """A session of the browser; ``with Browser() as browser`` ends it."""

    def __enter__(self) -> Browser:
        assert DRIVER is not None and CHROMIUM is not None
        self.process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        started = (re.search(r"on port (\d+)\.", line) for line in self.process.stdout)
        self.address = f"http://127.0.0.1:{next(match[1] for match in started if match)}/session"
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": OPTIONS},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            "timeouts": {"script": 60_000},
        }
        session = self.send("", capabilities={"alwaysMatch": wanted})["sessionId"]
        self.address += f"/{session}"
        return self

    def __exit__(self, *_: object) -> None:
        with urlopen(Request(self.address, method="DELETE"), timeout=60):
            pass
        self.process.terminate()
        self.process.communicate(timeout=60)

    def send(self, command: str, **parameters: Any) -> Any:
        """Send a command, and return its result."""
        header = {"Content-Type": "application/json"}
        request = Request(f"{self.address}{command}", json.dumps(parameters).encode(), header)
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, address: str) -> None:
        """Load a page."""
        self.send("/url", url=address)

    def run(self, script: str, *args: Any) -> Any:
        """Return what a script returns in the page; a promise is waited for."""
        return self.send("/execute/sync", script=script, args=list(args))

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return what was logged since the last call."""
        return self.send("/se/log", type=kind)

    def do(self, name: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.send("/goog/cdp/execute", cmd=name, params=parameters)

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Move, press or release the mouse at a point of the window."""
        button = {"button": "none"} if kind == "Moved" else {"button": "left", "clickCount": 1}
        self.do("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **button)

    def drag(self, points: list[tuple[float, float]]) -> None:
        """Press the mouse at the first point, move it over the others, and release it."""
        self.mouse("Moved", *points[0])
        self.mouse("Pressed", *points[0])
        for point in points[1:]:
            self.do("Input.dispatchMouseEvent", type="mouseMoved", x=point[0], y=point[1], button="left", buttons=1)
        self.mouse("Released", *points[-1])
