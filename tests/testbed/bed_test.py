"""tools/testbed itself: what goes in and comes out, and what a killed run leaves."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TESTBED = ROOT / "tools" / "testbed"
RUNS = ROOT / "build" / "testbed"


def start(*words):
    return subprocess.Popen([TESTBED, "--cpus", "1", *words], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def run(*words):
    with start(*words) as bed:
        out, err = bed.communicate()
        return bed.returncode, out, err


def qemu_of(run_directory):
    return [entry for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline")
            if run_directory.encode() in read(entry)]


def read(path):
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


class BedTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_files_go_in_and_come_out_and_the_exit_code_is_the_command_s(self):
        (self.folder / "given").write_text("given\n", encoding="ascii")
        code, out, err = run("--in", self.folder / "given", "--out", "tmp/left", "--out",
                             "tmp/none", "--into", self.folder, "--", "sh", "-c",
                             "cat /tmp/given; id -u; echo bad >&2; echo left >/tmp/left; exit 7")
        self.assertEqual((code, out), (7, "given\n0\n"), err)
        self.assertIn("bad\n", err)
        self.assertIn("--out tmp/none: the command left no such file", err)
        self.assertEqual((self.folder / "tmp" / "left").read_text(encoding="ascii"), "left\n")

    def test_a_command_that_takes_too_long_shows_the_console_inside(self):
        code, _, err = run("--timeout", "20", "sh", "-c",
                           "echo was here >/dev/kmsg; echo 7 >/proc/sys/kernel/printk; "
                           "echo is here >/dev/kmsg; sleep 100")
        self.assertEqual(code, 124)
        self.assertIn("stopped after 20 s", err)
        self.assertIn("is here", err)

    def test_a_killed_run_ends_its_machine_and_the_next_one_clears_up(self):
        before = set(RUNS.glob("run-*"))
        with start("sh", "-c", "echo up; sleep 100") as bed:
            self.assertEqual(bed.stdout.readline(), "up\n")
            left = set(RUNS.glob("run-*")) - before
            self.assertEqual(len(left), 1)
            bed.kill()
            bed.communicate()
        name = str(left.pop())
        for _ in range(100):
            if not qemu_of(name):
                break
            time.sleep(0.1)
        self.assertEqual(qemu_of(name), [])
        self.assertTrue(os.path.isdir(name))
        self.assertEqual(run("true")[0], 0)
        self.assertFalse(os.path.exists(name))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(unittest.main(verbosity=2))
