"""A headless Chromium, driven over its debugging pipe: pages from disk, mouse, keys, scripts and pictures.

The pipe needs no package: messages are JSON with a zero byte between them, on the file descriptors 3 and 4.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars", "--mute-audio"),
    "--remote-debugging-pipe",
)
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""WebGL on the CPU."""
NO_WEBGL = ("--disable-gpu", "--disable-webgl", "--disable-webgl2", "--disable-software-rasterizer")
PATIENCE = 120.0
"""Seconds to wait for an answer: a busy machine is no failure."""


def find_browser() -> str | None:
    """The path of a Chromium or Chrome; ``PD_EDGE_BROWSER`` names another."""
    return os.environ.get("PD_EDGE_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser of its own; a context manager."""

    def __init__(self, program: str, profile: Path, flags: tuple[str, ...] = WEBGL, size: str = "900,640") -> None:
        command = [program, *FLAGS, *flags, f"--window-size={size}", f"--user-data-dir={profile}", "about:blank"]
        self._command = command
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._next, self._buffer, self._session = 0, b"", ""

    def __enter__(self) -> "Browser":  # noqa: PYI034 - Self is newer than Python 3.10
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()

        def place() -> None:
            # Through higher numbers, as one of the pipe's ends may already be 3 or 4.
            high_in, high_out = os.dup(theirs_in), os.dup(theirs_out)
            low_in, low_out = (os.dup(each) if each in (3, 4) else each for each in (high_in, high_out))
            os.dup2(low_in, 3)
            os.dup2(low_out, 4)

        self._process = subprocess.Popen(
            self._command,
            close_fds=False,
            preexec_fn=place,  # noqa: PLW1509 - the test has no threads that hold locks
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)

    def open(self, path: Path) -> None:
        """Opens a file and waits until its first frame is shown."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.body && document.body.dataset.frame === '0'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(condition):
            if time.monotonic() > end:
                raise AssertionError(f"never true: {condition}; errors: {self.errors}")
            time.sleep(0.02)

    def key(self, key: str) -> None:
        """Presses a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Sends ``mouseMoved``, ``mousePressed``, ``mouseReleased`` or ``mouseWheel`` at a place [px]."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def picture(self, path: Path | None = None) -> bytes:
        """The page as PNG; written to ``path`` where one is given."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def call(self, method: str, **parameters: Any) -> Any:
        """Sends a command of the DevTools protocol and gives its result; notes what the page complains of."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            self._note(answer)
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def _read(self) -> Any:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], PATIENCE)
            chunk = os.read(self._from, 1 << 20) if ready else b""
            if not chunk:
                raise AssertionError(f"the browser says nothing; its exit code: {self._process.poll()}")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, event: Any) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(str(parameters["entry"]["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(str(parameters["request"]["url"]))
