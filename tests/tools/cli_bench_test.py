"""What reports say of the pages that were read, served and wasted, and of their times."""

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


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
