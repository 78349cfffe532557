#!/usr/bin/env bash
# gymnasium's rainy Taxi across two minor releases.
# Guess, before the run: Taxi-v4 (gymnasium 1.3) is Taxi-v3 (1.2) under a new number; its transition tables are the same.
# Found (gymnasium 1.2.0, 1.3.0, 1.4.0): dry, they are. With is_rainy=True 440 of 3,000 state-action pairs have other
# probabilities, so that optimal values differ. 1.3 and 1.4 agree; FrozenLake-v1 and CliffWalking-v1 agree in all three.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 1.2.0 1.3.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q --disable-pip-version-check gymnasium==$version numpy==2.2.6 || { echo "cannot install"; exit 2; }
    "$folder/$version/bin/python" -W ignore - "$folder/$version.npz" <<'PY'
import sys

import gymnasium
import numpy as np

name = max(n for n in gymnasium.registry if n.startswith("Taxi-v"))
tables = {}
for rainy in (False, True):
    env = gymnasium.make(name, is_rainy=rainy).unwrapped
    P = np.zeros((500, 6, 500))
    for s in range(500):
        for a in range(6):
            for p, target, _, _ in env.P[s][a]:
                P[s, a, target] += p
    tables["rainy" if rainy else "dry"] = P
np.savez(sys.argv[1], **tables)
PY
done
"$folder/1.3.0/bin/python" - "$folder" <<'PY'
import sys

import numpy as np

old, new = (np.load(f"{sys.argv[1]}/{v}.npz") for v in ("1.2.0", "1.3.0"))
other = {name: int((np.abs(old[name] - new[name]).max(-1) > 1e-9).sum()) for name in ("dry", "rainy")}
print(f"Taxi of gymnasium 1.2.0 and 1.3.0: pairs of 3,000 with another transition: {other}")
sys.exit(0 if other == {"dry": 0, "rainy": 440} else 1)
PY
