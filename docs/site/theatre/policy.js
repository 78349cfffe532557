/* Policies from safetensors files: perceptrons with ReLU, whose action is tanh of the mean. */

/* name -> {shape, values (Float32Array)} and the file's own facts; an Error says what is wrong with the bytes. */
export function tensors(bytes) {
  if (bytes.length < 8) throw new Error("the file of weights is cut short");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const head = Number(view.getBigUint64(0, true));
  if (head > bytes.length - 8) throw new Error("the file of weights is cut short");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + head)));
  const found = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (dtype !== "F32") continue; // the file's own facts, or tasks
    const [from, to] = data_offsets;
    if (8 + head + to > bytes.length) throw new Error("the file of weights is cut short");
    found[name] = { shape, values: new Float32Array(bytes.slice(8 + head + from, 8 + head + to).buffer) };
  }
  return { facts: header.__metadata__ ?? {}, tensors: found };
}

const padded = (n) => Math.ceil(n / 16) * 16; // every matrix starts at a multiple of 16 numbers

/* The row of weights `theta + t (own - theta)`. */
export const between = (theta, own, t) => theta.map((x, k) => x + t * (own[k] - x));

/* The mode of the policy with layer sizes `widths` and one row of weights: observation -> action in (-1, 1).
In double precision up to the action, which environments take in single: what rounding does to the action, contacts
multiply from step to step. */
export function policy(widths, row) {
  const layers = [];
  let at = 0;
  for (let k = 0; k + 1 < widths.length; k++) {
    const [inputs, outputs] = [widths[k], widths[k + 1]];
    const weight = row.subarray(at, at + inputs * outputs);
    at += padded(inputs * outputs);
    layers.push({ inputs, outputs, weight, bias: row.subarray(at, at + outputs) });
    at += padded(outputs);
  }
  if (at !== row.length) throw new Error(`a policy of layers ${widths} has ${at} weights, the file ${row.length}`);
  return (observation) => {
    let x = observation;
    layers.forEach(({ inputs, outputs, weight, bias }, k) => {
      const y = Float64Array.from(bias);
      for (let i = 0; i < Math.min(inputs, x.length); i++) { // beyond the observation, inputs are zero
        for (let o = 0; o < outputs; o++) y[o] += x[i] * weight[i * outputs + o];
      }
      x = k + 1 < layers.length ? y.map((v) => Math.max(v, 0)) : y;
    });
    return Float32Array.from(x.subarray(0, x.length / 2), Math.tanh);
  };
}
