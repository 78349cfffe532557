/* The theatre: two stages on which stored policies move simulated robots, in the reader's browser.

`mount(element, read)` builds it; `read(name)` promises the gzipped bytes of a file: "theatre.json" (what there is to
choose), gymnasium's models, the weights, "mujoco.wasm". The same function serves the site's page and the notebook. */
import loadMujoco from "@mujoco/mujoco";
import { Scene, Sticks } from "./picture.js";
import { between, policy, tensors } from "./policy.js";
import { Stage } from "./robots.js";

const LIMIT = 8; // steps a screen refresh at most, so that a slow machine slows the robots, not the page
const PUSH = 0.2; // seconds that a push lasts

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* Build an element: tag, properties, children. Names with a hyphen or `role` become attributes. */
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

const labelled = (text, control) => make("label", {}, make("span", { textContent: text }), control);

function menu(options, chosen, changed) {
  const control = make("select", { onchange: () => changed(control.value) });
  for (const [value, text] of options) control.append(make("option", { value, textContent: text }));
  if (options.some(([value]) => value === String(chosen))) control.value = chosen;
  return control;
}

/* One robot with one policy: what is chosen for it, its picture, and its numbers. */
class Side {
  constructor(theatre, number, learner) {
    Object.assign(this, { theatre, number, learner, task: 0, t: 1, log: [] });
    this.canvas = make("canvas", { role: "img", "aria-label": `the robot of stage ${number}` });
    this.choices = make("div", { className: "choices" });
    this.said = make("p", { className: "said", role: "alert", hidden: true });
    this.numbers = make("dl");
    this.node = make("section", { className: "stage", "aria-label": `stage ${number}` },
      this.choices, this.canvas, this.said, this.numbers);
  }

  /* A canvas that was once asked for WebGL gives no other picture: the stick figure gets a fresh one. */
  draw() {
    if (!this.picture) {
      try {
        if (this.theatre.flat) throw new Error("no WebGL");
        this.picture = new Scene(this.canvas);
      } catch {
        const fresh = this.canvas.cloneNode();
        this.canvas.replaceWith(fresh);
        this.canvas = fresh;
        this.picture = new Sticks(fresh);
        this.theatre.note.textContent = "This browser shows no WebGL, so the robots are drawn as stick figures.";
      }
    }
    if (this.cast !== this.stage) {
      this.picture.cast(this.stage);
      this.cast = this.stage;
    }
    this.picture.draw(this.stage, this.colour);
  }

  get colour() {
    const { colour } = this.theatre.about.families[this.theatre.family].casts[this.learner] ?? {};
    return colour ?? "#888888";
  }

  /* Fill the menus for the theatre's family, keeping what is still there to choose. */
  offer() {
    const { casts, tasks } = this.theatre.about.families[this.theatre.family];
    if (!casts[this.learner]) this.learner = Object.keys(casts)[0];
    if (this.task >= tasks.length) this.task = 0;
    this.slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.t });
    this.slider.oninput = () => {
      this.t = Number(this.slider.value);
      this.prepare();
    };
    this.mix = labelled("", this.slider);
    this.choices.replaceChildren(
      labelled("learner", menu(Object.entries(casts).map(([k, c]) => [k, c.label]), this.learner, (value) => {
        this.learner = value;
        this.begin();
      })),
      labelled("task", menu(tasks.map((task, k) => [String(k), task.label]), String(this.task), (value) => {
        this.task = Number(value);
        this.begin();
      })),
      this.mix,
    );
    return this.begin();
  }

  /* A new episode; says in the page what keeps it from starting. */
  async begin() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const { mujoco, about, family, start } = this.theatre;
    const { xml, tasks, starts, frameSkip, casts } = about.families[family];
    this.ready = false;
    try {
      const [model, rows] = await Promise.all([this.theatre.text(xml), this.theatre.weights(casts[this.learner])]);
      if (turn !== this.turn) return; // the reader has chosen something else meanwhile
      if (this.staged !== `${family} ${this.task}`) {
        this.stage?.free();
        this.stage = new Stage(mujoco, family, model, tasks[this.task].values, frameSkip);
        this.staged = `${family} ${this.task}`;
      }
      this.rows = rows;
      this.stage.reset(starts[start]);
      this.log = [];
      this.note([]);
      this.pushes = 0;
      this.prepare();
      this.ready = true;
      this.draw();
      this.say("");
    } catch (error) {
      if (turn === this.turn) this.say(`Stage ${this.number} stays empty: ${error.message}. The rest of the page works.`);
    }
    this.show();
  }

  /* The policy of the present task, or of a point between it and the meta-policy. */
  prepare() {
    const { own, meta, widths } = this.rows;
    const row = own[Math.min(this.task, own.length - 1)];
    this.mix.hidden = !meta;
    this.mix.firstChild.textContent = `between the meta-policy (0) and the personalized one (1): t = ${this.t.toFixed(2)}`;
    this.policy = policy(widths, meta ? between(meta, row, this.t) : row);
  }

  say(text) {
    this.said.textContent = text;
    this.said.hidden = !text;
    this.canvas.hidden = Boolean(text);
  }

  get playing() {
    return this.ready && !this.stage.over && this.stage.steps < this.theatre.about.families[this.theatre.family].horizon;
  }

  step() {
    if (!this.playing) return;
    const force = this.pushes > 0 ? [this.force, 0, 0] : [0, 0, 0];
    this.pushes -= 1;
    const action = this.policy(this.stage.observe());
    this.stage.step(action, force);
    this.note(Array.from(action));
  }

  /* The state, and the action that led to it. */
  note(action) {
    const { data, total } = this.stage;
    this.log.push({ total, action, qpos: Array.from(data.qpos), qvel: Array.from(data.qvel) });
  }

  push(force) {
    this.force = force;
    this.pushes = Math.round(PUSH / this.stage.dt);
  }

  show() {
    if (!this.ready) return this.numbers.replaceChildren();
    const { total, velocity, reward, steps, over } = this.stage;
    const { horizon } = this.theatre.about.families[this.theatre.family];
    const state = over ? "fell" : steps >= horizon ? "the episode is over" : `of ${horizon}`;
    const rows = { "return so far": total.toFixed(1), velocity: `${velocity.toFixed(2)} m/s`,
      "reward of this step": reward.toFixed(2), step: `${steps} ${state}` };
    this.numbers.replaceChildren(...Object.entries(rows).map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  }
}

