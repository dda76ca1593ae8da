# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""Every byte of a guest's memory, before its sleep and after its wake: see page-exact.c."""
import pathlib
import re
import shutil
import subprocess
import tempfile

from harness import BUILD, CACHE, check, main, program

OUTCOMES = {}


def run_program():
    """all cases in one go, since a template is built for them; its lines are printed as they come"""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="dorm-e2e."))
    try:
        with subprocess.Popen([program("page-exact"), directory / "store", directory / "run", CACHE,
                               BUILD / "bin"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                match = re.match(r"(pass|FAIL) ([\w-]+)(?:: (.*))?", line)
                if match:
                    OUTCOMES[match[2]] = "" if match[1] == "pass" else match[3]
        OUTCOMES["exit"] = process.returncode
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def outcome(case):
    if not OUTCOMES:
        run_program()
    check(not OUTCOMES.get("set-up"), f"no guest: {OUTCOMES.get('set-up')}")
    check(case in OUTCOMES, f"never came to it; page-exact ended with status {OUTCOMES['exit']}")
    check(not OUTCOMES[case], OUTCOMES[case])


def test_comparator_finds_one_byte():
    outcome("comparator")


def test_ten_generations():
    outcome("generations")


def test_four_forks_apart():
    outcome("forks-apart")


def test_four_forks_together():
    outcome("forks-together")


def test_four_forks_on_one_base():
    outcome("forks-overlay")


def test_nothing_is_left():
    outcome("tear-down")
    check(OUTCOMES["exit"] == 0 or any(OUTCOMES[c] for c in OUTCOMES if c != "exit"),
          f"page-exact ended with status {OUTCOMES['exit']}")


main(globals())
