# SPDX-License-Identifier: Apache-2.0
# timeout: 60
"""Does the test machinery notice what it must? A runner that cannot fail proves nothing."""
import pathlib
import shutil
import subprocess
import sys
import tempfile

from harness import ROOT, check, main


def tree(files):
    """a small tree with the real tools/ and these files"""
    top = pathlib.Path(tempfile.mkdtemp(prefix="dorm-harness."))
    shutil.copytree(ROOT / "tools", top / "tools")
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def run_e2e(text):
    top = tree({"tests/e2e/test_x.py": text})
    try:
        return subprocess.run([sys.executable, top / "tools" / "run-tests", "--only", "e2e",
                               "--e2e", top / "build"], capture_output=True, text=True,
                              timeout=50, check=False)
    finally:
        shutil.rmtree(top)


def command_lines():
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass


def expect(text, status, last, somewhere):
    done = run_e2e(text)
    lines = done.stdout.strip().splitlines()
    check(done.returncode == status, f"status {done.returncode}: {done.stdout}{done.stderr}")
    check(lines[-1] == last, f"last line {lines[-1]!r}")
    check(somewhere in done.stdout, f"no {somewhere!r} in {done.stdout}")


def test_counts():
    expect('print("ok a\\nskip b: no wings\\nnoise")', 0, "1 passed, 0 failed, 1 skipped",
           "e2e/x/b: no wings")
    expect('print("ok a\\nnot ok c: broke")', 1, "1 passed, 1 failed, 0 skipped",
           "e2e/x/c: broke")


def test_a_file_without_cases_fails():
    expect("pass", 1, "0 passed, 1 failed, 0 skipped", "no case ran")
    expect("raise SystemExit('oops')", 1, "0 passed, 1 failed, 0 skipped", "oops")
    expect("print('ok a'); raise SystemExit('oops')", 1, "1 passed, 1 failed, 0 skipped", "oops")


def test_whole_file_skip():
    # Nothing passed: a run in which nothing could be tested is no success.
    expect("print('needs a moon'); raise SystemExit(77)", 1, "0 passed, 0 failed, 1 skipped",
           "needs a moon")


def test_hanging_file_is_killed():
    expect("# timeout: 1\nimport time\nprint('ok a', flush=True)\ntime.sleep(100)", 1,
           "1 passed, 1 failed, 0 skipped", "still running after 1 s")


def test_left_process_is_found_and_killed():
    expect("import subprocess\n"
           "subprocess.Popen(['setsid', 'sleep', '98.76'], stdout=subprocess.DEVNULL)\n"
           "print('ok a')", 1, "1 passed, 1 failed, 0 skipped", "sleep 98.76")
    seen = "".join(command_lines())
    check("sleep 98.76" not in seen, "it is still running")


TABLE = """
<!-- layers -->
| folder | knows | may include |
| --- | --- | --- |
| `src/a/` | a | |
| `src/b/` | b | `a/public.h` |
| `src/c/` | c | `a` |
"""


def layers(files):
    top = tree({"docs/architecture.md": TABLE, "src/a/public.h": "", "src/a/private.h": "",
                **files})
    try:
        return subprocess.run([top / "tools" / "check-layers", top], capture_output=True,
                              text=True, timeout=20, check=False)
    finally:
        shutil.rmtree(top)


def test_layers():
    good = layers({"src/b/x.c": '#include "a/public.h"\n', "src/c/x.c": '#include "a/private.h"\n',
                   "src/a/test-x.c": '#include "b/y.h"\n'})
    check(good.returncode == 0, good.stdout + good.stderr)
    for files, message in (
            ({"src/b/x.c": '\n#include "a/private.h"\n'}, 'src/b/x.c:2: src/b/ may not include'),
            ({"src/a/x.c": '#include "c/x.h"\n', "src/c/x.h": ""}, "src/a/ may not include"),
            ({"src/c/x.c": '#include "public.h"\n'}, 'must be written as "folder/file.h"'),
            ({"src/c/x.c": '#include "a/gone.h"\n'}, "does not exist"),
            ({"src/d/x.c": ""}, "src/d/ has no row")):
        bad = layers(files)
        check(bad.returncode == 1 and message in bad.stdout, f"{message}: {bad.stdout}")


main(globals())
