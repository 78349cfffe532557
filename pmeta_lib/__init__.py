"""pmeta_lib: personalized meta-reinforcement learning, small enough to read."""

__version__ = "0.1.0"
