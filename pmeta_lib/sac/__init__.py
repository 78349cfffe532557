"""Stacked soft actor-critic and the learners on it."""
