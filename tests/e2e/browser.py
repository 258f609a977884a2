"""A real browser on the page of a real ``deploykit serve``: started once, watched in every test."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Without a sandbox (containers have none), a GPU, or any errand of the browser's own that would leave the machine.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
_WIDE = (1280, 860)

expect.set_options(timeout=20_000)  # milliseconds; five seconds are not much for an explanation on a machine with neighbours


@dataclass
class Tab:
    """One page, and what it did that it should not have.

    Args:
        page: the browser's.
        complaints: errors of the console and of scripts (a breach of the content security policy is one), and requests that
            left the host.
        refusals: HTTP statuses that the test provokes; the console tells of each as an error.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    refusals: tuple[int, ...] = ()

    def open(self, address: str) -> Page:
        """Load the page and wait until it can be used."""
        host = urlsplit(address).netloc
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("request", lambda request: self._watch(request, host))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=true]")
        return self.page

    def _hear(self, message: ConsoleMessage) -> None:
        is_provoked = any(f"status of {status}" in message.text for status in self.refusals)
        if message.type in ("error", "warning") and not is_provoked:
            self.complaints.append(f"console: {message.text}")

    def _watch(self, request: Request, host: str) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and parts.netloc != host:
            self.complaints.append(f"left the host: {request.url}")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Headless Chromium, the one that is installed."""
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield opened
        opened.close()


@contextlib.contextmanager
def tab(
    opened: Browser,
    address: str,
    size: tuple[int, int] = _WIDE,
    *,
    is_phone: bool = False,
    colours: str = "light",
    refusals: tuple[int, ...] = (),
) -> Iterator[Page]:
    """A page of its own that must have nothing to complain about in the end."""
    width, height = size
    context = opened.new_context(
        viewport={"width": width, "height": height},
        has_touch=is_phone,
        is_mobile=is_phone,
        color_scheme="dark" if colours == "dark" else "light",
        accept_downloads=True,
    )
    watched = Tab(context.new_page(), refusals=refusals)
    try:
        yield watched.open(address)
        assert watched.complaints == []
    finally:
        context.close()


@contextlib.contextmanager
def serving(bundles: Sequence[Path], samples: Path) -> Iterator[str]:
    """The address of a ``deploykit serve``, which it prints when requests are taken."""
    options = ["--port", "0", "--samples", str(samples), "--threads", "1", "--allow-untrained"]
    command = [sys.executable, "-m", "deploykit", "serve", *map(str, bundles), *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            log.seek(0)
            assert "http" in line, f"deploykit serve ended: {log.read()}"
            yield line.split()[-1].rstrip("/") + "/"
        finally:
            process.terminate()
            process.communicate(timeout=20)


def take_sample(page: Page, name: str) -> None:
    """Press a sample's button and wait for its answer."""
    page.click(f"button[title='{name}']")
    wait_for_answer(page)


def choose_class(page: Page, name: str) -> None:
    """Type a class's name into the search field and press Enter."""
    page.fill("#search", name)
    page.press("#search", "Enter")


def wait_for_answer(page: Page) -> None:
    """Wait until what was asked is answered and drawn."""
    page.wait_for_selector("body[data-busy=false] .answers li")
    expect(page.locator(".picture canvas").first).to_have_attribute("data-settled", "true")


def top_label(page: Page) -> str:
    """The likeliest class in the list."""
    return page.locator(".answers .label").first.inner_text()


def pixels(page: Page) -> str:
    """The first photo as it is drawn, as a PNG's data URL."""
    return str(page.evaluate("document.querySelector('.picture canvas').toDataURL()"))


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than the screen."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
