/* One episode under Node, to hold against Python's: `node replay.mjs NODE_MODULES JOB.json` prints positions, rewards and
observations. A job names the family, its model, task, frame skip and start, and either a file of weights or actions. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { policy, tensors } from "./policy.js";
import { Stage } from "./robots.js";

const modules = resolve(process.argv[2]);
const job = JSON.parse(readFileSync(process.argv[3], "utf8"));
const entry = createRequire(join(modules, "x.js")).resolve("@mujoco/mujoco");
const { default: loadMujoco } = await import(pathToFileURL(entry));
const mujoco = await loadMujoco();
const stage = new Stage(mujoco, job.family, readFileSync(job.xml, "utf8"), job.task, job.frameSkip);
stage.reset(job.start);
let act = null;
if (job.weights) {
  const { shape: [n, size], values } = tensors(new Uint8Array(readFileSync(job.weights))).tensors[job.tensor];
  act = policy(job.widths, values.subarray((job.row % n) * size, ((job.row % n) + 1) * size));
}
const out = { positions: [Array.from(stage.data.qpos)], observations: [stage.observe()], rewards: [] };
const began = performance.now();
for (let k = 0; k < job.steps && !stage.over; k++) {
  stage.step(act ? act(stage.observe()) : job.actions[k], job.forces?.[k]);
  out.positions.push(Array.from(stage.data.qpos));
  out.observations.push(stage.observe());
  out.rewards.push(stage.reward);
}
out.seconds = (performance.now() - began) / 1000;
console.log(JSON.stringify(out));
