/* The theatre on its page of the website: a button until the reader asks for it, because the physics weigh more than the
page. Its files are scripts that hand over their bytes: a page opened from a folder may read no files, but load scripts. */
import { mount } from "./theatre.js";

const base = new URL(".", document.currentScript.src);
const arrived = (globalThis.pmetaFiles = {});

function read(name) {
  return new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = new URL(`${name}.js`, base);
    script.onerror = () => fail(new Error(`${name} is missing`));
    script.onload = () => {
      script.remove();
      try {
        done(Uint8Array.from(atob(arrived[name]), (c) => c.charCodeAt(0)));
      } catch (error) {
        fail(error);
      }
      delete arrived[name];
    };
    document.head.append(script);
  });
}

const element = document.getElementById("theatre");
if (element) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "start" });
  button.textContent = "Start the theatre (loads 3 MB)";
  button.onclick = async () => {
    const theatre = await mount(element, read, { flat: new URLSearchParams(location.search).has("flat") });
    theatre?.play.focus({ preventScroll: true }); // the button that had the keyboard is gone
  };
  const still = document.querySelector("article img[src*='theatre']"); // looks alive: a click on it starts what it shows
  if (still) button.append(still);
  element.replaceChildren(button);
}
