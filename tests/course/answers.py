"""Answers planted for the tests of the checkers: right ones, and wrong ones with words of their diagnosis."""

import answers_deep
import answers_map
import answers_on_policy
import answers_reproduction
import answers_suites
import answers_tabular

PARTS = [answers_tabular, answers_deep, answers_suites, answers_reproduction, answers_map, answers_on_policy]
RIGHT = {name: answer for part in PARTS for name, answer in part.RIGHT.items()}
WRONG = [row for part in PARTS for row in part.WRONG]
