"""The film of RL2's trials: its paths are those of a plain loop, its memory is a trial's, its picture shows them."""

import importlib.util
import json
from itertools import pairwise
from pathlib import Path

import imageio.v3 as imageio
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pmeta_lib.cli import main
from pmeta_lib.experiments.spec import RunSpec

DATA = Path(__file__).parents[2] / "data"


def script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def films():
    return script(DATA / "videos" / "make.py")


@pytest.fixture(scope="module")
def random_run():
    """Three episodes a trial, by a network of random weights that are large enough for the robot to go somewhere."""
    spec = RunSpec("point-robot", "rl2", options={"trial_episodes": 3}, settings={"hidden": [8], "steps": 2_000})
    learner, place = spec.make_learner(), spec.make_family()
    return spec, 3 * learner.new_policy(learner.shape(place, (8,)), torch.Generator().manual_seed(5))[0]


def by_hand(policy: torch.Tensor, hidden: int, goal: np.ndarray, episodes: int, forget: bool = False):
    """The trial as its definition has it: PyTorch's cell, a move of at most 0.1, minus the distance as reward."""
    cell, head = torch.nn.GRUCell(6, hidden), torch.nn.Linear(hidden, 3)
    parts = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh, head.weight, head.bias]
    pieces = policy.split([p.numel() for p in parts] + [2])  # the last are log deviations
    for part, piece in zip(parts, pieces):
        part.data = piece.view_as(part)
    h, action, reward, found = torch.zeros(1, hidden), np.zeros(2), 0.0, []
    for _ in range(episodes):
        place, path, rewards = np.zeros(2), [np.zeros(2)], []
        h = torch.zeros_like(h) if forget else h
        for t in range(20):
            x = torch.tensor([[*place, *action, reward, float(t == 0)]], dtype=torch.float32)
            with torch.no_grad():
                h = cell(x, h)
                action = head(h)[0, :2].clamp(-1, 1).double().numpy()
            place = place + 0.1 * action
            reward = -float(np.hypot(*(place - goal)))
            path.append(place)
            rewards.append(reward)
        found.append((np.array(path), np.array(rewards)))
    return found


def test_the_path_is_that_of_a_plain_loop(films, random_run):
    for spec, policy, hidden in ((*random_run, 8), (*films.stored_trial(), 64)):
        episodes = spec.make_learner().trial_episodes
        for goal in films.goals(spec.make_family().test_tasks):
            seen, wanted = films.trial(spec, policy, goal), by_hand(policy, hidden, goal, episodes)
            assert len(seen) == episodes
            for episode, (path, rewards) in zip(seen, wanted, strict=True):
                np.testing.assert_allclose(episode.observations, path, atol=1e-4)
                np.testing.assert_allclose(episode.rewards, rewards, atol=1e-4)
            assert np.ptp(seen[0].observations, axis=0).max() > 0.2  # it moves


def test_the_memory_lives_from_episode_to_episode_and_not_from_trial_to_trial(films, random_run):
    for spec, policy, hidden in ((*random_run, 8), (*films.stored_trial(), 64)):
        left, _, right = films.goals(spec.make_family().test_tasks)
        first = films.trial(spec, policy, left)
        forgotten = by_hand(policy, hidden, left, len(first), forget=True)
        np.testing.assert_allclose(first[0].observations, forgotten[0][0], atol=1e-4)
        for episode, (path, _) in zip(first[1:], forgotten[1:]):
            assert np.abs(episode.observations - path).max() > 0.02
        films.trial(spec, policy, right)
        for a, b in zip(first, films.trial(spec, policy, left), strict=True):
            assert np.array_equal(a.observations, b.observations) and np.array_equal(a.rewards, b.rewards)


def test_the_goals_are_held_out_and_far_apart(films):
    place = films.stored_trial()[0].make_family()
    shown = films.goals(place.test_tasks)
    assert not (shown[:, None] == place.train_tasks).all(-1).any() and (np.diff(shown[:, 0]) > 0.4).all()
    angles = np.degrees(np.arctan2(place.test_tasks[:, 1], place.test_tasks[:, 0]))
    for goal, wanted in zip(shown, films.DEGREES, strict=True):
        assert np.degrees(np.arctan2(goal[1], goal[0])) == angles[np.abs(angles - wanted).argmin()]


def test_a_picture_shows_what_has_happened_and_nothing_more(films, random_run):
    spec, policy = random_run
    trials = [films.trial(spec, policy, goal) for goal in films.goals(spec.make_family().test_tasks)]
    figure = films.seen_from_above(trials, 1, 7)
    for axis, (first, second, _) in zip(figure.axes, trials, strict=True):
        lines = {line.get_label(): line.get_xydata() for line in axis.lines}
        assert np.array_equal(lines["episode 1"], first.observations) and not len(lines["episode 3"])
        assert np.array_equal(lines["episode 2"], second.observations[:8])
        assert np.array_equal(lines["goal, hidden from the robot"], [first.task])
        np.testing.assert_allclose(np.hypot(*lines["possible goals"].T), 1.0)
        assert f"episode 2, step 7: return {sum(second.rewards[:7]):.1f}" == axis.get_title()
        (x0, x1), (y0, y1) = axis.get_xlim(), axis.get_ylim()
        for x, y in np.concatenate([e.observations for e in (first, second)]):
            assert x0 < x < x1 and y0 < y < y1
    plt.close(figure)


def test_the_stored_film_is_small_and_pauses_where_an_episode_ends(films):
    path = DATA / "videos" / "point_robot_rl2.gif"
    with Image.open(path) as film:
        durations = []
        for k in range(film.n_frames):
            film.seek(k)
            durations.append(film.info["duration"])
    episodes = films.stored_trial()[0].make_learner().trial_episodes
    ends = [k for k, ms in enumerate(durations) if ms > 500]
    assert path.stat().st_size < 250_000 and ends == [21 * e + 20 for e in range(episodes)]
    assert 100 <= durations[0] <= 130  # about eight a second
    frames = imageio.imread(path, index=None)
    assert all((a != b).any() for a, b in pairwise(frames))


def test_weights_come_from_the_folder_of_a_run(films, tmp_path, monkeypatch):
    ask = ["train", "point-robot", "--learner", "rl2", "--tasks", "2", "--option", "episodes=1", "--quiet"]
    settings = ["hidden=8", "steps=40", "warm_up=0", "evaluations=1"]
    assert main([*ask, "--out", str(tmp_path / "run"), *(w for x in settings for w in ("--set", x))]) == 0
    keep = script(DATA / "results" / "deep" / "regenerate.py")
    monkeypatch.setattr(keep, "HERE", tmp_path)
    monkeypatch.setattr(films, "CHECKPOINTS", tmp_path)
    keep.keep_weights(tmp_path / "run")
    spec, policy = films.stored_trial()
    assert torch.equal(policy, load_file(tmp_path / "run" / "checkpoint.safetensors")["policy"][0])
    assert spec.to_json() == json.loads((tmp_path / "run" / "spec.json").read_text()) and spec.train_tasks == 2
    about = json.loads((tmp_path / "point_robot_rl2_seed0.json").read_text())
    assert about["run"] == spec.key and {"commit", "versions", "seconds", "checkpoint_sha256"} <= about.keys()
