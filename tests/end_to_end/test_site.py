"""The living parts of the website: sliders over drawn frames, choice questions, the theatre; in a real Chromium.

What the page computes is held against Python: frames against a fresh drawing, diagnoses against `check`, the theatre's
physics, rewards, observations and policies against gymnasium's environments and NumPy.
"""

import base64
import contextlib
import gzip
import io
import itertools
import json
import re
import shutil
import subprocess
import sys

import gymnasium
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from browser_tools import (
    BUDGET,
    NO_BROWSER,
    NO_WEBGL,
    ROOT,
    WEBGL,
    chromium,
    click,
    complaints,
    look,
    picture,
    requests,
    serve,
    wait,
)
from PIL import Image
from pmeta_course.exercises import exercises, judge
from pmeta_course.grading.student import student_edition
from pmeta_course.show import theatre
from pmeta_course.show.widgets import gradient_field, lambda_slider
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from pmeta_lib.envs.families import family
from pmeta_lib.figures import use_style
from pmeta_lib.files import UserError

sys.path.append(str(ROOT / "docs" / "site"))
alive = pytest.importorskip("alive", reason="the site is made by Sphinx: pip install -e '.[site]'")
import agreement  # noqa: E402
import frames  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = ROOT / "out" / "npm" / "node_modules"


# ------------------------------------------------------------------------------------------------- the frames


def test_a_cell_brings_along_what_it_needs_and_nothing_else():
    cells = [
        "a = 1",
        "b = a",
        "seen = [b]",
        "a = 5",
        "def f():\n    return g(a)",  # g is bound later, and a once more
        "for a in [1]:\n    c = a",  # binds its own a
        "seen[0] = 1",  # changes what is needed, so belongs to it
        "def g(x):\n    return [x + k for k in seen]",
        "unused = f()",
        "show(f)",
    ]
    assert frames.needed(cells, 9) == [0, 1, 2, 4, 5, 6, 7, 9]
    assert frames.needed(cells, 5) == [5]


def test_the_grid_keeps_ends_start_and_every_option():
    controls = lambda_slider().controls | gradient_field().controls
    for budget in (8, 48, 200):
        grid = frames.grid(controls, budget)
        assert grid["arrows"] == ["both tasks", "joint"]
        for name in ("lam", "agreement", "h"):
            every = frames.positions(controls[name])
            assert grid[name] == sorted(grid[name]) and set(grid[name]) <= set(every)
            assert {every[0], every[-1]} <= set(grid[name])
            assert min(abs(v - controls[name].value) for v in grid[name]) < 1e-9
        sizes = [len(v) for v in grid.values()]
        assert np.prod(sizes) <= max(budget, 2 * 3**3)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem[:2])
def test_every_explorer_of_a_notebook_can_be_drawn_from_the_cells_it_needs(notebook):
    nb = nbformat.read(notebook, 4)
    code = [c for c in nb.cells if c.cell_type == "code" and "setup" not in c.metadata.get("tags", [])]
    found = [code.index(nb.cells[k]) for k in frames.explorer_cells(nb)]
    assert found, "a notebook without an Explorer, or one that the site does not see"
    for at in found:
        cells = [code[k].source for k in frames.needed([c.source for c in code], at)]
        (explorer,) = frames.shown_by(cells)
        chosen = {n: v[-1] for n, v in frames.grid(explorer.controls, 1).items()}
        with contextlib.chdir(ROOT / "notebooks"):
            figure, numbers = explorer.draw_with(**chosen)
        assert figure.axes and numbers
        assert not any("check(" in cell for cell in cells)


# -------------------------------------------------------------------------------------------- sliders in a page

SLIDERS = [("00_start_here", "lam", lambda_slider), ("01_meta_rl_and_gradient_conflict", "h", gradient_field),
           ("02_personalized_objective", "agreement", lambda_slider)]  # fmt: skip


LOADED = "const i = arguments[0]; return i.complete && i.naturalWidth ? i.src : null"


