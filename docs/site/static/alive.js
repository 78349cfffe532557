/* Sliders over frames that were drawn beforehand, and choice questions. No page needs this file to be read. */
"use strict";

for (const node of document.querySelectorAll(".explorer")) {
  const about = JSON.parse(node.querySelector("script").textContent);
  const [form, image, numbers] = ["form", "img", ".numbers"].map((selector) => node.querySelector(selector));
  const folder = image.src.slice(0, image.src.lastIndexOf("/") + 1);
  const at = about.controls.map((control) => control.start);
  const frame = (where) => about.frames[where.reduce((n, k, c) => n * about.controls[c].values.length + k, 0)];

  const show = () => {
    const [name, text] = frame(at);
    image.src = folder + name;
    image.alt = `${about.alt} ${text}`;
    numbers.textContent = text;
    at.forEach((k, c) => { // the neighbours, so that the next step is there at once
      for (const next of [k - 1, k + 1]) {
        if (next >= 0 && next < about.controls[c].values.length) {
          new Image().src = folder + frame(at.map((other, d) => (d === c ? next : other)))[0];
        }
      }
    });
  };

  about.controls.forEach((control, c) => {
    const label = document.createElement("label");
    const name = Object.assign(document.createElement("span"), { textContent: control.label });
    let input;
    if (control.kind === "menu") {
      input = document.createElement("select");
      control.values.forEach((text, k) => input.add(new Option(text, k, false, k === at[c])));
      input.onchange = () => ((at[c] = Number(input.value)), show());
    } else if (control.kind === "box") {
      input = Object.assign(document.createElement("input"), { type: "checkbox", checked: at[c] === 1 });
      input.onchange = () => ((at[c] = Number(input.checked)), show());
    } else {
      const last = control.values.length - 1;
      input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: last, step: 1, value: at[c] });
      const value = document.createElement("output");
      const say = () => {
        value.textContent = control.values[at[c]];
        input.setAttribute("aria-valuetext", control.values[at[c]]);
      };
      input.oninput = () => ((at[c] = Number(input.value)), say(), show());
      name.append(" = ", value);
      say();
    }
    input.name = control.name;
    input.autocomplete = "off"; // a reload starts from the first picture
    label.append(name, input);
    form.append(label);
  });
  form.onsubmit = () => false;
}

function shown(hidden, secret) {
  let state = 2166136261;
  for (const byte of new TextEncoder().encode(secret)) state = Math.imul(state ^ byte, 16777619) >>> 0;
  const bytes = Uint8Array.from(atob(hidden), (c) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return c.charCodeAt(0) ^ (state >>> 24);
  });
  return new TextDecoder().decode(bytes).trimEnd();
}

for (const form of document.querySelectorAll("form.choice")) {
  form.onchange = ({ target }) => {
    const said = form.querySelector(".said");
    said.textContent = shown(target.dataset.said, `${target.name} ${target.value}`);
    said.dataset.right = said.textContent.startsWith("✔");
  };
  form.onsubmit = () => false;
}
