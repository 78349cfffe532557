"""What a learner sees, in a real Chromium: JupyterLab as `pmeta lab` opens it, and the pages of the website.

Names other than this machine's do not resolve in that browser, and every request it makes is logged and looked at.
Pictures of the screen are left in out/browser.
"""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from browser_tools import NO_BROWSER, ROOT, click, look, picture, requests, wait
from pmeta_course.regression.structure import output_problems
from pmeta_course.show import theatre
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

sys.path.append(str(ROOT / "docs" / "site"))
import agreement

pytestmark = NO_BROWSER

# ------------------------------------------------------------------------------------------------- the website


def contents(nb) -> dict:
    """What a page must show of a notebook: formulas on lines of their own, pictures, solutions folded away."""
    texts = [c.source for c in nb.cells if c.cell_type == "markdown"]
    outputs = [o for c in nb.cells for o in c.get("outputs", [])]
    return {
        "displays": sum(len(re.findall(r"\$\$.+?\$\$", text, re.DOTALL)) for text in texts),
        "pictures": sum(any(kind.startswith("image/") for kind in o.get("data", {})) for o in outputs),
        "solutions": [False for c in nb.cells if "solution" in c.metadata.get("tags", [])],
    }


def test_every_page_is_whole_and_asks_nobody_else_for_anything(site, site_folder, browser):
    pages = {p.relative_to(site_folder).as_posix() for p in site_folder.rglob("*.html")}
    notebooks = {f"notebooks/{p.stem}.html" for p in (ROOT / "notebooks").glob("*.ipynb")}
    documents = {f"docs/{p.stem}.html" for p in (ROOT / "docs").glob("*.md")}
    assert len(notebooks) >= 9 and documents and notebooks | documents | {"index.html", "README.html"} <= pages
    pictures = []
    for page in sorted(pages - {"search.html"}):
        seen = look(browser, f"{site}/{page}")
        assert seen["typeset"] == seen["formulas"] and not seen["errors"], (page, seen["errors"])
        assert not re.search(r"\$\$|\$\\|\\\(|\\\[|\\(?:frac|theta|lambda|sum)\b", seen["text"]), page
        assert all(p["width"] and p["alt"] for p in seen["pictures"]), (page, seen["pictures"])
        if page in notebooks:
            found = {"displays": seen["displays"], "pictures": len(seen["pictures"]), "solutions": seen["solutions"]}
            assert found == contents(nbformat.read((ROOT / page).with_suffix(".ipynb"), 4)), page
        pictures += seen["pictures"]
        asked = requests(browser)
        assert asked and not [a for a in asked if not a.startswith(f"{site}/") or " " in a], page
        loaded = {site_folder / re.split("[#?]", a.removeprefix(f"{site}/"))[0] for a in asked}
        weight = sum(len(gzip.compress(file.read_bytes())) for file in loaded)  # as a server sends them
        assert weight < 2 * 2**20, (page, weight)  # before a slider is touched or the theatre is started
    slider = [p for p in pictures if "Returns of two tasks" in p["alt"]]
    assert slider and all(p["width"] > 400 for p in slider)
    look(browser, f"{site}/notebooks/02_personalized_objective.html")
    browser.execute_script("document.querySelector('div.math').scrollIntoView({block: 'center', behavior: 'instant'})")
    picture(browser, "site_mathematics")


