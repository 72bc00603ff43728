"""volt pager as a process among others: how it starts, serves, is asked, dies and comes back."""

import json
import os
import pathlib
import re
import signal
import time
import unittest

import volt_cli
from volt_cli import SMALL_PAGES, CliTest

CLONES = 8
# 16,384 units to bring in, one fault each, so that a pager is caught in the midst of it.
SLOW = ("--memory", "128M", "--working-set", "64M", "--unit", "4K")
OWN_KIB = 512  # what a clone's process may cost besides what it wrote


def wait_until(true):
    end = time.monotonic() + volt_cli.PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("it did not come true")
        time.sleep(0.01)


def is_stopped(pid):
    """With all its threads."""
    for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        if stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "T":
            return False
    return True


def faults_waiting(pid):
    """How many threads of a process sleep in a fault that a userfaultfd of its has."""
    waiting = 0
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if "userfaultfd" not in os.readlink(f"/proc/{pid}/fd/{fd}"):
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
                waiting += int(re.search(r"^total:\s+(\d+)$", file.read(), re.M).group(1))
    except OSError:  # it has just ended
        pass
    return waiting


def sanitized():
    with open(volt_cli.volt, "rb") as program:
        content = program.read()
        return b"__asan_init" in content or b"__tsan_init" in content


