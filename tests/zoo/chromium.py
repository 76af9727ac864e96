"""Chromium without a window, over the DevTools protocol on two pipes: what a page looks like and what it asks for."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         "--remote-debugging-pipe")  # fmt: skip
COMMANDS, EVENTS = 3, 4
"""File descriptors that Chromium reads from and writes to."""

LAYOUT = """(() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), sizes = new Map();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.getClientRects().length) continue;
    sizes.set(parseFloat(style.fontSize), node.data.trim().slice(0, 40));
  }
  const root = document.documentElement;
  const outside = [...document.querySelectorAll('body *')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !one.closest('.scroll') && !one.closest('.visually-hidden');
  }).map(one => `${one.tagName} ${one.className.baseVal ?? one.className}`);
  return {width: innerWidth, scroll: root.scrollWidth, height: root.scrollHeight, sizes: [...sizes], outside,
          text: document.body.innerText};
})()"""


def find() -> str | None:
    """Where Chromium is; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Layout:
    """A page at one width: its `width` and what it would need (`scroll`), in CSS pixels.

    `smallest`: the least font size of a text that shows, and that text. `outside`: elements that reach beyond the right
    edge, those in boxes that scroll left out. `complaints`: console messages and exceptions. `requests`: every address
    but the page's own.
    """

    width: int
    scroll: int
    smallest: tuple[float, str]
    outside: tuple[str, ...]
    text: str
    complaints: tuple[str, ...]
    requests: tuple[str, ...]
    picture: bytes


class Chromium:
    """One browser; use it as a context manager."""

    def __enter__(self) -> Self:
        program = find()
        assert program is not None
        with ExitStack() as stack:
            profile = stack.enter_context(tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True))
            (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
            command = f'exec {COMMANDS}<&{theirs_in} {EVENTS}>&{theirs_out} "$@"'
            # The shell moves the pipes to the two numbers, whatever numbers they have here.
            words = ["bash", "-c", command, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
            process = stack.enter_context(
                subprocess.Popen(words, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
            )
            stack.callback(process.kill)
            os.close(theirs_in)
            os.close(theirs_out)
            self._out = stack.enter_context(os.fdopen(ours_out, "wb"))
            self._in = stack.enter_context(os.fdopen(ours_in, "rb"))
            self._numbers, self._rest = itertools.count(1), b""
            self._events: list[dict[str, Any]] = []
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Network", "Runtime", "Log"):
                self._call(f"{domain}.enable")
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def layout(self, page: Path, *, width: int, scheme: str = "light") -> Layout:
        """Open a page of this width, in the colours that a reader prefers, and measure it."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=features)
        self._events = []
        address = page.absolute().as_uri()
        self._call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        found = self._call("Runtime.evaluate", expression=LAYOUT, returnByValue=True)["result"]["value"]
        clip = {"x": 0, "y": 0, "width": width, "height": found["height"], "scale": 1}
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        smallest = min((size, text) for size, text in found["sizes"])
        asked = (
            one["params"]["request"]["url"] for one in self._events if one["method"] == "Network.requestWillBeSent"
        )
        return Layout(
            found["width"],
            found["scroll"],
            smallest,
            tuple(found["outside"]),
            found["text"],
            tuple(map(str, self._complaints())),
            tuple(url for url in asked if url != address),
            base64.b64decode(picture),
        )

    def _complaints(self) -> list[object]:
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self._events if event["method"] in kinds]

    def _call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            if "method" in answer:
                self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        """The next message; an end of the pipe means that the browser has died."""
        while b"\0" not in self._rest:
            more = os.read(self._in.fileno(), 1 << 16)
            assert more, "Chromium ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)
