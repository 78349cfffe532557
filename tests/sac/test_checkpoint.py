"""A killed run ends as an undisturbed one; damage, a full disk and foreign folders are noticed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pmeta_lib.files import HOST, UserError, sha256
from pmeta_lib.sac import checkpoint

TRAIN = """
import sys, torch
from pathlib import Path
from dataclasses import replace
torch.set_num_threads(1)
from pmeta_lib.envs import family
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train
made = replace(family("half-cheetah-vel", train=2), horizon=30)
settings = dict(steps=240, hidden=(16, 16), batch_size=16, warm_up=30, evaluations=8, evaluation_episodes=1,
                    replay_capacity=100, updates_per_step=0.5) | eval(sys.argv[2])
print("ready", flush=True)
train(made, learner("pmeta", inner_steps=7, tasks_per_round=1), Settings(**settings), [0, 1], folder=Path(sys.argv[1]),
      checkpoint_seconds=0.0 if len(sys.argv) < 4 else 1e9)
"""


def start_training(folder, changes, *more):
    command = [sys.executable, "-c", TRAIN, str(folder), repr(changes), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def content(folder):
    """The newest checkpoint: tensors, and everything of the manifest but the time spent."""
    step = checkpoint.steps(folder)[0]
    body = json.loads((folder / f"step-{step:09d}.json").read_text())["body"]
    return load_file(folder / f"step-{step:09d}.safetensors"), {k: v for k, v in body.items() if k != "seconds"}


@pytest.mark.parametrize("changes", [
    {}, {"steps": 960, "envs_per_task": 16, "updates_per_step": 0.11, "precision": "auto"},
])  # fmt: skip
def test_killed_at_random_moments_and_restarted_ends_bit_identical(tmp_path, changes):
    undisturbed = start_training(tmp_path / "whole", changes, "at its end only")
    assert undisturbed.wait() == 0
    rng, kills, folder = random.Random(), 0, tmp_path / "killed"
    while True:
        process = start_training(folder, changes)
        assert process.stdout.readline() == "ready\n"
        if kills < 4:  # let it get somewhere, then kill it anywhere: mid-update, mid-write, mid-evaluation
            before = checkpoint.steps(folder)[:1]
            while checkpoint.steps(folder)[:1] == before and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        resumed = "going on from the checkpoint of step" in process.stdout.read()
        assert resumed or kills == 0 or code != 0
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 1
    (tensors, record), (want_tensors, want) = content(folder), content(tmp_path / "whole")
    assert record["step"] == changes.get("steps", 240)
    assert record == want  # rows of the curve, losses, counters, checksum of the tensors
    assert tensors.keys() == want_tensors.keys() and all(torch.equal(tensors[k], want_tensors[k]) for k in tensors)
    assert not list(folder.glob(".*")) and len(list(folder.iterdir())) <= 2 * checkpoint.KEEP  # no litter


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 10 and 20."""
    for step in (5, 10, 20):
        checkpoint.save(tmp_path, step, {"x": torch.arange(200.0) + step}, {"identity": "me", "rows": [[0, step, 0.1]]})
    assert checkpoint.steps(tmp_path) == [20, 10]
    return tmp_path


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "altered":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


@pytest.mark.parametrize("which, how", [
    (".safetensors", "truncated"), (".safetensors", "altered"), (".safetensors", "empty"), (".safetensors", "deleted"),
    (".json", "truncated"), (".json", "altered"), (".json", "empty"),
])  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(saved, which, how, capsys):
    damage(saved / f"step-000000020{which}", how)
    tensors, record = checkpoint.load(saved, "me")
    assert record["step"] == 10 and tensors["x"][0] == 10
    assert "step 20" in capsys.readouterr().out
    damage(saved / f"step-000000010{which}", how)
    with pytest.raises(UserError, match=r"no checkpoint in .* is usable"):
        checkpoint.load(saved, "me")


def test_an_altered_number_in_the_manifest_is_noticed(saved, capsys):
    path = saved / "step-000000020.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))
    assert checkpoint.load(saved, "me")[1]["step"] == 10 and "checksum" in capsys.readouterr().out


def test_sound_foreign_and_absent_checkpoints(saved, capsys):
    assert checkpoint.load(saved, "me")[1]["step"] == 20 and not capsys.readouterr().out
    with pytest.raises(UserError, match="another run"):
        checkpoint.load(saved, "you")
    assert checkpoint.load(saved / "nowhere", "me") is None
    for name in ("step-notes.json", "step-30.json", "step-²²²²²²²²².json"):
        (saved / name).write_text("{}")  # not ours: neither read nor counted
    assert checkpoint.steps(saved) == [20, 10]