class PagerTest(CliTest):
    def setUp(self):
        super().setUp()
        self.socket = str(self.folder / "pager.sock")

    def start_pager(self, *words):
        pager = self.start("pager", "--socket", self.socket, "--json", *words)
        self.addCleanup(self.end, pager)
        line = pager.stdout.readline()
        if not line:
            self.fail(pager.stderr.read())
        ready = json.loads(line)
        self.assertEqual(ready["schema"], "volt.pager/v1")
        self.assertEqual(ready["socket"], self.socket)
        self.assertEqual(ready["pid"], pager.pid)
        return pager

    def end(self, process):
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()

    def nowhere(self):
        return {"VOLT_DATA_DIR": str(self.folder / "nowhere")}

    def stats(self):
        return self.document("pager", "--socket", self.socket, "--stats")["images"]

    def test_clones_need_no_store(self):
        self.create("demo", "--store", "packed")
        self.start_pager()
        expected = self.document("call", "demo", "get", "5")["reply"]
        for more in ((), ("--isolate-image",), ("--loader", "uffd")):
            call = self.document("call", "demo", "get", "5", "--pager", self.socket, *more,
                                 env=self.nowhere())
            self.assertEqual(call["reply"], expected)
            self.assertEqual(call["loader"]["used"], "uffd")
            self.assertIn(self.socket, call["loader"]["why"])
        report = self.document("snapshot", "restore", "demo", "--count", "5", "--verify",
                               "--pager", self.socket, env=self.nowhere())
        self.assertEqual(report["verified"], 5)
        homeless = {"HOME": None, "VOLT_DATA_DIR": None, "XDG_DATA_HOME": None}
        self.refused(2, "call", "demo", "get", "5", env=homeless, saying="no data directory")
        call = self.document("call", "demo", "get", "5", "--pager", self.socket, env=homeless)
        self.assertEqual(call["reply"], expected)
        self.ok("snapshot", "restore", "demo", "--pager", self.socket, env=homeless)
        image, = self.stats()
        self.assertEqual(image["units_filled"], image["units_verified"] + image["units_zero"])
        self.assertFalse((self.folder / "nowhere").exists())

    def test_terminate_ends_it_cleanly(self):
        self.create("demo")
        pager = self.start_pager()
        self.assertEqual(os.stat(self.socket).st_mode & 0o777, 0o600)
        self.refused(4, "pager", "--socket", self.socket, saying=self.socket)
        pager.send_signal(signal.SIGTERM)
        self.assertEqual(pager.wait(volt_cli.PATIENCE), 0)
        self.assertEqual([p.name for p in self.folder.glob("pager*")], [])
        error = self.refused(3, "call", "demo", "health", "--pager", self.socket,
                             saying=self.socket)
        self.assertEqual(error["fix"], [f"volt pager --socket {self.socket}"])

    def test_a_dead_pagers_socket_is_taken_over(self):
        self.create("demo")
        pager = self.start_pager()
        pager.kill()
        pager.wait()
        self.assertTrue(os.path.exists(self.socket))
        self.start_pager()
        self.ok("call", "demo", "health", "--pager", self.socket)

    def test_usage(self):
        self.create("demo")
        self.refused(2, "pager", saying="--socket")
        self.refused(2, "pager", "--socket", "x" * 200, saying="107 bytes")
        self.refused(2, "pager", "--socket", self.socket, "--threads", "0", saying="--threads")
        self.refused(2, "pager", "--socket", self.socket, "--deadline", "1d", saying="--deadline")
        self.refused(3, "pager", "--socket", self.socket, "--snapshot", "none", saying="none")
        error = self.refused(3, "pager", "--socket", self.socket, "--stats", saying=self.socket)
        self.assertEqual(error["fix"], [f"volt pager --socket {self.socket}"])
        for words in (("--pager", ""), ("--isolate-image",), ("--pager", "a", "--loader", "map"),
                      ("--pager", "a", "--uffd-handler", "b")):
            self.refused(2, "call", "demo", "health", *words)
            self.refused(2, "snapshot", "restore", "demo", *words)
        error = self.refused(3, "call", "demo", "health", "--uffd-handler", self.socket)
        self.assertEqual(error["fix"],
                         [f"volt pager --snapshot demo --socket {self.socket}"])

    def test_a_pager_that_has_no_such_snapshot_is_no_missing_pager(self):
        self.create("demo")
        self.start_pager()
        error = self.refused(3, "call", "other", "health", "--pager", self.socket, saying="other")
        self.assertEqual(error["fix"], ["volt snapshot ls"])

    def test_a_difference_is_verified_where_the_store_is(self):
        self.create("demo")
        self.ok("snapshot", "create", "--name", "child", "--from", "demo", "--mode", "diff",
                "--after", "write 3 2 7")
        self.start_pager()
        self.ok("snapshot", "restore", "child", "--verify")
        self.ok("snapshot", "restore", "child", "--pager", self.socket)
        self.refused(2, "snapshot", "restore", "child", "--verify", "--pager", self.socket,
                     saying="never summed")

    def test_our_vm_by_firecrackers_protocol(self):
        self.create("demo")
        self.start_pager("--snapshot", "demo")
        direct = self.document("call", "demo", "scan", "0", str(SMALL_PAGES))["reply"]
        call = self.document("call", "demo", "scan", "0", str(SMALL_PAGES),
                             "--uffd-handler", self.socket)
        self.assertEqual(call["reply"], direct)
        self.assertIn("handler", call["loader"]["why"])

    def test_a_guest_that_needs_no_page_outlives_its_pager(self):
        self.create("demo")
        pager = self.start_pager()
        spin = self.start("call", "demo", "spin", "--pager", self.socket, "--timeout", "100")
        wait_until(lambda: any(image["clones"] for image in self.stats()))
        pager.kill()
        pager.wait()
        self.assertIsNone(spin.poll(), "a guest that needs no page goes on")
        spin.send_signal(signal.SIGTERM)
        self.assertEqual(spin.wait(volt_cli.PATIENCE), 143)
        self.end(spin)

    def starve(self, *words):
        """A VM that sleeps in a fault, and its pager, which is stopped."""
        for _ in range(50):
            pager = self.start_pager()
            vm = self.start(*words, "--pager", self.socket, "--timeout", "100")
            self.addCleanup(self.end, vm)
            wait_until(lambda: vm.poll() is not None or
                       any(image["clones"] for image in self.stats()))
            pager.send_signal(signal.SIGSTOP)
            wait_until(lambda: is_stopped(pager.pid))
            wait_until(lambda: vm.poll() is not None or faults_waiting(vm.pid) > 0)
            if vm.poll() is None:
                return vm, pager
            self.assertEqual(vm.returncode, 0)  # it had all its pages before
            pager.kill()
            pager.wait()
        self.fail("the VM never needed a page of a pager that was stopped")

    def assert_it_names_its_pager(self, vm, pager, saying):
        out, err = vm.communicate(timeout=volt_cli.PATIENCE)
        self.assertEqual(vm.returncode, 10, err)
        self.assertEqual(out, "")
        self.assertRegex(err, r"\Aerror: [^\n]+\n  try: [^\n]+\n\Z")
        self.assertIn(f"the pager at {self.socket} (process {pager.pid}) {saying}", err)
        self.assertIn(f"try: volt pager --stats --socket {self.socket}\n", err)

    def test_a_vm_that_needs_pages_of_a_killed_pager_says_whose(self):
        self.document("snapshot", "create", "--name", "demo", *SLOW)
        for words in (("call", "demo", "scan", "0", "16384"),
                      ("snapshot", "restore", "demo", "--verify")):
            with self.subTest(words=words):
                vm, pager = self.starve(*words)
                pager.kill()
                self.assert_it_names_its_pager(vm, pager, "is gone")

    @unittest.skipUnless(os.environ.get("VOLT_LONG") == "1", "its patience takes 20 s")
    def test_a_vm_that_needs_pages_of_a_stopped_pager_gives_it_up(self):
        self.document("snapshot", "create", "--name", "demo", *SLOW)
        vm, pager = self.starve("call", "demo", "scan", "0", "16384")
        self.assert_it_names_its_pager(vm, pager, "has said nothing for 20000 ms")

    def private_kib(self, pid):
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            rollup = file.read()
        return sum(int(kib) for kib in re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.M))

    def test_clones_in_processes_of_their_own_share_what_is_clean(self):
        """Units come in once, and a process costs little besides what its guest writes."""
        self.create("demo", "--store", "packed")
        self.start_pager()
        self.ok("call", "demo", "scan", "0", str(SMALL_PAGES), "--pager", self.socket)
        before = self.stats()
        clones = [self.start("call", "demo", "spin", "--pager", self.socket, "--timeout", "100")
                  for _ in range(CLONES)]
        for clone in clones:
            self.addCleanup(self.end, clone)
        wait_until(lambda: self.stats()[0]["clones"] == CLONES)
        for clone in clones:
            # A sanitizer's own memory is tens of MiB; the bar is for what users run.
            if not sanitized():
                self.assertLessEqual(self.private_kib(clone.pid), OWN_KIB)
        self.assertEqual(self.stats()[0]["units_filled"], before[0]["units_filled"])


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
