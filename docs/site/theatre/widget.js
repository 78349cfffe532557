/* The theatre as an anywidget: the notebook's kernel hands over the files. */
import { mount } from "./theatre.js";

async function render({ model, el }) {
  const read = async (name) => {
    const bytes = model.get("files")[name];
    if (!bytes) throw new Error(`${name} is missing`);
    return new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, bytes.byteLength);
  };
  const element = document.createElement("div");
  el.append(element);
  const theatre = await mount(element, read);
  return () => theatre?.sides.forEach((side) => side.picture?.free());
}

export default { render };
