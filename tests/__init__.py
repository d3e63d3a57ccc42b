"""The tests, in a room for each part of the package, what supports them, and what they compare with.

A new method wants one row, in METHODS in tests/reference/methods.py, whose docstring says what goes with it: without
one, the cases of that method alone fail, and say so. A new library wants one in tests/support/libraries.py, a new stage
or schedule in tests/support/features.py. No test needs another: see tests/project/test_rooms.py. Each time those cases
run in which each two values of a test's factors meet, or each value occurs, where the test says so
(tests/support/covering.py); and with `-m product` the others.
"""