def test_halves_that_a_kill_left_are_swept_away(saved):
    (saved / "step-000000015.safetensors").write_bytes(b"half a pair")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (saved / f".step-000000015.json.{HOST}.{gone.pid}.1.tmp").write_bytes(b"half a file")
    others = [saved / name for name in ("step-notes.txt", "step-7.csv", "step-000000007.csv")]
    others += [
        saved / f".step-000000015.json.{who}.1.tmp" for who in (f"{HOST}.{os.getpid()}", f"elsewhere.{gone.pid}")
    ]
    for path in others:
        path.write_text("somebody's own")
    folder = saved / "step-000000003.json"
    folder.mkdir()
    checkpoint.save(saved, 30, {"x": torch.zeros(1)}, {"identity": "me"})
    for path in others:
        path.unlink()  # it was left alone
    folder.rmdir()
    kept = [f"step-0000000{step}.{kind}" for step in (20, 30) for kind in ("json", "safetensors")]
    assert sorted(p.name for p in saved.iterdir()) == kept


SAVE = """
import resource, sys
from pathlib import Path
import torch
from pmeta_lib.sac.checkpoint import save_tensors
replay = torch.full((5, 2, 20_000, 42), 0.5)  # 34 MB, of which 30 are stored
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_tensors(Path(sys.argv[1]), {"replay": replay[:, :, :18_000]})
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_a_half_filled_replay_is_stored_without_a_copy_of_it(tmp_path):
    path = tmp_path / "x.safetensors"
    done = subprocess.run([sys.executable, "-c", SAVE, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 2**20
    found = load_file(path)
    assert found["replay"].shape == (5, 2, 18_000, 42) and (found["replay"] == 0.5).all()


def test_the_file_is_what_safetensors_reads_and_equal_tensors_make_equal_files(tmp_path):
    made = torch.Generator().manual_seed(0)
    tensors = {f"{t}": (torch.rand(3, 5, generator=made) * 9).to(t) for t in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint64,
        torch.uint8, torch.bool)}  # fmt: skip
    tensors |= {"none": torch.zeros(0, 4), "number": torch.tensor(3.5), "turned": torch.rand(4, 6, generator=made).T}
    digests = [checkpoint.save_tensors(tmp_path / str(k), dict(order), {"who": "me"}) for k, order in enumerate(
        (tensors.items(), reversed(tensors.items())))]  # fmt: skip
    assert digests == [sha256(tmp_path / "0"), sha256(tmp_path / "1")] and digests[0] == digests[1]
    read = load_file(tmp_path / "0")
    assert read.keys() == tensors.keys()
    for name, x in tensors.items():
        assert read[name].dtype == x.dtype and read[name].shape == x.shape and torch.equal(read[name], x), name
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == {"who": "me"}


def test_a_full_disk_keeps_the_previous_checkpoint_and_says_so(saved):
    """A real refusal to write: the process may not make files above 64 KiB (the kernel's limit, in a child)."""
    code = f"""
import resource, signal, torch
from pathlib import Path
from pmeta_lib.files import UserError
from pmeta_lib.sac import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    checkpoint.save(Path({str(saved)!r}), 30, {{"x": torch.zeros(10**5)}}, {{"identity": "me"}})
except UserError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot write the checkpoint of step 30" in out.stdout and "step 20 is kept" in out.stdout, out.stderr
    assert checkpoint.load(saved, "me")[1]["step"] == 20 and not list(saved.glob(".*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a file system of 1 MiB")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        checkpoint.save(disk, 1, {"x": torch.zeros(10**5)}, {"identity": "me"})
        checkpoint.save(disk, 2, {"x": torch.ones(10**5)}, {"identity": "me"})
        with pytest.raises(UserError, match="step 2 is kept"):
            checkpoint.save(disk, 3, {"x": torch.ones(10**5)}, {"identity": "me"})
        assert checkpoint.load(disk, "me")[1]["step"] == 2
    finally:
        subprocess.run(["umount", disk], check=True)


def test_restored_run_continues_exactly_in_one_process(small, tmp_path):
    """Losses of the last update included, when the next evaluation comes before the next update."""
    how = {"folder": tmp_path, "checkpoint_seconds": 0.0}
    settings = {"updates_per_step": 0.05, "evaluations": 14, "replay_capacity": 60}
    whole = small("pmeta", options={"inner_steps": 3}, **settings)
    small("pmeta", options={"inner_steps": 3}, how=how | {"callback": lambda run: run.step >= 60}, **settings)
    resumed = small("pmeta", options={"inner_steps": 3}, how=how, **settings)
    assert resumed.rows == whole.rows and resumed.metrics == whole.metrics
    assert torch.equal(resumed.agent.actor, whole.agent.actor) and torch.equal(resumed.replay.rows, whole.replay.rows)
    assert resumed.seconds > 0


def test_another_runs_folder_is_refused(small, tmp_path):
    small(how={"folder": tmp_path})
    with pytest.raises(UserError, match="another run"):
        small(how={"folder": tmp_path}, learning_rate=1e-3)
    assert small(how={"folder": tmp_path}).step == 140
