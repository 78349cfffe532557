#!/usr/bin/env bash
# papermill and a parameter that is a tuple.
# Guess, before the run: papermill.execute_notebook(…, parameters={"SHAPE": (5, 6)}) injects a tuple, or refuses it.
# Found (papermill 2.7.0, Python 3.11): the injected cell reads SHAPE = "(5, 6)". The notebook gets a text, without a warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check papermill==2.7.0 ipykernel==6.29.5 nbformat==5.10.4 || { echo "cannot install"; exit 2; }
cd "$folder"
venv/bin/python - <<'PY'
import sys

import nbformat
import papermill

first = nbformat.v4.new_code_cell("SHAPE = (1, 2)", metadata={"tags": ["parameters"]})
show = nbformat.v4.new_code_cell("print(type(SHAPE).__name__, SHAPE)")
kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
nb = nbformat.v4.new_notebook(cells=[first, show], metadata={"kernelspec": kernel})
nbformat.write(nb, "in.ipynb")
done = papermill.execute_notebook("in.ipynb", "out.ipynb", {"SHAPE": (5, 6)}, progress_bar=False)
injected = next(c.source for c in done.cells if "injected-parameters" in c.metadata.tags)
printed = done.cells[-1].outputs[0].text.strip()
print(f"papermill {papermill.__version__} injects {injected.splitlines()[-1]!r}; the notebook prints {printed!r}")
sys.exit(0 if printed == "str (5, 6)" else 1)
PY
