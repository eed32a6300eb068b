"""Debian's chromium without a window, and one page in it, by the DevTools protocol over pipes."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

CHROMIUM = shutil.which("chromium")
_OPTIONS = "--headless --no-sandbox --disable-gpu --mute-audio --no-first-run --window-size=1000,800"


class Page:
    """A page that was opened.

    Attributes:
        requested: the addresses that it asked for
    """

    def __init__(self, to: int, answers: int):
        self._to, self._from = to, os.fdopen(answers, "rb", buffering=0)
        self._number, self._session, self._buffer = 0, {}, b""
        self.requested: List[str] = []

    def open(self, path: Path) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.send("Network.enable")
        self.send("Page.enable")
        self.send("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def click(self, selector: str) -> None:
        """Click on an element as a mouse does."""
        one = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{one}.scrollIntoView({{block: 'center'}})")
        place = f"{one}.getBoundingClientRect()"
        x, y = self.evaluate(f"[{place}.x + {place}.width / 2, {place}.y + {place}.height / 2]")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def evaluate(self, expression: str) -> Any:
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> None:
        until = time.monotonic() + 20
        while not self.evaluate(expression):
            assert time.monotonic() < until, expression
            time.sleep(0.05)

    def send(self, method: str, **parameters: Any) -> Dict[str, Any]:
        """Send a command; returns its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                read = self._from.read(65536)
                assert read, "chromium has ended"
                self._buffer += read
            text, self._buffer = self._buffer.split(b"\0", 1)
            message = json.loads(text)
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]


@contextmanager
def opened(path: Path, profile: Path) -> Iterator[Page]:
    """The page of a file, in a browser of its own, whose profile is in a folder."""
    (asked, ask), (answers, answer) = os.pipe(), os.pipe()
    command = f"exec {CHROMIUM} {_OPTIONS} --remote-debugging-pipe --user-data-dir={profile} 3<&{asked} 4>&{answer}"
    browser = subprocess.Popen(
        ["bash", "-c", command], pass_fds=(asked, answer), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(asked)
    os.close(answer)
    try:
        page = Page(ask, answers)
        page.open(path)
        yield page
    finally:
        browser.terminate()
        browser.wait(20)
        os.close(ask)
        os.close(answers)
