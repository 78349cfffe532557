#!/usr/bin/env bash
# nbformat and the ids of cells in a notebook of format 4.4, which has none.
# Guess, before the run: upgrading gives each cell an id that follows from the file (its position, its text), so that two
# readings of the same file agree and tools can match cells by id.
# Found (nbformat 5.10.4): the ids are random; two readings of one file share none of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nbformat==5.10.4 || { echo "cannot install"; exit 2; }
cd "$folder"
venv/bin/python - <<'PY'
import json
import sys

import nbformat

cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": "1 + 1"}
with open("old.ipynb", "w") as file:
    json.dump({"cells": [cell] * 20, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}, file)
ids = [[c.id for c in nbformat.v4.upgrade(nbformat.read("old.ipynb", as_version=4)).cells] for _ in range(2)]
shared = len(set(ids[0]) & set(ids[1]))
print(f"nbformat {nbformat.__version__}: of 20 ids, {shared} are the same when the file is read again")
sys.exit(0 if shared == 0 else 1)
PY
