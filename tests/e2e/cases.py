# SPDX-License-Identifier: Apache-2.0
"""Counts and prints the cases of a test. Standard library only."""


class Cases:
    def __init__(self):
        self.passed = self.failed = 0

    def case(self, name, condition, detail=""):
        self.passed, self.failed = self.passed + bool(condition), self.failed + (not condition)
        print(("ok   " if condition else "FAIL ") + name + ("" if condition else f": {detail}"), flush=True)

    def report(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return int(self.failed > 0)
