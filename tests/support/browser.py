"""A headless Chromium for tests, spoken to over a pipe: no driver, no port, no package.

Chromium with ``--remote-debugging-pipe`` reads commands of the DevTools protocol from descriptor 3 and writes answers
and events to descriptor 4, each a JSON object that ends with a NUL byte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

_DEADLINE = 60.0
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--remote-debugging-pipe",
)


class BrowserFailed(AssertionError):
    """The browser did not do what it was told; the message says what."""


@dataclass
class Seen:
    """What a page did while it was loaded: complaints of the console, and every address that it asked for."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    """One page in one browser. A context manager; leaving it ends every process of the browser."""

    def __init__(self, program: str, profile: Path) -> None:
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        # The shell puts our pipes where Chromium expects them; Popen cannot choose the numbers.
        script = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *_SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(profile.parent / "browser.log").open("wb"),
            start_new_session=True,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.seen = Seen()

    def __enter__(self) -> Browser:
        page = next(target for target in self._call("Target.getTargets")["targetInfos"] if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)
        os.close(self._answers)
        with contextlib.suppress(ProcessLookupError):  # it went by itself when the pipe closed
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=20)

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> Seen:
        """Load a file at this width and in this colour scheme; gives what the page did meanwhile."""
        self.seen = Seen()
        self._call("Emulation.setEmulatedMedia", features=[_scheme(dark)])
        self.resize(width)
        self._call("Page.navigate", url=path.as_uri())
        self._until(lambda: self.evaluate("document.readyState") == "complete", f"{path} did not load")
        return self.seen

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page this many CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, as JSON has it."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserFailed(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> bytes:
        """The whole page as PNG, also beyond the window, written to `path`."""
        taken = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        data = base64.b64decode(taken["data"])
        path.write_bytes(data)
        return data

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _DEADLINE
        while True:
            answer = self._receive(end, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserFailed(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(end - time.monotonic(), 0))
            data = os.read(self._answers, 1 << 16) if ready else b""
            if not data:
                how = "the browser ended" if ready else f"no answer within {_DEADLINE:g} s"
                raise BrowserFailed(f"{method}: {how}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.seen.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.seen.complaints.append(f"console.{parameters['type']}: {parameters['args']}")
        elif method == "Log.entryAdded":
            self.seen.complaints.append(f"{parameters['entry']['level']}: {parameters['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.seen.requests.append(parameters["request"]["url"])

    def _until(self, done: Any, sentence: str) -> None:
        end = time.monotonic() + _DEADLINE
        while not done():
            if time.monotonic() > end:
                raise BrowserFailed(f"{sentence} within {_DEADLINE:g} s")
            time.sleep(0.02)


def _scheme(dark: bool) -> dict[str, str]:
    return {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
