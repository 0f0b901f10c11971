"""A real Chromium, driven over its own DevTools pipe: no driver package, no port, gone with the test.

Only what the tests need: open an address, run an expression, press keys, pretend a phone or a dark screen, take a picture.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
PATIENCE_S = 30.0


def find_chromium() -> str | None:
    """$CHROMIUM, or the first of the usual names on the path."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """The browser's process. `command` waits for the answer and keeps what happened meanwhile in `events`."""

    def __init__(self, binary: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onecard-chromium-", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in (theirs_in, theirs_out)]  # clear of 3 and 4
        os.close(theirs_in)
        os.close(theirs_out)

        def as_three_and_four() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        flags = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [binary, *flags, f"--user-data-dir={self._folder.name}", "about:blank"],
            preexec_fn=as_three_and_four, pass_fds=(3, 4), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for one in high:
            os.close(one)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def command(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol. AssertionError when the browser refuses it or says nothing."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        end_s = time.monotonic() + PATIENCE_S
        while True:
            told = self._next(end_s)
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]
            self.events.append(told)

    def page(self) -> Page:
        """A new, empty page that shares nothing with the others."""
        context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        return Page(self, self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"], context)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def _next(self, end_s: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(end_s - time.monotonic(), 0))
            piece = os.read(self._in, 2**20) if ready else b""
            assert piece, "Chromium says nothing"
            self._rest += piece
        told, _, self._rest = self._rest.partition(b"\0")
        return json.loads(told)


class Page:
    """One page. Expressions are JavaScript; promises are awaited."""

    def __init__(self, browser: Chromium, session: str, context: str) -> None:
        self._browser, self._session, self._context = browser, session, context
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.command(method, self._session, **params)

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, still: bool = True) -> None:
        """Goes to an address on a screen of this size; a narrow one is a phone. `still` asks for reduced motion."""
        phone = width < 600
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        wishes = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        self.command("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in wishes.items()])
        self.command("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """The value of an expression; AssertionError when it throws."""
        told = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true; AssertionError with the page's text when it never is."""
        end_s = time.monotonic() + PATIENCE_S
        while not self.run(f"(() => {{ try {{ return !!({expression}); }} catch {{ return false; }} }})()"):
            assert time.monotonic() < end_s, f"never: {expression}\n{self.run('document.body.innerText')}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What a person reads there."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def fill(self, selector: str, text: str) -> None:
        """Sets a field's value as typing it would."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{field}.value = {json.dumps(text)}; {field}.dispatchEvent(new Event('change', {{bubbles: true}}))")

    def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """A real key: goes to what has the focus. `code` is Windows' number of it; modifiers 2 is Ctrl, 8 Shift."""
        press = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.command("Input.dispatchKeyEvent", type="keyDown", **press, **({"text": text} if text else {}))
        self.command("Input.dispatchKeyEvent", type="keyUp", **press)

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        told = self.command("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(told["data"]))

    def happened(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every event of this name so far, of this page."""
        self.run("0")
        mine = [one for one in self._browser.events if one.get("sessionId") == self._session]
        return [one["params"] for one in mine if one["method"] == method]

    def close(self) -> None:
        self._browser.command("Target.disposeBrowserContext", browserContextId=self._context)
