"""Training to watch: a button starts it, the picture grows with each evaluation, another button stops it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from pmeta_course.show.widgets import Explorer
from pmeta_lib.files import UserError
from pmeta_lib.sac.training import Run


@dataclass
class LiveTraining(Explorer):
    """`draw(curve, name)` returns a figure and a line of numbers for a curve (`Run.curve`); `train(callback, **values)`
    trains with the controls' values and hands `callback` to `pmeta_lib.sac.training.train`; `name` is what the values
    are called. `first` and `first_name` are shown until the button is pressed, and where widgets cannot run.

    Training has a thread of its own, so that the stop button is heard; one run at a time.
    """

    train: Callable[..., Run]
    name: Callable[..., str]
    first: pd.DataFrame
    first_name: str

    def __post_init__(self):
        self.start_button = ipywidgets.Button(description="train", tooltip="start a training with these values")
        self.stop_button = ipywidgets.Button(description="stop", tooltip="stop after an evaluation", disabled=True)
        self.start_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self.stopping.set())
        self.stopping, self.thread = threading.Event(), None
        self.arrange(self.start_button, self.stop_button)
        self.show(*self.draw(self.first, self.first_name))

    def start(self) -> None:
        """Begin a training in the background; nothing happens while one is on."""
        if self.thread is not None and self.thread.is_alive():
            return
        values = {name: control.value for name, control in self.controls.items()}
        self.stopping.clear()
        self.start_button.disabled, self.stop_button.disabled = True, False
        self.thread = threading.Thread(target=self._train, args=(values,), daemon=True)
        self.thread.start()

    def _train(self, values: dict) -> None:
        def evaluated(run: Run) -> bool:
            self.show(*self.draw(run.curve, self.name(**values)))
            return self.stopping.is_set()

        try:
            self.train(evaluated, **values)
        except UserError as error:  # a number that is not finite, an impossible value
            self.show(Figure(figsize=(7, 0.6)), f"stopped: {error}")
        finally:
            self.start_button.disabled, self.stop_button.disabled = False, True
