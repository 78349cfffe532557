/* The robots of the theatre: gymnasium's v5 observations and the families' rewards, on MuJoCo's WebAssembly build.

Line for line what pmeta_lib/envs/robots.py does with the same arrays, for one robot; a test holds the two together.
Lengths in m, velocities in m/s, forces in N. */

const square = (x) => x.reduce((sum, v) => sum + v * v, 0);
const clip = (x, limit) => Math.min(Math.max(x, -limit), limit);
const within = (x, low, high) => x > low && x < high;
const along = (angle, v) => Math.cos(angle) * v[0] + Math.sin(angle) * v[1];
const run = (task, v, action, s) => v[0] - 1e-3 * square(action) + (s.healthy ? 1 : 0);
const BODY = ["body_mass", "body_inertia", "dof_damping", "geom_friction"]; // what a "params" task multiplies

/* skip: leading coordinates left out of the observation; reward(task, velocity, action, {data, healthy}). */
export const ROBOTS = {
  "half-cheetah-dir": {
    skip: 1,
    reward: (task, v, action) => task[0] * v[0] - 0.05 * square(action),
  },
  "hopper-params": {
    skip: 1, velocityClip: 10, changesBody: true, reward: run,
    healthy: (q, v) => q.slice(2).every((x) => Math.abs(x) < 100) && v.every((x) => Math.abs(x) < 100) &&
      q[1] > 0.7 && Math.abs(q[2]) < 0.2,
  },
  "walker2d-params": {
    skip: 1, velocityClip: 10, changesBody: true, reward: run,
    healthy: (q) => within(q[1], 0.8, 2) && Math.abs(q[2]) < 1,
  },
  "ant-dir": {
    skip: 2, contacts: true, torso: true,
    reward: (task, v, action, { data }) =>
      along(task[0], v) - 0.5 * square(action) - 5e-4 * square(data.cfrc_ext.map((f) => clip(f, 1))) + 1,
    healthy: (q, v) => q.every(Number.isFinite) && v.every(Number.isFinite) && q[2] >= 0.2 && q[2] <= 1,
  },
};

/* One robot in one task. `mujoco` is the loaded module, `xml` gymnasium's model, `frameSkip` its physics steps a step. */
export class Stage {
  constructor(mujoco, family, xml, task, frameSkip) {
    this.mujoco = mujoco;
    this.robot = ROBOTS[family];
    this.task = task;
    this.frameSkip = frameSkip;
    this.model = mujoco.MjModel.from_xml_string(xml);
    this.data = new mujoco.MjData(this.model);
    this.dt = this.model.opt.timestep * frameSkip;
    if (this.robot.changesBody) this.scaleBody(task);
  }

  /* Multiply masses, inertias, damping and friction; MuJoCo then recomputes what it derives from them. */
  scaleBody(multipliers) {
    let at = 0;
    for (const name of BODY) {
      const array = this.model[name];
      for (let k = 0; k < array.length; k++) array[k] *= multipliers[at++];
    }
    if (at !== multipliers.length) throw new Error(`the task has ${multipliers.length} numbers, the body ${at}`);
    this.mujoco.mj_setConst(this.model, this.data);
    this.mujoco.mj_resetData(this.model, this.data);
  }

  reset({ qpos, qvel }) {
    this.mujoco.mj_resetData(this.model, this.data);
    this.data.qpos.set(qpos);
    this.data.qvel.set(qvel);
    this.mujoco.mj_forward(this.model, this.data);
    this.steps = this.total = this.reward = this.velocity = 0;
    this.over = false;
  }

  /* What the reward's velocity is the difference of: x, or x and y of the torso. */
  position() {
    return this.robot.torso ? Array.from(this.data.xpos.slice(3, 5)) : [this.data.qpos[0]];
  }

  observe() {
    const limit = this.robot.velocityClip ?? Infinity;
    const seen = [...this.data.qpos.slice(this.robot.skip), ...this.data.qvel.map((v) => clip(v, limit))];
    if (this.robot.contacts) seen.push(...this.data.cfrc_ext.slice(6).map((f) => clip(f, 1)));
    return seen;
  }

  /* One step of the environment; `force` (N, world axes) acts on the torso while it lasts. */
  step(action, force = [0, 0, 0]) {
    const before = this.position();
    this.data.ctrl.set(action);
    this.data.xfrc_applied.set(force, 6);
    for (let k = 0; k < this.frameSkip; k++) this.mujoco.mj_step(this.model, this.data);
    this.mujoco.mj_rnePostConstraint(this.model, this.data);
    const velocity = this.position().map((x, k) => (x - before[k]) / this.dt);
    const healthy = this.robot.healthy?.(Array.from(this.data.qpos), Array.from(this.data.qvel)) ?? true;
    this.reward = this.robot.reward(this.task, velocity, action, { data: this.data, healthy });
    this.velocity = velocity[0];
    this.total += this.reward;
    this.steps += 1;
    this.over = !healthy;
    return this.reward;
  }

  /* MuJoCo's objects lie outside the reach of the garbage collector. */
  free() {
    this.data.delete();
    this.model.delete();
  }
}
