"""volt pager as a process among others: how it starts, serves, is asked, dies and comes back."""

import json
import os
import re
import signal
import time

import volt_cli
from volt_cli import SMALL_PAGES, CliTest

CLONES = 8
OWN_KIB = 512  # what a clone's process may cost besides what it wrote


def wait_until(true):
    end = time.monotonic() + volt_cli.PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("it did not come true")
        time.sleep(0.01)


def sanitized():
    with open(volt_cli.volt, "rb") as program:
        return b"__asan_init" in program.read()


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
        self.refused(3, "call", "demo", "health", "--pager", self.socket, saying=self.socket)

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
        self.refused(3, "pager", "--socket", self.socket, "--stats", saying=self.socket)
        for words in (("--pager", ""), ("--isolate-image",), ("--pager", "a", "--loader", "map"),
                      ("--pager", "a", "--uffd-handler", "b")):
            self.refused(2, "call", "demo", "health", *words)
            self.refused(2, "snapshot", "restore", "demo", *words)
        self.refused(3, "call", "demo", "health", "--uffd-handler", self.socket)

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