def test_search_finds_and_the_dark_stays_dark(site, browser):
    browser.get(f"{site}/index.html")
    picture(browser, "site_home")
    browser.find_element(By.CSS_SELECTOR, "input.sidebar-search").send_keys("Moreau envelope", Keys.ENTER)
    wait(browser, lambda b: "found" in b.find_element(By.ID, "search-results").text, "the search to finish")
    found = " ".join(a.text for a in browser.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    assert "The personalized objective" in found and "Sweeps" not in found

    def lightness() -> list[float]:
        colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        return [sum(map(int, re.findall(r"\d+", c)[:3])) / 765 for c in browser.execute_script(colours)]

    assert lightness()[0] > 0.9 and lightness()[1] < 0.3
    for _ in range(3):  # the switch goes through dark, light, and as the system has it
        if browser.find_element(By.TAG_NAME, "body").get_attribute("data-theme") != "dark":
            browser.find_element(By.CSS_SELECTOR, ".content-icon-container .theme-toggle").click()
    assert lightness()[0] < 0.2 and lightness()[1] > 0.6
    look(browser, f"{site}/notebooks/00_start_here.html")
    browser.execute_script(
        "document.querySelector('article img').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    assert lightness()[0] < 0.2
    picture(browser, "site_dark")


# -------------------------------------------------------------------------------------------------- JupyterLab


@pytest.fixture
def lab(tmp_path):
    """`pmeta lab` on a copy of notebook 00: its folder and its address."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", folder)
    env = os.environ | {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    log = tmp_path / "log"
    command = [sys.executable, "-m", "pmeta_lib.cli", "lab", str(folder), "--no-browser"]
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=env, start_new_session=True)
    try:
        for _ in range(600):
            if address := re.search(r"http://127\.0\.0\.1:\d+/lab\S*\?token=\w+", log.read_text()):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield folder, address[0]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def menu(browser, name: str, entry: str) -> None:
    """Choose an entry of a menu, with the mouse."""
    bar = f"//*[contains(@class, 'lm-MenuBar-item')][.//*[text()='{name}']]"
    wait(browser, click(bar), f"the menu {name}")
    line = f"//*[contains(@class, 'lm-Menu-item') and not(contains(@class, 'lm-mod-disabled'))][.//*[text()='{entry}']]"
    wait(browser, click(line), f"the entry {entry}")


def open_notebook(browser, address: str, name: str) -> None:
    """Open a notebook, and wait until its kernel is there."""
    browser.get(re.sub(r"/lab\S*\?", f"/lab/tree/{name}?", address))
    # the notebook's own signs: the status bar's follows the focus, and now and then stays empty
    for sign in (
        "//*[contains(@class, 'jp-KernelName')][.//text()[contains(., 'Python 3')]]",
        "//*[contains(@class, 'jp-Notebook-ExecutionIndicator')][@data-status='idle']",
    ):
        wait(browser, lambda b, sign=sign: b.find_elements(By.XPATH, sign), "the kernel")


def test_notebook_runs_from_the_menu_and_a_slider_moves_the_picture(lab, browser):
    folder, address = lab
    path = folder / "00_start_here.ipynb"
    stored = nbformat.read(path, 4)
    for cell in stored.cells:  # so that whatever is there at the end was made here
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(stored, path)
    open_notebook(browser, address, path.name)
    menu(browser, "Run", "Run All Cells")

    def saved():
        menu(browser, "File", "Save Notebook")
        time.sleep(0.5)
        return nbformat.read(path, 4)

    def unfinished(nb) -> list[str]:
        return [c.id for c in nb.cells if c.cell_type == "code" and c.source and c.execution_count is None]

    deadline = time.monotonic() + 180
    while unfinished(nb := saved()):
        assert time.monotonic() < deadline, "the cells were not all run within 180 s"
        time.sleep(1)
    assert not output_problems(nb)
    texts = "".join(o.get("text", "") for c in nb.cells if c.cell_type == "code" for o in c.outputs)
    assert "points above the joint policy" in texts and texts.count("00.1") == 1

    status = "//*[@role='status'][starts-with(text(), 'lambda =')]"
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", browser.find_element(By.XPATH, status)
    )

    def numbers() -> list[float]:
        text = wait(browser, lambda b: b.find_element(By.XPATH, status).get_attribute("textContent"), "the numbers")
        return [float(x) for x in re.findall(r"\d+\.?\d*(?:e[+-]\d+)?", text)]

    def drawn() -> str:
        picture = ".jupyter-widgets img[alt^='Returns of two tasks']"
        seen = "const i = document.querySelector(arguments[0]); return [i.naturalWidth, i.src]"
        width, source = browser.execute_script(seen, picture)
        assert width > 400
        return source

    handles = browser.find_elements(By.CSS_SELECTOR, ".widget-slider .noUi-handle")
    assert len(handles) == 2 and numbers() == [0.1, 9.8, 5.0]
    before = drawn()
    picture(browser, "lab_before")
    ActionChains(browser).drag_and_drop_by_offset(handles[0], 80, 0).perform()  # a stiffer spring
    wait(browser, lambda b: numbers()[0] > 1, "lambda to grow")
    soft, stiff = 9.8, numbers()
    assert stiff[1] < soft - 1 and stiff[2] == 5.0 and drawn() != before
    before = drawn()
    handles[1].send_keys(*[Keys.ARROW_RIGHT] * 10)  # by keyboard: the tasks agree by half
    wait(browser, lambda b: numbers() != stiff, "the agreement to change")
    assert drawn() != before
    picture(browser, "lab_after")
    assert not strangers(browser)


def strangers(browser) -> list[str]:
    """Requests to other machines since the last call."""
    return [a for a in requests(browser) if re.match(r"https?://(?!127\.0\.0\.1:|localhost:)", a)]


def test_the_theatre_is_a_widget_that_plays_what_python_plays(lab, browser, theatre_built):
    if theatre_built:
        pytest.skip(theatre_built)
    folder, address = lab
    code = "from pmeta_course.show.theatre import Theatre\n\nTheatre()"
    nb = nbformat.read(folder / "00_start_here.ipynb", 4)  # for its kernel
    nb.cells = [nbformat.v4.new_code_cell(code)]
    nbformat.write(nb, folder / "theatre.ipynb")
    open_notebook(browser, address, "theatre.ipynb")
    menu(browser, "Run", "Run All Cells")
    there = "return document.querySelector('.jp-OutputArea .theatre')?.theatre?.sides.every((side) => side.ready)"
    wait(browser, lambda b: b.execute_script(there), "the theatre", 120)
    played = browser.execute_script(
        "const { theatre } = document.querySelector('.theatre'); theatre.advance(20); return theatre.sides[1].log"
    )
    cast = json.loads(theatre.files()["theatre.json"])["families"]["half-cheetah-dir"]["casts"]["pmeta"]
    python = agreement.replay("half-cheetah-dir", cast, 0, 0)
    assert played[20]["total"] == pytest.approx(python.rewards[:20].sum(), abs=1e-6)
    step = browser.find_element(By.XPATH, "//*[contains(@class, 'theatre')]//button[text()='Step']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", step)
    step.click()
    wait(browser, lambda b: "21 of" in b.find_element(By.CSS_SELECTOR, ".theatre").text, "the step")
    browser.execute_script("document.querySelector('.theatre .stages').scrollIntoView({block: 'center'})")
    picture(browser, "lab_theatre")
    assert not strangers(browser)
