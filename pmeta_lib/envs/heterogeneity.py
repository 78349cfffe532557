"""How different the tasks of a family are, as one number: `NAME@H` is the family NAME at heterogeneity H, 0 to 1.

At 0 all tasks are the same task; at 1 what is right in one is wrong in another. Each function gives what differs from
the family's row in the table (`families.Family`). Tasks of the same number at two values of H come from the same random
draw, so that only H moves them. These families are ours, for the map of when personalization helps."""

import numpy as np


def arc(h: float) -> dict:
    """Goals on the unit circle, up to 180 h degrees to either side of straight up: at 0.5 point-robot's half circle."""

    def sample(n: int, rng: np.random.Generator) -> np.ndarray:
        angle = h * np.pi * rng.uniform(-1.0, 1.0, n)
        return np.stack((np.sin(angle), np.cos(angle)), axis=1)

    return {"sample": sample, "default": (0.0, 1.0)}


def pendulums(h: float) -> dict:
    """Pendulums `(g, m, l, sign of the torque)`: up to h = 0.5 bodies part, to the range of pendulum-params; from there
    on motors are reversed too, a share of h - 0.5 of them."""
    middle, reach = np.array([10.0, 1.0, 1.0]), min(1.0, 2 * h) * np.array([2.0, 0.25, 0.25])

    def sample(n: int, rng: np.random.Generator) -> np.ndarray:
        u = rng.uniform(-1.0, 1.0, (n, 4))
        sign = np.where(u[:, 3:] < 2 * max(0.0, h - 0.5) - 1, -1.0, 1.0)
        return np.hstack((middle + reach * u[:, :3], sign))

    words = "of gravity, mass and length above 0 and a sign of +1 or -1"
    domain = words, lambda t: (t[:, :3] > 0).all(1) & (np.abs(t[:, 3]) == 1)
    return {"sample": sample, "default": (10.0, 1.0, 1.0, 1.0), "domain": domain}


def speeds(h: float) -> dict:
    """Target velocities from 1.5 (1 - h) to 1.5 (1 + h) m/s: at 1 those of half-cheetah-vel."""
    return {"sample": lambda n, rng: 1.5 + 1.5 * h * rng.uniform(-1.0, 1.0, (n, 1)), "default": (1.5,)}


KNOBS = {"point-robot": arc, "pendulum-params": pendulums, "half-cheetah-vel": speeds}
