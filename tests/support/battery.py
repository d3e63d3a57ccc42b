"""Dieharder's tests of the streams: `python -m tests.support.battery` writes docs/randomness.md.

It takes a quarter of an hour, and the program `dieharder`, which Debian's package of that name has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.stream import STREAMS

TESTS = (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 15, 16, 17, 100, 101, 102, 202, 204, 205, 206, 207, 208, 209)
"""The tests that its authors call reliable, but three that take longer than all others: 200, 203, and 201, which
besides fails their own Mersenne Twister, if it is not told a dimension."""

PAGE = Path(__file__).parents[2] / "docs" / "randomness.md"

HEAD = """\
# Randomness

What [dieharder](https://webhome.phy.duke.edu/~rgb/General/dieharder.php) {version} says of the words of
`anyoptim.random`: {tests} tests of it on each of four streams. "elements" are the words of one draw, "choices" the
halves of words that truth values and masks are made with, "calls" and "keys" the first four words of each call and of
each key, from 0 on. Of p-values that are as they should be one in 100 is below 0.005 or above 0.995 and is called
weak, and two in a million are called failures. Made by `python -m tests.support.battery`.

| stream | p-values | weak | failed | least | greatest |
|---|---|---|---|---|---|
"""


def _values(stream: str, test: int) -> list[tuple[str, float, str]]:
    """The name, p-value and assessment of each result."""
    with subprocess.Popen([sys.executable, "-m", "tests.support.stream", stream], stdout=subprocess.PIPE) as words:
        battery = ["dieharder", "-g", "200", "-d", str(test)]
        found = subprocess.run(battery, stdin=words.stdout, stdout=subprocess.PIPE, text=True, check=True).stdout
        words.kill()
    lines = [[cell.strip() for cell in line.split("|")] for line in found.splitlines()]
    return [(f"{of[0]} {of[1]}", float(of[4]), of[5]) for of in lines if len(of) == 6 and of[4] != "p-value"]


def main() -> None:
    version = subprocess.run(["dieharder", "-h"], capture_output=True, text=True, check=False).stdout.split("version ")[
        1
    ]
    page = HEAD.format(version=version.split()[0], tests=len(TESTS))
    notes = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {(s, test): pool.submit(_values, s, test) for s in STREAMS for test in TESTS}
    for stream in STREAMS:
        found = [result for test in TESTS for result in runs[stream, test].result()]
        ps = [p for _, p, _ in found]
        weak, failed = ([name for name, _, says in found if says == word] for word in ("WEAK", "FAILED"))
        page += f"| {stream} | {len(ps)} | {len(weak)} | {len(failed)} | {min(ps):.6f} | {max(ps):.6f} |\n"
        notes += [f"{stream}: {name}" for name in (*weak, *failed)]
    if notes:
        page += f"\nWeak or failed: {'; '.join(notes)}.\n"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