class Theatre {
  constructor(element, read, { flat = false } = {}) {
    Object.assign(this, { element, read, flat, kept: {}, start: 0, speed: 1, running: false });
  }

  text(name) {
    return this.file(name).then((bytes) => new TextDecoder().decode(bytes));
  }

  file(name) {
    this.kept[name] ??= this.read(name).then(unpacked);
    this.kept[name].catch(() => delete this.kept[name]); // asked for again, it may be there
    return this.kept[name].catch(() => {
      throw new Error(`the file ${name} is missing or damaged`);
    });
  }

  /* The weights of a cast: a row for each task, and the meta-policy's where there is one. */
  async weights({ file, widths, sha256, tensor, mix }) {
    const bytes = await this.file(file);
    if (globalThis.crypto?.subtle) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
      const found = Array.from(digest, (b) => b.toString(16).padStart(2, "0")).join("");
      if (found !== sha256) throw new Error(`the file ${file} is not the one that was stored (its checksum differs)`);
    }
    const found = tensors(bytes).tensors;
    const rows = ({ shape: [n, size], values }) =>
      Array.from({ length: n }, (_, k) => values.subarray(k * size, (k + 1) * size));
    const own = rows(found[tensor]);
    return { widths, own, meta: mix ? rows(found.meta)[0] : null };
  }

  async build() {
    if (typeof WebAssembly === "undefined") throw new Error("this browser has no WebAssembly");
    this.about = JSON.parse(await this.text("theatre.json"));
    const wasm = await this.file("mujoco.wasm");
    this.mujoco = await loadMujoco({ wasmBinary: wasm, locateFile: (name) => name, print() {}, printErr() {} });
    this.note = make("p", { className: "note" });
    this.family = Object.keys(this.about.families)[0];
    this.play = make("button", { type: "button", textContent: "Run", onclick: () => this.run(!this.running) });
    const press = (text, action) => make("button", { type: "button", textContent: text, onclick: action });
    this.power = make("input", { type: "range", min: 0, max: 600, step: 20, value: 200 });
    const strength = make("span", { textContent: "push with 200 N" });
    this.power.oninput = () => (strength.textContent = `push with ${this.power.value} N`);
    this.speeds = menu([["0.25", "a quarter"], ["1", "life"], ["4", "four times"]], "1", (v) => (this.speed = Number(v)));
    this.families = menu(Object.entries(this.about.families).map(([k, f]) => [k, f.label]), this.family, (value) => {
      this.family = value;
      this.offer();
    });
    const starts = Array.from({ length: this.about.families[this.family].starts.length }, (_, k) => [String(k), `seed ${k}`]);
    this.starts = menu(starts, "0", (value) => {
      this.start = Number(value);
      this.again();
    });
    this.sides = [new Side(this, 1, "joint"), new Side(this, 2, "pmeta")];
    this.task = make("p", { className: "task" });
    this.curve = make("div", { className: "curve" });
    this.element.replaceChildren(
      make("div", { className: "choices" }, labelled("family", this.families), labelled("initial state", this.starts),
        labelled("speed", this.speeds)),
      make("div", { className: "buttons" }, this.play, press("Step", () => this.advance(1)),
        press("Start again", () => this.again()), press("Push backward", () => this.push(-1)),
        press("Push forward", () => this.push(1)), make("label", {}, strength, this.power)),
      make("div", { className: "stages" }, ...this.sides.map((side) => side.node)),
      this.curve, this.task, this.note,
    );
    await this.offer();
  }

  offer() {
    const { reward } = this.about.families[this.family];
    this.task.textContent = `Reward of a step: ${reward}.`;
    this.run(false);
    return Promise.all(this.sides.map((side) => side.offer())).then(() => this.show());
  }

  again() {
    return Promise.all(this.sides.map((side) => side.begin())).then(() => this.show());
  }

  push(direction) {
    for (const side of this.sides) if (side.playing) side.push(direction * Number(this.power.value));
  }

  run(on) {
    this.running = on && this.sides.some((side) => side.playing);
    this.play.textContent = this.running ? "Pause" : "Run";
    if (this.running) {
      this.due = 0;
      this.last = performance.now();
      requestAnimationFrame((now) => this.tick(now));
    }
  }

  tick(now) {
    if (!this.running || !this.element.isConnected) return;
    const { dt } = this.sides.find((side) => side.ready).stage;
    this.due = Math.min(this.due + ((now - this.last) / 1000 / dt) * this.speed, LIMIT);
    this.last = now;
    const steps = Math.floor(this.due);
    this.due -= steps;
    if (steps) this.advance(steps);
    if (this.sides.some((side) => side.playing)) requestAnimationFrame((later) => this.tick(later));
    else this.run(false);
  }

  /* `steps` steps of both stages at once, then one picture. */
  advance(steps) {
    for (let k = 0; k < steps; k++) for (const side of this.sides) side.step();
    this.show();
  }

  show() {
    for (const side of this.sides) {
      if (side.ready) side.draw();
      side.show();
    }
    this.plot();
  }

  /* The return so far of both stages over the steps. */
  plot() {
    const lines = this.sides.filter((side) => side.ready).map((side) => ({ side, y: side.log.map((s) => s.total) }));
    const all = lines.flatMap(({ y }) => y);
    const [low, high] = [Math.min(0, ...all), Math.max(1, ...all)];
    const { horizon } = this.about.families[this.family];
    const at = (k, y) => `${(40 + (k / horizon) * 550).toFixed(1)},${(110 - ((y - low) / (high - low)) * 95).toFixed(1)}`;
    const drawn = lines.map(({ side, y }) =>
      `<polyline fill="none" stroke="${side.colour}" stroke-width="2.5" stroke-dasharray="${side.number === 1 ? "" : "7 4"}"
        points="${y.map((v, k) => at(k, v)).join(" ")}"/>`);
    const ends = lines.map(({ side, y }) => `stage ${side.number}: ${y.at(-1).toFixed(1)}`).join(", ");
    this.curve.innerHTML = `<svg viewBox="0 0 600 128" role="img" aria-label="return so far over the steps; ${ends}">
      <g fill="currentColor" font-size="11"><text x="2" y="20">${high.toFixed(0)}</text><text x="2" y="112">${low.toFixed(0)}</text>
      <text x="40" y="126">return so far over ${horizon} steps (stage 1 solid, stage 2 dashed)</text></g>
      <line x1="40" x2="590" y1="${at(0, 0).split(",")[1]}" y2="${at(0, 0).split(",")[1]}" stroke="currentColor" opacity="0.4"/>
      ${drawn.join("")}</svg>`;
  }
}

/* Build the theatre inside `element`; the promise's value is the Theatre, or nothing where it cannot run. */
export async function mount(element, read, options) {
  element.classList.add("theatre");
  element.replaceChildren(make("p", { role: "status", textContent: "Loading the physics …" }));
  const theatre = new Theatre(element, read, options);
  try {
    await theatre.build();
  } catch (error) {
    const text = `The theatre cannot run here: ${error.message}. The rest of the page works without it.`;
    element.replaceChildren(make("p", { role: "alert", className: "said", textContent: text }));
    return undefined;
  }
  element.theatre = theatre; // for whoever wants to drive it from the console, and for the tests
  return theatre;
}
