"""Open a page in headless Chromium and say what is wrong with it.

    python -m benchmarks.page_in_browser reports/index.html                 what is wrong
    python -m benchmarks.page_in_browser reports/index.html --out shots     screenshots, a PDF too
    python -m benchmarks.page_in_browser reports/index.html --readme docs/images    the README's

Looks for errors in the console, requests to anything but the page, content wider than the window
(at 390 and 1440 px, light and dark, and on paper), text with less contrast than WCAG's AA asks for,
pictures, columns, links and regions without a name, and places that the Tab key does not reach.
Chromium is talked to over its debugging pipe, so no port is opened. Exit status: 1 where something
is wrong.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.files import write_bytes

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESK, PAPER = 390, 1440, 688  # px; A4 without the margins of the page's style sheet
HEIGHT = 900
SECONDS = 120

# Elements that stick out of the window and of every box that scrolls.
WIDER = """(() => {
  const wide = document.scrollingElement.scrollWidth, room = document.documentElement.clientWidth;
  if (wide <= room) return [];
  const out = [...document.body.querySelectorAll('*')].filter(e =>
    e.getBoundingClientRect().right > room + 1 && !e.closest('.scroll'));
  return [`${wide} px of content in ${room} px: ` + out.slice(0, 3).map(e =>
    e.tagName.toLowerCase() + ' “' + e.textContent.trim().slice(0, 40) + '”').join(', ')];
})()"""

# Text with too little contrast, and colours of lines that hardly differ from the ground.
PALE = """(() => {
  const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = text => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = text;
    paint.fillRect(0, 0, 1, 1); const d = paint.getImageData(0, 0, 1, 1).data;
    return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => { const v = c[i] / 255;
    return sum + share * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const ground = e => { const layers = [];
    for (let n = e; n; n = n.parentElement) layers.push(rgba(getComputedStyle(n).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]); };
  const found = new Set();
  for (const e of document.body.querySelectorAll('*')) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), drawn = e instanceof SVGElement;
    const under = ground(e), ink = over(rgba(drawn ? style.fill : style.color), under);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const wanted = !drawn && (size >= 24 || (bold && size >= 18.66)) ? 3 : 4.5;
    const got = ratio(ink, under);
    if (got < wanted) found.add(`contrast ${got.toFixed(2)}, ${wanted} wanted: `
      + `${e.tagName.toLowerCase()}.${e.getAttribute('class')} “${text.slice(0, 30)}”`);
  }
  const root = getComputedStyle(document.documentElement);
  const page = rgba(root.getPropertyValue('--ground'));
  for (let i = 0; i < 8; i++) { const got = ratio(rgba(root.getPropertyValue(`--s${i}`)), page);
    if (got < 3) found.add(`contrast ${got.toFixed(2)}, 3 wanted: lines of --s${i}`); }
  return [...found];
})()"""

# Where the keyboard stands: which of all places it can stand at, and whether that shows.
PLACES = "[...document.querySelectorAll('a[href], summary, [tabindex=\"0\"]')]"
STANDS = f"""(() => {{ const e = document.activeElement;
  return [{PLACES}.filter(p => p.checkVisibility()).indexOf(e),
          getComputedStyle(e).outlineStyle !== 'none']; }})()"""
SHUT = """[...document.querySelectorAll('details')].filter(d => ![...d.children].some(c =>
  c.tagName !== 'SUMMARY' && c.checkVisibility())).length"""
# A table need not: it stands in a region with a name.
NAMED_ROLES = ("image", "link", "region", "heading", "navigation", "columnheader")


@dataclass
class Tab:
    """A tab of a browser.

    Attributes:
        faults: what the browser itself has complained of.
    """

    send: Any
    receive: Any
    session: str = ""
    faults: list[str] = field(default_factory=list)
    _unread: bytes = b""
    _number: int = 0
    _loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser; what it tells meanwhile is looked at."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.send.write(json.dumps(message).encode() + b"\0")
        self.send.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def value(self, expression: str) -> Any:
        """What an expression in the page comes to."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def open(self, page: Path, width: int, dark: bool = False, media: str = "") -> None:
        """Load a page into a window of a width."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._next()

    def picture(self, clip: dict[str, float] | None = None, kind: str = "png") -> bytes:
        """A picture of the window, or of a part of the page; `kind` is `png` or `webp`."""
        more: dict[str, Any] = {"format": kind, **({"quality": 82} if kind == "webp" else {})}
        if clip:
            more |= {"clip": {**clip, "scale": 1}, "captureBeyondViewport": True}
        return base64.b64decode(self.call("Page.captureScreenshot", **more)["data"])

    def whole(self) -> dict[str, float]:
        """The whole page, as a clip."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        data = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        return base64.b64decode(data)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = self.receive.read1(1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        answer = json.loads(message)
        self._heed(answer.get("method", ""), answer.get("params", {}))
        return dict(answer)

    def _heed(self, event: str, about: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.faults.append(f"exception: {about['exceptionDetails'].get('text')}")
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.faults.append(f"console: {about['args']}")
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.faults.append(f"log: {about['entry']['text']}")
            case "Network.requestWillBeSent":
                url = about["request"]["url"]
                if not (url.startswith("data:") or about.get("type") == "Document"):
                    self.faults.append(f"request: {url}")


def chromium() -> str | None:
    """The browser of this machine, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser_tab() -> Iterator[Tab]:
    """A tab of a new, private browser, which ends with the block.

    Raises:
        RuntimeError: there is no Chromium.
    """
    program = chromium()
    if program is None:
        raise RuntimeError(f"none of {', '.join(NAMES)} is on the path")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        to_browser, from_browser = os.pipe(), os.pipe()
        options = [
            *("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
            *("--no-first-run", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--disable-component-update"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # root has no sandbox
        ]
        # There, the ends must have the numbers 3 and 4, which is a shell's work; from 10 on they
        # are in nobody's way.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_browser[0], from_browser[1])]
        script = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *options],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (*ends, to_browser[0], from_browser[1]):
            os.close(fd)
        try:
            with (
                os.fdopen(to_browser[1], "wb") as send,
                os.fdopen(from_browser[0], "rb") as receive,
            ):
                tab = Tab(send, receive)
                target = tab.call("Target.createTarget", url="about:blank")["targetId"]
                tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)[
                    "sessionId"
                ]
                for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
                    tab.call(f"{domain}.enable")
                yield tab
        finally:
            process.terminate()
            try:
                process.wait(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def faults_of(tab: Tab, page: Path, out: Path | None = None) -> list[str]:
    """All that is wrong with a page; see the module's text.

    Args:
        tab: of a browser.
        page: an HTML file.
        out: where to leave screenshots and a PDF.
    """
    found = []
    ways = [(PHONE, False, ""), (PHONE, True, ""), (DESK, False, ""), (DESK, True, "")]
    for width, dark, media in [*ways, (PAPER, True, "print")]:
        name = media or f"{width} px, {'dark' if dark else 'light'}"
        tab.open(page, width, dark, media)
        found += [f"{name}: {fault}" for fault in (*tab.value(WIDER), *tab.value(PALE))]
        if out is not None:
            picture = tab.picture(tab.whole())
            write_bytes(out / f"{name.replace(' px, ', '-')}.png", picture)
    shut = tab.value(SHUT)
    found += [f"print: {shut} folded parts stay folded"] if shut else []
    pdf = tab.pdf()
    if not pdf.startswith(b"%PDF"):
        found.append("print: no PDF")
    if out is not None:
        write_bytes(out / "page.pdf", pdf)
    tab.open(page, DESK)
    found += [*_unnamed(tab), *_unreached(tab)]
    return [*dict.fromkeys(tab.faults), *found]


def _unnamed(tab: Tab) -> Iterator[str]:
    """What a screen reader has no word for."""
    for node in tab.call("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role in NAMED_ROLES and not node["name"].get("value"):
            yield f"a screen reader finds a {role} without a name"


def _unreached(tab: Tab) -> Iterator[str]:
    """Places that the Tab key does not come to, in their order, or comes to without showing it."""
    count = tab.value(f"{PLACES}.filter(p => p.checkVisibility()).length")
    for wanted in range(count):
        for kind in ("rawKeyDown", "keyUp"):
            tab.call(
                "Input.dispatchKeyEvent",
                **{"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
            )
        place, shown = tab.value(STANDS)
        if place != wanted:
            yield f"the Tab key comes to place {place}, and not to {wanted} of {count}"
            return
        if not shown:
            yield f"place {place} of {count} does not show that the keyboard is there"


def readme_pictures(tab: Tab, page: Path, folder: Path) -> list[Path]:
    """The two pictures of the README: how the page begins, and what it shows of the mistakes."""
    written = []
    for name, place, dark in (("report", "header", False), ("report-mistakes", "#mistakes", True)):
        tab.open(page, 1200, dark)
        top = tab.value(f"document.querySelector('{place}').getBoundingClientRect().top")
        clip = {"x": 32, "y": top + 16, "width": 1136, "height": 760}
        path = folder / f"{name}.webp"
        write_bytes(path, tab.picture(clip, "webp"))
        written.append(path)
    return written


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, help="folder for screenshots and a PDF")
    parser.add_argument("--readme", type=Path, help="folder for the README's pictures")
    options = parser.parse_args(argv)
    if not options.page.is_file():
        parser.error(f"{options.page}: no such file")
    with browser_tab() as tab:
        found = faults_of(tab, options.page, options.out)
        if options.readme:
            for path in readme_pictures(tab, options.page, options.readme):
                print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    for fault in found:
        print(f"fault: {fault}")
    print(f"{options.page}: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
