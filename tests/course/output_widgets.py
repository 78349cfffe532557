"""Notebooks full of Output widgets, many in a row: does one of them hang? `python tests/course/output_widgets.py 300`

A cell with `interact` makes an Output widget, which talks back to the kernel while the cell runs; nbclient can then
miss the reply and wait for ever. The test suite runs twenty of these notebooks, this script any number.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

CELL = "@interact(x=(0, 5))\ndef show_{k}(x=SEED):\n    print(x, {k})"


def write(folder: Path, count: int) -> None:
    """`count` notebooks with eight `interact` cells each."""
    head = nbformat.v4.new_code_cell("SEED = 0", metadata={"tags": ["parameters"]})
    cells = ["from ipywidgets import interact", *(CELL.format(k=k) for k in range(8))]
    nb = nbformat.v4.new_notebook(cells=[head, *map(nbformat.v4.new_code_cell, cells)])
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        nbformat.write(nb, folder / f"widgets_{i:03}.ipynb")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base:
        write(Path(base) / "nb", int(sys.argv[1]))
        command = [sys.executable, "-m", "pmeta_lib.cli", "course", "--notebooks", f"{base}/nb", "--out", f"{base}/out"]
        sys.exit(subprocess.run([*command, "--time-limit", "60"], check=False).returncode)