@NO_BROWSER
@pytest.mark.parametrize(("notebook", "name", "make"), SLIDERS)
def test_a_slider_moves_by_keyboard_to_the_right_frame(site, site_folder, browser, notebook, name, make):
    browser.set_window_size(1400, 1000)
    look(browser, f"{site}/notebooks/{notebook}.html")
    node = browser.find_element(By.CSS_SELECTOR, ".explorer")
    image, slider = node.find_element(By.TAG_NAME, "img"), node.find_element(By.NAME, name)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", image)
    browser.execute_script("arguments[0].focus()", slider)
    explorer = make()
    grid = frames.grid(explorer.controls, BUDGET)
    start = {n: min(v, key=lambda x: abs(x - explorer.controls[n].value)) if not isinstance(v[0], str) else
             explorer.controls[n].value for n, v in grid.items()}  # fmt: skip
    # one key at a time: of the few frames here, the last but one may be the one that the page starts from
    for key, at in ((Keys.END, -1), (Keys.ARROW_LEFT, -2)):
        before = image.get_attribute("src")
        slider.send_keys(key)
        wait(browser, lambda b, before=before: b.execute_script(LOADED, image) not in (None, before), "another frame")
        with plt.rc_context():
            use_style()  # as the notebook does
            figure, numbers = explorer.draw_with(**start | {name: grid[name][at]})
            drawn = frames.webp(figure)
        redrawn = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB")).astype(int)
        with Image.open(site_folder / image.get_attribute("src").removeprefix(f"{site}/")) as stored:
            shown = np.asarray(stored.convert("RGB")).astype(int)
        assert shown.shape == redrawn.shape and np.abs(shown - redrawn).mean() < 0.1
    said = node.find_element(By.CSS_SELECTOR, ".numbers").text
    assert said == numbers and image.get_attribute("alt") == f"{explorer.alt} {numbers}"
    assert slider.get_attribute("aria-valuetext") == f"{grid[name][-2]:.3g}"
    assert browser.execute_script("return document.activeElement === arguments[0]", slider)
    assert not complaints(browser)
    picture(browser, f"site_slider_{notebook[:2]}")


def start(browser) -> None:
    """Press the theatre's start button, and wait until it plays or says why not."""
    wait(browser, click("//*[@id='theatre']/button"), "the button")
    there = "const e = document.querySelector('.theatre'); return !!e?.theatre || !!e?.querySelector('.said')"
    wait(browser, lambda b: b.execute_script(there), "the theatre", 120)


