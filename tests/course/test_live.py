"""The live training view: the picture grows while it trains, and the stop button is heard."""

import time

import ipywidgets
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pmeta_course.show.live import LiveTraining

from pmeta_lib.envs.families import family
from pmeta_lib.files import UserError
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train

SETTINGS = Settings(steps=400, warm_up=20, hidden=(8, 8), batch_size=8, evaluations=20, evaluation_episodes=1)


def draw(curve, name):
    figure = Figure(figsize=(4, 2))
    means = curve.groupby("step")["return"].mean()
    figure.subplots().plot(means)
    return figure, f"{name}: {len(means)} evaluations"


def view(settings=SETTINGS):
    def begin(callback, lam):
        view.pictures.append(None)
        return train(family("point-robot", train=2), learner("pmeta", lam=lam), settings, [0], callback=callback)

    view.pictures = []
    first = pd.DataFrame({"step": [0, 1], "return": [-2.0, -1.0]})
    controls = {"lam": ipywidgets.FloatText(0.01)}
    return LiveTraining(draw, controls, "Returns over steps.", begin, "lambda {lam}".format, first, "stored")


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_picture_grows_and_a_second_press_does_nothing():
    live = view()
    assert live.numbers == "stored: 2 evaluations" and live.png and live.stop_button.disabled
    live.controls["lam"].value = 0.5
    live.start_button.click()
    assert live.start_button.disabled and not live.stop_button.disabled
    live.start()
    live.thread.join(60)
    assert live.numbers == "lambda 0.5: 21 evaluations" and len(view.pictures) == 1
    assert "21 evaluations" in live.image.value and not live.start_button.disabled


def test_stop_ends_it_after_the_next_evaluation_and_it_can_be_started_again():
    live = view(Settings(**{**SETTINGS.__dict__, "steps": 100_000, "evaluations": 2_000}))
    for _ in range(2):
        live.start_button.click()
        until(lambda: live.numbers.startswith("lambda"))
        live.stop_button.click()
        live.thread.join(60)
        assert not live.thread.is_alive() and live.stop_button.disabled
        assert int(live.numbers.split()[2]) < 1_000
        live.numbers = ""


def test_a_mistake_is_a_line_not_a_silent_thread():
    live = view()
    live.controls["lam"].value = -1.0
    live.start_button.click()
    live.thread.join(60)
    assert live.numbers.startswith("stopped: option lam") and not live.start_button.disabled
    with pytest.raises(UserError):
        learner("pmeta", lam=-1.0)
