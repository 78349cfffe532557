"""examples:
pmeta lab                  JupyterLab on the course's notebooks, in the browser
pmeta lab --no-browser --port 8890      on a remote machine, behind an ssh tunnel
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from pmeta_course.regression.command import course_folder
from pmeta_lib.files import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, help="folder to open; default: the course's notebooks")
    parser.add_argument("--port", type=int, help="port to serve on; default: the first free one from 8888")
    parser.add_argument("--no-browser", action="store_true", help="print the address, open no browser")


def main(args: argparse.Namespace) -> int:
    folder = args.folder or course_folder()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    command = [sys.executable, "-m", "jupyterlab", str(folder)]
    command += ["--no-browser"] if args.no_browser else []
    command += [f"--port={args.port}"] if args.port else []
    # a container's only user is often root, whom Jupyter would turn away
    command += ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    # or every start asks PyPI for a newer JupyterLab
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    # The kernels of this very interpreter come first, whatever the user has installed elsewhere.
    return subprocess.call(command, env=os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"})
