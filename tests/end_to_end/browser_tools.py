"""What tests of pages share: a real Chromium that reaches no other machine, the built site, and how to look at a page.

Every request that the browser makes is logged. Pictures of the screen are left in out/browser.
"""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser: pip install -e '.[dev]'")
from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "out" / "browser"
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1400,1000"
)
WEBGL = "--use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist"  # on a machine without a GPU
NO_WEBGL = "--disable-gpu --disable-3d-apis"
NO_BROWSER = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver (Debian: apt install chromium chromium-driver)"
)
FRAMES, BUDGET = "00 01 02", 8  # the notebooks whose sliders are alive in the site of the tests; frames of each slider


@contextmanager
def chromium(profile: Path, flags: str = WEBGL):
    """A browser that finds no other machine than this one."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in f"{FLAGS} {flags}".split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.set_script_timeout(120)
        driver.get("about:blank")
        requests(driver)  # those of the browser's first page are not ours
        yield driver
    finally:
        driver.quit()


def wait(browser, condition, what: str, seconds: float = 60):
    """The first true value of `condition(browser)`; a page that redraws itself in the middle of it is asked again."""
    ignored = (StaleElementReferenceException, ElementNotInteractableException)
    return WebDriverWait(browser, seconds, 0.2, ignored).until(condition, f"waited {seconds} s in vain for {what}")


def click(xpath: str):
    """A condition for `wait`: the element is there and has been clicked."""
    return lambda b: [element.click() or True for element in b.find_elements(By.XPATH, xpath)[:1]]


def picture(browser, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(PICTURES / f"{name}.png"))


def requests(browser) -> list[str]:
    """Addresses of all requests since the last call, with the reason behind those that failed."""
    addresses, failed = {}, {}
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        parameters, event = message["params"], message["method"]
        if event == "Network.requestWillBeSent":
            addresses[parameters["requestId"]] = parameters["request"]["url"]
        elif event == "Network.responseReceived" and parameters["response"]["status"] >= 400:
            failed[parameters["requestId"]] = str(parameters["response"]["status"])
        elif event == "Network.loadingFailed" and not parameters.get("canceled"):
            failed[parameters["requestId"]] = parameters["errorText"]
    asked = {key: url for key, url in addresses.items() if not url.startswith(("data:", "blob:"))}
    return [f"{url} {failed[key]}" if key in failed else url for key, url in asked.items()]


def complaints(browser) -> list[str]:
    """What the console says at the level of an error since the last call."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def build_theatre() -> str:
    """Bundle the theatre once; why it is not there, or nothing."""
    if not (shutil.which("npm") and shutil.which("node") and shutil.which("make")):
        return "the theatre is bundled with Node, npm and make, and not all of them are here"
    done = subprocess.run(["make", "theatre"], cwd=ROOT, capture_output=True, text=True)
    return f"the theatre could not be bundled (is the npm registry reachable?): {done.stderr[-300:]}" * bool(
        done.returncode
    )


def build_site(folder: Path, shared: Path, *more: str) -> None:
    """The site as `make site` builds it, without network where the system can cut it off, with few frames."""
    recipe = re.search(r"^site:.*\n\t@\$\(BIN\)/(.*) site && echo.*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = recipe[1].replace("$(WORKERS)", "1").replace("out/site-doctrees", str(shared / f"{folder.name}-doctrees"))
    words = words.replace("$(if $(STUDENT),-t student)", " ".join(more)).split()
    cut = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*cut, "true"], capture_output=True).returncode:
        cut = []
    few = ["-D", f"pmeta_budget={BUDGET}", "-D", f"pmeta_notebooks={FRAMES}"]
    done = subprocess.run(
        [*cut, sys.executable, *words[1:], *few, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (shared / "jupyter_execute").exists()  # nothing is left beside the site


@contextmanager
def serve(folder: Path):
    """The address under which a folder is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LOOK = """
const done = arguments[0], article = document.querySelector("article");
Promise.resolve(window.MathJax?.startup?.promise).then(() => {
  const text = article.cloneNode(true);
  text.querySelectorAll("pre, code, script, mjx-container").forEach(node => node.remove());
  done({
    text: text.textContent,
    displays: article.querySelectorAll("mjx-container[display=true]").length,
    formulas: article.querySelectorAll(".math").length,
    typeset: article.querySelectorAll(".math mjx-container > svg").length,
    errors: [...article.querySelectorAll("mjx-merror, [data-mjx-error]")].map(node => node.textContent),
    pictures: [...article.querySelectorAll("img")].map(i => ({alt: i.alt, width: i.naturalWidth, src: i.src})),
    solutions: [...article.querySelectorAll("details.hide")].map(d => d.open),
  });
}).catch(error => done({failed: String(error)}));
"""


def look(browser, address: str) -> dict:
    """Open a page and describe it. On a busy machine `get` may return with the page before still there."""
    browser.get(address)
    there = "return location.href === arguments[0] && document.readyState === 'complete'"
    wait(browser, lambda b: b.execute_script(there, address), address)
    seen = browser.execute_async_script(LOOK)
    assert "failed" not in seen, (address, seen)
    return seen
