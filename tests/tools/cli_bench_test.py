"""What reports say of the pages that were read, served and wasted, and of their times."""

import os
import pathlib
import signal

import volt_cli
from volt_cli import SMALL, SMALL_PAGES, CliTest

SOURCE = ["units_read", "bytes_read", "cold_reads", "units_decoded", "units_verified",
          "units_zero", "units_wasted", "engine"]
UNIT = 65536


class SourceCountersTest(CliTest):
    """What the page source counted adds up, in each report that has it."""

    def assert_adds_up(self, source, faults):
        self.assertEqual(list(source), SOURCE)
        self.assertGreater(source["units_read"], 0)
        self.assertEqual(source["units_read"], source["units_verified"] + source["units_wasted"])
        self.assertEqual(faults["units_filled"],
                         source["units_verified"] + source["units_zero"])
        self.assertEqual(faults["units_failed"], 0)
        self.assertLessEqual(source["units_decoded"], source["units_read"])
        self.assertLessEqual(source["bytes_read"], source["units_read"] * UNIT)
        self.assertEqual(source["engine"] is None, source["cold_reads"] == 0)
        self.assertIn(source["engine"], (None, "io_uring", "threads"))

    def test_a_restore_and_a_call_say_what_was_read(self):
        self.create("raw")
        self.create("packed", "--store", "packed", "--seed", "2")
        for name in ("raw", "packed"):
            off = ("--loader", "uffd", "--hotset", "off")
            report = self.document("snapshot", "restore", name, "--verify", *off)
            self.assert_adds_up(report["last_clone_source"], report["last_clone_faults"])
            call = self.document("call", name, "scan", "0", str(SMALL_PAGES), *off)
            self.assert_adds_up(call["source"], call["faults"])
            self.assertEqual(call["faults"]["prefetched"], 0)
            text = self.ok("snapshot", "restore", name, *off)
            self.assertRegex(text, r"(?m)^pager: \d+ faults, \d+ units served, 0 prefetched; "
                                   r"\d+ read, \d+ decoded, \d+ verified, \d+ zero, \d+ wasted; "
                                   r"\d+ cold reads( through (io_uring|threads))?$")

    def test_what_no_pager_of_this_process_served_has_no_counters(self):
        self.create("demo")
        for loader in ("map", "copy"):
            words = ("--loader", loader, "--hotset", "off")
            report = self.document("snapshot", "restore", "demo", *words)
            self.assertNotIn("last_clone_source", report)
            self.assertNotIn("source", self.document("call", "demo", "health", *words))

    def test_a_bench_says_what_its_last_clone_read(self):
        for store in ("raw", "packed"):
            report = self.document("bench", "restore", "-n", "2", "--touch", "64", "--loader",
                                   "uffd", "--store", store, *SMALL)
            self.assert_adds_up(report["last_clone_source"], report["last_clone_faults"])
        report = self.document("bench", "restore", "-n", "2", "--loader", "map", *SMALL)
        self.assertIsNone(report["last_clone_source"])

    def test_what_was_cold_says_by_which_engine_it_was_read(self):
        report = self.document("bench", "restore", "-n", "2", "--touch", "64", "--loader", "uffd",
                               "--cache", "cold", *SMALL)
        source = report["last_clone_source"]
        self.assert_adds_up(source, report["last_clone_faults"])
        # A file system in memory has nothing cold.
        self.assertLessEqual(source["cold_reads"], source["units_read"])


class FaultTimesTest(CliTest):
    """Each demand fault is timed once; how long it took is no test's business."""

    def assert_times(self, times):
        self.assertEqual(list(times), ["count", "p50", "p90", "p99", "max"])
        self.assertGreater(times["p50"], 0)
        self.assertLessEqual(times["p50"], times["p90"])
        self.assertLessEqual(times["p90"], times["p99"])
        self.assertLessEqual(times["p99"], times["max"])

    def test_a_bench_times_the_faults_of_all_its_clones(self):
        words = ("bench", "restore", "-n", "3", "--touch", "64", *SMALL)
        report = self.document(*words, "--loader", "uffd")
        self.assert_times(report["faults_us"])
        last = report["last_clone_faults"]["faults"]
        self.assertGreaterEqual(report["faults_us"]["count"], 2 * last)
        self.assertRegex(self.ok(*words, "--loader", "uffd"), r"(?m)^a fault +\d+\.\d +\d+\.\d$")
        self.assertIsNone(self.document(*words, "--loader", "map")["faults_us"])

    def test_a_pager_times_faults_only_when_asked(self):
        self.create("demo")
        socket = str(self.folder / "pager.sock")
        for words in ((), ("--times",)):
            pager = self.start("pager", "--socket", socket, *words)
            self.assertIn("ready", pager.stdout.readline())
            self.ok("call", "demo", "health", "--pager", socket)
            stats = self.document("pager", "--socket", socket, "--stats")
            self.assertEqual("faults_us" in stats, bool(words))
            if words:
                self.assert_times(stats["faults_us"])
                self.assertIn("faults us", self.ok("pager", "--socket", socket, "--stats"))
            pager.terminate()
            pager.communicate(timeout=volt_cli.PATIENCE)


class BenchPagerTest(CliTest):
    def test_each_clone_is_served_by_one_pager_in_another_process(self):
        for store in ("raw", "packed"):
            report = self.document("bench", "restore", "-n", "5", "--touch", "64", "--pager",
                                   "--store", store, "--verify", *SMALL)
            self.assertEqual(report["verified"], 5)
            self.assertEqual(report["loader"]["used"], "uffd")
            image = report["pager"]
            self.assertEqual(image["units_filled"],
                             image["units_verified"] + image["units_zero"])
            self.assertEqual(image["units_read"],
                             image["units_verified"] + image["units_wasted"])
            self.assertLessEqual(report["faults_us"]["count"], image["faults"])
            self.assertGreater(report["faults_us"]["count"], 0)
            self.assertIsNone(report["last_clone_source"], "nothing was served here")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_given_snapshot_is_served_too(self):
        self.create("demo")
        before = self.left_behind()
        text = self.ok("bench", "restore", "--ref", "demo", "-n", "2", "--pager")
        self.assertIn("2 of 2 verified", text)
        self.assertRegex(text, r"(?m)^a fault +\d")
        self.assertEqual(self.left_behind(), before)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["data"])

    def test_a_stopped_one_leaves_neither_pager_nor_files(self):
        bench = self.start("bench", "restore", "-n", "100000", "--pager", *SMALL,
                           env={"VOLT_PROGRESS": "1"})
        while "50 of" not in bench.stderr.readline():
            pass
        children = pathlib.Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
        self.assertEqual(len(children), 1)
        bench.send_signal(signal.SIGINT)
        bench.communicate(timeout=volt_cli.PATIENCE)
        self.assertEqual(bench.returncode, 130)
        self.assertFalse(os.path.exists(f"/proc/{children[0]}"))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_what_a_pager_cannot_do_is_refused(self):
        for words, saying in ((("--loader", "map"), "loader uffd"),
                              (("--hotset", "use"), "hot set"), (("--cache", "cold"), "cold")):
            self.refused(2, "bench", "restore", "--pager", *words, *SMALL, saying=saying)
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
