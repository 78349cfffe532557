/* The theatre on its page of the website. Its files are scripts that hand over their bytes, because a page that was
opened from a folder may not read other files, but may load scripts. */
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
if (element) mount(element, read, { flat: new URLSearchParams(location.search).has("flat") });
