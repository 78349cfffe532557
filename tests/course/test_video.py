"""Episodes and their pictures: the poses are those of the episode, and a picture comes out with and without GL."""

import runpy
from pathlib import Path

import imageio.v3 as imageio
import matplotlib.pyplot as plt
import numpy as np
import pytest
from pmeta_course.regression import machine
from pmeta_course.show import video

from pmeta_lib.envs.families import family
from pmeta_lib.files import UserError
from pmeta_lib.sac.agent import generator
from pmeta_lib.sac.networks import Shape, initialize

CHEETAH, FLIP = family("half-cheetah-dir"), family("pendulum-flip")


@pytest.fixture(scope="module")
def run_forward():
    shape = Shape((17, 8, 12))
    policy = video.actor_policy(shape, 5 * initialize(shape, 1, generator(1, "networks"))[0])
    return video.record_episode(CHEETAH, CHEETAH.train_tasks[0], policy, seed=3)


def test_an_episode_holds_every_step_and_repeats_with_its_seed(run_forward):
    assert run_forward.rewards.shape == (200,) and run_forward.positions.shape == (201, 9)
    assert np.ptp(run_forward.positions[:, 2]) > 0.05  # it moves

    def lazy(observation):
        return np.zeros(1)

    a, b, other = (video.record_episode(FLIP, FLIP.train_tasks[1], lazy, seed) for seed in (0, 0, 1))
    assert np.array_equal(a.observations, b.observations) and not np.array_equal(a.observations, other.observations)


def test_actions_in_unit_range_become_the_environments_own():
    """The same push in both tasks of the reversed pendulum: the speed changes by opposite amounts."""
    episodes = [video.record_episode(FLIP, task, lambda s: np.ones(1), seed=5) for task in FLIP.train_tasks]
    idle = video.record_episode(FLIP, FLIP.train_tasks[0], lambda s: np.zeros(1), seed=5)
    pushes = [e.observations[1, 2] - idle.observations[1, 2] for e in episodes]
    assert pushes[0] == pytest.approx(3 * 2.0 * 0.05, abs=1e-5) and pushes[1] == pytest.approx(-pushes[0], abs=1e-5)


def test_the_drawn_body_is_the_robots(run_forward):
    lines = video.sticks(run_forward, np.array([0, 150]))
    assert lines.shape[1:] == (8, 2, 2)  # torso, head, and two legs of three parts
    shift = lines[1].mean((0, 1)) - lines[0].mean((0, 1))
    moved = run_forward.positions[150, 0] - run_forward.positions[0, 0]
    assert shift[0] == pytest.approx(moved, abs=0.6)  # the body goes where the root goes
    lengths = np.linalg.norm(lines[:, 0, 1] - lines[:, 0, 0], axis=-1)
    assert lengths == pytest.approx(1.0, abs=0.01)  # the torso is 1 m long in every pose


def test_film_falls_back_to_drawings_where_nothing_renders(run_forward, monkeypatch):
    monkeypatch.setattr(machine, "off_screen", lambda: None)
    figure, how = video.film({"forward": run_forward}, poses=3)
    plt.close(figure)
    assert how == "drawn" and len(figure.axes) == 3
    frames = video.drawn(run_forward, np.array([0, 150]))
    assert frames.shape == (2, 120, 160, 3) and (frames[0] != frames[1]).any() and frames.std() > 1


@pytest.mark.skipif(machine.off_screen() is None, reason="no EGL and no OSMesa here")
def test_rendered_frames_show_the_poses(run_forward):
    frames = video.rendered(run_forward, np.array([0, 150]))
    assert frames.shape == (2, 120, 160, 3) and np.abs(frames[0].astype(int) - frames[1]).mean() > 0.5


def test_a_gif_holds_the_frames():
    frames = np.zeros((3, 20, 30, 3), np.uint8)
    frames[1:, :10], frames[2, 10:] = 255, 128
    make = runpy.run_path(str(Path(__file__).parents[2] / "data" / "videos" / "make.py"))
    back = imageio.imread(make["gif"](frames, 20), extension=".gif", index=None)
    assert back.shape[:3] == (3, 20, 30) and np.abs(back[..., :3].astype(int) - frames).max() < 8


def test_a_family_without_a_picture_says_so():
    point = family("point-robot")
    episode = video.record_episode(point, point.train_tasks[0], lambda s: np.zeros(2), seed=0)
    with pytest.raises(UserError, match="point-robot"):
        video.sticks(episode, np.array([0]))
