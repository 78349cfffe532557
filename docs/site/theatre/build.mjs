/* Bundles the theatre: `node build.mjs NODE_MODULES OUT` -> page.js (the site), widget.js (notebooks), mujoco.wasm. */
import { copyFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const [modules, out] = process.argv.slice(2).map((path) => resolve(path));
const { build } = createRequire(join(modules, "x.js"))("esbuild");
const here = dirname(fileURLToPath(import.meta.url));
mkdirSync(out, { recursive: true });
const shared = {
  bundle: true, minify: true, target: "es2022", nodePaths: [modules], legalComments: "inline", logLevel: "error",
  define: { "import.meta.url": "''" }, external: ["module", "node:*"],
};
await build({ ...shared, entryPoints: [join(here, "page.js")], outfile: join(out, "page.js"), format: "iife" });
await build({ ...shared, entryPoints: [join(here, "widget.js")], outfile: join(out, "widget.js"), format: "esm" });
copyFileSync(join(modules, "@mujoco", "mujoco", "mujoco.wasm"), join(out, "mujoco.wasm"));