@NO_BROWSER
def test_pages_fit_a_phone(site, browser, theatre_built):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", dict(width=390, height=844, deviceScaleFactor=2, mobile=True)
    )
    for page in ("index.html", "notebooks/00_start_here.html", *([] if theatre_built else ["docs/theatre.html"])):
        look(browser, f"{site}/{page}")
        if "theatre" in page:
            start(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page
        for place in (".explorer", ".theatre"):
            for node in browser.find_elements(By.CSS_SELECTOR, f"{place} input, {place} button, {place} select"):
                box = node.rect
                assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and (not box["height"] or box["height"] >= 15)
        node = (browser.find_elements(By.CSS_SELECTOR, ".explorer, .theatre") or [None])[0]
        if node:
            browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", node)
        picture(browser, f"site_phone_{page.split('/')[-1].split('.')[0]}")


# ----------------------------------------------------------------------------------------------- the questions


def test_a_question_shows_the_checks_own_words_and_gives_nothing_away():
    found = 0
    for notebook in NOTEBOOKS:
        cells = alive.with_questions(json.loads(notebook.read_text())["cells"])
        forms = {c["id"]: c["source"] for c in cells if c["id"].endswith("-choice")}
        for form in forms.values():
            found += 1
            (name,) = set(re.findall(r'name="([\d.]+)"', form))
            options = exercises()[name].options
            values = re.findall(r'value="(\w+)" data-said="([^"]+)"', form)
            assert [v for v, _ in values] == [str(o) for o in options]
            assert len({len(said) for _, said in values}) == 1  # the right one is no longer and no shorter
            for option in options:
                _, diagnosis = judge(name, option)
                assert not diagnosis or diagnosis not in form
            assert "correct" not in form and "✔" not in form
    asked = [n for n, checker in exercises().items() if hasattr(checker, "options")]
    assert found == len(asked) >= 8


@NO_BROWSER
def test_a_question_is_answered_in_the_page(site, browser):
    look(browser, f"{site}/notebooks/00_start_here.html")
    for option in exercises()["00.1"].options:
        box = browser.find_element(By.CSS_SELECTOR, f"input[name='00.1'][value='{option}']")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", box)
        box.click()
        status, diagnosis = judge("00.1", option)
        said = box.find_element(By.XPATH, "ancestor::form").find_element(By.CSS_SELECTOR, ".said").text
        assert said == ("✔ 00.1: correct." if status == "correct" else f"✘ 00.1: {diagnosis}")
    picture(browser, "site_question")


def test_the_site_for_students_holds_no_solution():
    for notebook in NOTEBOOKS[:5]:
        nb = nbformat.read(notebook, 4)
        solutions = [c.source for c in nb.cells if "solution" in c.metadata.get("tags", [])]
        edition = json.loads(nbformat.writes(student_edition(nb)))
        text = json.dumps(alive.with_questions(edition["cells"]), ensure_ascii=False)
        for solution in solutions:
            assert json.dumps(solution.splitlines()[-1].strip(), ensure_ascii=False)[1:-1] not in text


# ------------------------------------------------------------------------------- the theatre's modules, under Node


@pytest.fixture(scope="module")
def stages(theatre_built, tmp_path_factory):
    """Runs an episode under Node: (family, job) -> positions, observations, rewards; and what the theatre knows."""
    if theatre_built:
        pytest.skip(theatre_built)
    folder = tmp_path_factory.mktemp("theatre")
    for name, data in theatre.files().items():
        (folder / name).write_bytes(data)
    known = json.loads((folder / "theatre.json").read_bytes())["families"]

    def run(name: str, task: int = 0, start: int = 0, **job) -> dict:
        about = known[name]
        job |= {"family": name, "xml": str(folder / about["xml"]), "frameSkip": about["frameSkip"],
                "task": about["tasks"][task]["values"], "start": about["starts"][start]}  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job))
        command = ["node", str(ROOT / "docs/site/theatre/replay.mjs"), str(MODULES), str(folder / "job.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return {k: np.array(v) for k, v in json.loads(done.stdout).items()}

    return run, known


@pytest.mark.parametrize("name", list(theatre.FAMILIES))
def test_rewards_observations_and_ends_are_pythons(stages, name):
    run, _ = stages
    place, rng = family(name), np.random.default_rng(3)
    task = min(1, len(place.train_tasks) - 1)
    actions = rng.uniform(-1, 1, (40, place.action_size)).astype(np.float32)
    env = gymnasium.make(f"pmeta_lib.envs:{place.env_id}", task=place.train_tasks[task])
    seen, rewards = [env.reset(seed=4)[0]], []
    for action in actions:
        observation, reward, ended, *_ = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        if ended:
            break
    env.close()
    page = run(name, task, 4, actions=actions.tolist(), steps=len(actions))
    assert len(page["rewards"]) == len(rewards)  # falls on the same step
    np.testing.assert_allclose(page["observations"], seen, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(page["rewards"], rewards, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------- the theatre in a page

STATE = """
const t = document.querySelector(".theatre").theatre;
return t.sides.map((s) => ({log: s.log, total: s.stage?.total, learner: s.learner, task: s.task, steps: s.stage?.steps,
  drawn: s.picture?.renderer ? "space" : "sticks"}));
"""


@pytest.fixture
def open_theatre(site_folder, theatre_built):
    """Opens a copy of the theatre's page from a folder, and waits until it is there."""
    if theatre_built:
        pytest.skip(theatre_built)

    def opened(browser, folder=site_folder):
        browser.get((folder / "docs" / "theatre.html").as_uri())
        start(browser)
        return browser.find_element(By.CSS_SELECTOR, ".theatre")

    return opened


def choose(node, label: str, value: str, stage: int = 0) -> None:
    place = f".//section[{stage}]" if stage else "."
    menu = node.find_element(By.XPATH, f"{place}//label[span[text()='{label}']]/select")
    Select(menu).select_by_value(value)


def press(browser, node, text: str) -> None:
    button = node.find_element(By.XPATH, f".//button[text()='{text}']")
    browser.execute_script("arguments[0].click()", button)


def advance(browser, steps: int) -> list[dict]:
    browser.execute_script(f"document.querySelector('.theatre').theatre.advance({steps})")
    return browser.execute_script(STATE)


@NO_BROWSER
def test_the_theatre_plays_without_network_what_python_plays(open_theatre, browser, stages):
    _, known = stages
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd(
        "Network.emulateNetworkConditions", dict(offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    )
    node = open_theatre(browser)
    choose(node, "learner", "pmeta", 1)
    choose(node, "learner", "pmeta", 2)
    choose(node, "task", "1", 2)
    wait(browser, lambda b: all(s["learner"] == "pmeta" and s["steps"] == 0 for s in b.execute_script(STATE)), "both")
    wait(browser, lambda b: b.execute_script(STATE)[1]["task"] == 1, "task 2")
    sides = advance(browser, 200)
    cast, name = known["half-cheetah-dir"]["casts"]["pmeta"], "half-cheetah-dir"
    assert [s["steps"] for s in sides] == [200, 200] and sides[0]["drawn"] == "space"
    for side in sides:
        positions = np.array([entry["qpos"] for entry in side["log"]])
        ours = agreement.replay(name, cast, side["task"], 0)
        assert np.abs(positions[:51] - ours.positions[:51]).max() < 1e-6
        # contacts multiply rounding, so that later the two episodes are two: from each of the page's own states, Python
        # takes the same action and earns the same reward
        assert side["total"] == pytest.approx(sum(earned_from(side["log"], name, side["task"], cast)), rel=0.01)
    assert not [a for a in requests(browser) if not a.startswith(("file:", "data:", "blob:"))]
    assert not complaints(browser)
    picture(browser, "theatre_200_steps")


def earned_from(log: list[dict], name: str, task: int, cast: dict) -> list[float]:
    """Python's rewards for one step from every state of the page's log; its actions are the page's."""
    place = family(name)
    with agreement.safe_open(theatre.WEIGHTS / cast["file"], "pt") as stored:
        act = agreement.double_policy(cast["widths"], stored.get_tensor("actor")[task])
    env, rewards = gymnasium.make(f"pmeta_lib.envs:{place.env_id}", task=place.train_tasks[task]), []
    env.reset(seed=0)
    for before, after in itertools.pairwise(log):
        env.unwrapped.set_state(np.array(before["qpos"]), np.array(before["qvel"]))
        action = act(env.unwrapped._get_obs())
        np.testing.assert_allclose(after["action"], action, atol=1e-6)
        rewards.append(env.step(action.astype(np.float32))[1])
    env.close()
    return rewards


@NO_BROWSER
def test_two_stages_a_push_and_the_way_to_the_meta_policy(open_theatre, browser):
    node = open_theatre(browser)
    alone = advance(browser, 60)
    assert [s["learner"] for s in alone] == ["joint", "pmeta"] and alone[1]["total"] > alone[0]["total"] + 50
    press(browser, node, "Start again")
    wait(browser, lambda b: all(s["steps"] == 0 for s in b.execute_script(STATE)), "a new episode")
    advance(browser, 10)
    press(browser, node, "Push backward")
    pushed = advance(browser, 50)
    assert [len(s["log"]) for s in pushed] == [61, 61]
    for before, after in zip(alone, pushed):
        assert before["log"][10]["qpos"] == after["log"][10]["qpos"]  # to the bit, until then
        assert after["log"][15]["qpos"][0] < before["log"][15]["qpos"][0] - 0.05
    slider = node.find_element(By.CSS_SELECTOR, "section:nth-of-type(2) input[type=range]")
    browser.execute_script("arguments[0].focus()", slider)
    slider.send_keys(Keys.HOME)
    assert "t = 0.00" in node.text
    press(browser, node, "Start again")
    wait(browser, lambda b: all(s["steps"] == 0 for s in b.execute_script(STATE)), "a new episode")
    mean = advance(browser, 60)
    assert mean[1]["total"] < alone[1]["total"] - 50  # what the averaging destroys
    choose(node, "learner", "meta", 2)
    wait(browser, lambda b: b.execute_script(STATE)[1]["learner"] == "meta", "the meta-policy")
    wait(browser, lambda b: b.execute_script(STATE)[1]["steps"] == 0, "its episode")
    press(browser, node, "Start again")
    wait(browser, lambda b: all(s["steps"] == 0 for s in b.execute_script(STATE)), "a new episode")
    assert advance(browser, 60)[1]["log"][60]["qpos"] == mean[1]["log"][60]["qpos"]
    press(browser, node, "Start again")
    wait(browser, lambda b: all(s["steps"] == 0 for s in b.execute_script(STATE)), "a new episode")
    press(browser, node, "Run")
    wait(browser, lambda b: b.execute_script(STATE)[0]["steps"] > 5, "the clock")
    press(browser, node, "Pause")
    stopped = browser.execute_script(STATE)[0]["steps"]
    press(browser, node, "Step")
    assert browser.execute_script(STATE)[0]["steps"] == stopped + 1
    assert not complaints(browser)


@NO_BROWSER
def test_every_family_takes_the_stage(open_theatre, browser, stages):
    _, known = stages
    node = open_theatre(browser)
    for name in known:
        choose(node, "family", name)
        wait(browser, lambda b: all(s["steps"] == 0 for s in b.execute_script(STATE)), name)
        sides = advance(browser, 20)
        assert all(np.isfinite(s["total"]) and s["steps"] > 0 for s in sides), name
        picture(browser, f"theatre_{name}")
    assert not complaints(browser)


@pytest.fixture
def copied(site_folder, tmp_path, theatre_built):
    """The theatre's page with files of its own, to be damaged."""
    if theatre_built:
        pytest.skip(theatre_built)
    folder = tmp_path / "copy"
    shutil.copytree(site_folder / "_static", folder / "_static", ignore=shutil.ignore_patterns("frames"))
    (folder / "docs").mkdir()
    shutil.copy(site_folder / "docs" / "theatre.html", folder / "docs")
    return folder


@NO_BROWSER
@pytest.mark.parametrize("harm", ["missing", "damaged", "another"])
def test_bad_weights_are_a_sentence_and_the_other_stage_plays(open_theatre, browser, copied, harm):
    path = copied / "_static" / "theatre" / "half_cheetah_dir_joint_seed0.safetensors.js"
    if harm == "missing":
        path.unlink()
    else:
        before, packed, after = re.fullmatch(r'(.*=")([^"]*)(";\s*)', path.read_text(), re.DOTALL).groups()
        raw = bytearray(gzip.decompress(base64.b64decode(packed)))
        raw[-5] ^= 1  # one bit of one weight
        good = gzip.compress(bytes(raw))
        packed = base64.b64encode(good if harm == "another" else good[:-400]).decode()
        path.write_text(before + packed + after)
    node = open_theatre(browser, copied)
    said = node.find_element(By.CSS_SELECTOR, "section:nth-of-type(1) .said").text
    assert "Stage 1 stays empty" in said and "half_cheetah_dir_joint_seed0.safetensors" in said
    assert ("checksum" in said) == (harm == "another")
    sides = advance(browser, 20)
    assert sides[1]["steps"] == 20 and sides[1]["total"] != 0
    choose(node, "learner", "pmeta", 1)
    wait(browser, lambda b: not b.find_element(By.CSS_SELECTOR, "section:nth-of-type(1) .said").is_displayed(), "pMeta")
    picture(browser, f"theatre_weights_{harm}")


@NO_BROWSER
def test_without_webassembly_the_page_says_so_and_the_rest_works(open_theatre, browser, site_folder):
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": "delete globalThis.WebAssembly"})
    node = open_theatre(browser)
    assert "no WebAssembly" in node.text
    assert "gait" in browser.find_element(By.TAG_NAME, "article").text
    browser.get((site_folder / "notebooks" / "00_start_here.html").as_uri())  # sliders work from a folder, too
    slider = browser.find_element(By.CSS_SELECTOR, ".explorer input[name=lam]")
    image = browser.find_element(By.CSS_SELECTOR, ".explorer img")
    before = image.get_attribute("src")
    browser.execute_script("arguments[0].focus()", slider)
    slider.send_keys(Keys.END)
    assert image.get_attribute("src") != before
    wait(browser, lambda b: b.execute_script("return arguments[0].naturalWidth > 100", image), "the frame")


@NO_BROWSER
@pytest.mark.parametrize("browser", [NO_WEBGL], indirect=True)
def test_without_webgl_the_robot_is_a_stick_figure(open_theatre, browser):
    node = open_theatre(browser)
    sides = advance(browser, 30)
    assert [s["drawn"] for s in sides] == ["sticks", "sticks"] and sides[1]["total"] > 1
    assert "stick figures" in node.find_element(By.CSS_SELECTOR, ".note").text
    inked = """
    const canvas = document.querySelectorAll(".theatre canvas")[1];
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((value, k) => k % 4 === 3 && value > 0).length;
    """
    assert browser.execute_script(inked) > 500
    picture(browser, "theatre_sticks")


@NO_BROWSER
def test_the_same_module_is_a_widget_of_the_notebook(browser, theatre_built, tmp_path):
    if theatre_built:
        pytest.skip(theatre_built)
    widget = theatre.Theatre()
    assert "mujoco.wasm" in widget.files and widget._css
    (tmp_path / "widget.js").write_text(widget._esm)
    data = {name: base64.b64encode(raw).decode() for name, raw in widget.files.items()}
    (tmp_path / "index.html").write_text(
        f"""<!doctype html><meta charset="utf-8"><body><script type="module">
        import widget from "./widget.js";
        const data = {json.dumps(data)}, files = {{}};
        for (const [name, text] of Object.entries(data))
          files[name] = new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
        widget.render({{ model: {{ get: (name) => ({{ files }})[name] }}, el: document.body }});
        </script>"""
    )
    with serve(tmp_path) as address:
        browser.get(f"{address}/index.html")
        there = "return !!document.querySelector('.theatre')?.theatre"
        wait(browser, lambda b: b.execute_script(there), "the widget", 120)
        assert advance(browser, 20)[1]["steps"] == 20


def test_the_widget_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"make theatre.*Node"):
        theatre.Theatre(bundle=tmp_path)
    with pytest.raises(UserError, match="no weights"):
        theatre.files(tmp_path)


@NO_BROWSER
def test_the_theatre_in_the_dark(open_theatre, tmp_path):
    with chromium(tmp_path / "dark", WEBGL) as browser:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        node = open_theatre(browser)
        advance(browser, 40)
        picture(browser, "theatre_dark")
        colours = (
            "return [arguments[0], document.body].map((e, k) => getComputedStyle(e)[k ? 'backgroundColor' : 'color'])"
        )
        text, ground = (sum(map(int, re.findall(r"\d+", c)[:3])) / 765 for c in browser.execute_script(colours, node))
        assert text > 0.6 and ground < 0.2
