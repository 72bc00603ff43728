"""A snapshot's life through the command: made, listed, inspected, verified, called, removed."""

import volt_cli
from volt_cli import SMALL, SMALL_PAGES, CliTest

PHASES = ["resolve", "vm", "memory", "slots", "state", "identity", "first_exit"]
QUANTILES = ["p50", "p90", "p99", "max", "first"]
LOADERS = ("map", "uffd", "copy")


def value_of(document):
    return document["reply"]["value"]


class RunTest(CliTest):
    def test_it_boots_calls_and_prints(self):
        document = self.document("run", *SMALL, "put", "5", "99")
        self.assertEqual(document["schema"], "volt.run/v1")
        self.assertEqual(document["reply"]["function"], "put")
        self.assertEqual(list(document["boot_us"]), ["vm", "memory", "state", "run", "total"])
        self.assertEqual(self.ok("run", "--workload", "echo", "echo", "hello", "world"),
                         "hello world\n")
        self.assertIn("calls_served 1", self.ok("run", *SMALL))
        self.assertFalse(self.data.exists(), "run keeps nothing")

    def test_the_seed_decides_the_memory(self):
        def get(*words):
            return value_of(self.document("run", *SMALL, *words, "get", "7"))
        self.assertEqual(get(), get("--seed", "1"))
        self.assertNotEqual(get(), get("--seed", "2"))

    def test_a_micro_guest_runs_no_commands(self):
        self.create("demo")
        error = self.refused(4, "run", "--from", "demo", "--", "date", saying="micro guest")
        self.assertEqual(error["fix"], ["volt call demo health"])

    def test_what_the_guest_logs_is_no_result(self):
        outcome = self.run_volt("run", *SMALL, "ask", "log", "one\x1btwo")
        self.assertEqual(outcome.code, 0)
        self.assertEqual(outcome.err, "guest: one?two\n")
        self.assertNotIn("one", outcome.out)


class CreateTest(CliTest):
    def test_the_default_tag_is_latest_and_each_form_of_reference_finds_it(self):
        made = self.create("demo")
        self.assertEqual(made["snapshot"], "demo:latest")
        value = value_of(self.document("call", "demo", "get", "5"))
        for reference in ("demo:latest", made["digest"], "demo@" + made["digest"],
                          "demo:latest@" + made["digest"]):
            self.assertEqual(value_of(self.document("call", reference, "get", "5")), value)

    def test_a_label_a_call_and_a_parent_are_kept(self):
        first = self.create("first", "--label", "team=blue", "--label", "url=http://x/?a=b",
                            "--after", "put 5 99", "--after", "write 1 2 7")
        seen = self.document("snapshot", "inspect", "first")
        self.assertEqual(seen["digest"], first["digest"])
        self.assertEqual(seen["labels"], {"team": "blue", "url": "http://x/?a=b"})
        self.assertEqual(seen["guest"]["calls"], ["put 5 99", "write 1 2 7"])
        self.assertIsNone(seen["parent"])
        self.assertEqual(value_of(self.document("call", "first", "get", "5")), 99)

        second = self.document("snapshot", "create", "--name", "second:v2", "--from", "first",
                               "--after", "put 6 100", "--label", "k=")
        seen = self.document("snapshot", "inspect", "second:v2")
        self.assertEqual(seen["parent"], first["digest"])
        self.assertEqual(seen["guest"]["calls"], ["put 5 99", "write 1 2 7", "put 6 100"])
        self.assertEqual(seen["labels"], {"k": ""})
        self.assertNotEqual(second["memory_digest"], first["memory_digest"])
        for record, value in (("5", 99), ("6", 100)):
            self.assertEqual(value_of(self.document("call", "second:v2", "get", record)), value)
        self.assertNotEqual(value_of(self.document("call", "first", "get", "6")), 100)
        self.ok("snapshot", "restore", "second:v2", "--verify")

    def test_a_clone_that_has_not_run_captures_to_the_same_memory(self):
        first = self.create("first")
        second = self.document("snapshot", "create", "--name", "second", "--from", "first")
        self.assertEqual(second["memory_digest"], first["memory_digest"])
        self.assertEqual((second["stored_bytes"], second["apparent_bytes"]),
                         (first["stored_bytes"], first["apparent_bytes"]))
        self.assertEqual(second["units"], {"taken_over": first["stored_bytes"] // 65536,
                                           "equal": 0, "changed": 0})

    def test_a_clone_is_captured_in_its_parents_units_unless_told(self):
        self.create("first", "--unit", "8K")
        for words, unit in (((), 8192), (("--unit", "128K"), 131072)):
            self.document("snapshot", "create", "--name", "second", "--from", "first",
                          "--replace", "--after", "put 5 99", *words)
            seen = self.document("snapshot", "inspect", "second")
            self.assertEqual(seen["memory"]["unit_bytes"], unit)
            self.assertEqual(value_of(self.document("call", "second", "get", "5")), 99)
            self.ok("snapshot", "restore", "second", "--verify")

    def test_units_of_any_size_are_shown_and_restored(self):
        digests = set()
        for size, unit in (("4K", 4096), ("65536", 65536), ("2M", 2 << 20)):
            made = self.create("demo", "--unit", size, "--replace")
            memory = self.document("snapshot", "inspect", "demo")["memory"]
            self.assertEqual(memory["unit_bytes"], unit)
            self.assertEqual(made["stored_bytes"] % unit, 0)
            item = self.document("snapshot", "verify", "--deep", "demo")["items"][0]
            self.assertEqual(item["units_checked"], made["stored_bytes"] // unit)
            for loader in LOADERS:
                self.ok("snapshot", "restore", "demo", "--verify", "--loader", loader)
            digests.add(made["memory_digest"])
        self.assertEqual(len(digests), 3)

    def test_a_taken_name_is_kept_unless_replace_is_said(self):
        first = self.create("demo")
        before = self.left_behind()
        error = self.refused(4, "snapshot", "create", "--name", "demo", *SMALL, saying="exists")
        self.assertIn("--replace", error["fix"][0])
        self.assertEqual(self.left_behind(), before)
        second = self.create("demo", "--replace", "--after", "put 5 99")
        self.assertNotEqual(second["digest"], first["digest"])
        self.assertEqual(value_of(self.document("call", "demo", "get", "5")), 99)
        self.assertEqual(len(list((self.data / "snapshots").iterdir())), 1)

    def test_the_text_says_what_to_type_next(self):
        text = self.ok("snapshot", "create", "--name", "demo:v1", *SMALL)
        for line in ("volt snapshot restore demo:v1", "volt call demo:v1 health"):
            self.assertIn(line, text)
            self.ok(*line.split()[1:])


class StoreTest(CliTest):
    def test_ls_shows_each_name_with_both_sizes(self):
        made = self.create("demo:v1")
        long = self.create("n" * 63 + ":" + "t" * 63)
        items = self.document("snapshot", "ls")["items"]
        self.assertEqual([item["name"] for item in items], ["demo:v1", long["snapshot"]])
        self.assertEqual(items[0]["digest"], made["digest"])
        self.assertEqual(items[0]["stored_bytes"], made["stored_bytes"])
        self.assertEqual(items[0]["apparent_bytes"], 16 << 20)
        lines = self.ok("snapshot", "ls").splitlines()
        self.assertEqual(len(lines), 3)
        for line, item in zip(lines[1:], items):
            self.assertEqual(line.index(item["digest"][7:19]), lines[0].index("DIGEST"))

    def test_inspect_shows_a_value_a_line_and_no_control_bytes(self):
        made = self.create("demo", "--label", "evil=a\x1b[31mb\nfake.key  1")
        text = self.ok("snapshot", "inspect", "demo")
        self.assertIn(made["digest"], text)
        for key in ("guest.seed", "memory.unit_bytes", "files.index_entries", "labels.evil",
                    "compatibility.kvm_vendor"):
            self.assertRegex(text, rf"(?m)^{key} +\S")
        self.assertNotIn("\x1b", text)
        self.assertNotRegex(text, r"(?m)^fake")

    def test_remove_takes_names_and_the_last_name_takes_the_files(self):
        self.create("a")
        self.create("b")
        document = self.document("snapshot", "rm", "a", "b")
        self.assertEqual(document["removed"], ["a:latest", "b:latest"])
        self.assertEqual(self.left_behind(), [])
        self.assertEqual(self.document("snapshot", "ls")["items"], [])

    def test_remove_is_all_or_nothing_and_heeds_a_digest(self):
        made = self.create("a")
        self.refused(3, "snapshot", "rm", "a", "missing", saying="missing")
        other = "sha256:" + "0" * 64
        self.refused(4, "snapshot", "rm", f"a@{other}", saying=made["digest"])
        self.assertEqual(self.ok("snapshot", "rm", f"a@{made['digest']}"), "removed a:latest\n")

    def test_verify_tells_of_everything_else_in_the_directory(self):
        made = self.create("demo")
        files = f"snapshots/{made['digest'][7:]}"
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])
        (self.data / "notes.txt").write_text("mine")
        (self.data / files / "extra").write_text("mine")
        (self.data / "snapshots" / ".draft-1-left").mkdir()
        (self.data / "names" / "no name").write_text("mine")
        document = self.document("snapshot", "verify")
        self.assertEqual([item["ok"] for item in document["items"]], [True])
        self.assertEqual(sorted(stray.split(":")[0] for stray in document["strays"]),
                         ["names/no name", "notes.txt", "snapshots/.draft-1-left",
                          f"{files}/extra"])
        self.assertEqual(self.ok("snapshot", "verify").count("stray: "), 4)

    def test_verify_deep_reads_what_is_stored(self):
        made = self.create("demo")
        item = self.document("snapshot", "verify", "--deep", "demo")["items"][0]
        self.assertEqual(item["units_checked"], made["stored_bytes"] // 65536)
        self.assertGreaterEqual(item["bytes_read"], made["stored_bytes"])

    def test_this_host_can_restore_what_it_captured(self):
        self.create("demo")
        document = self.document("snapshot", "compat", "demo")
        self.assertIs(document["compatible"], True)
        self.assertEqual(document["differences"], [])
        self.assertIn("can restore", self.ok("snapshot", "compat", "demo"))


class RestoreTest(CliTest):
    def test_every_loader_restores_the_bytes_that_the_seed_gives(self):
        self.create("demo")
        scans = set()
        for loader in LOADERS:
            document = self.document("snapshot", "restore", "demo", "--count", "3", "--verify",
                                     "--loader", loader)
            self.assertEqual((document["count"], document["verified"]), (3, 3))
            self.assertEqual(document["loader"]["used"], loader)
            self.assertEqual(document["expected_from"], "seed")
            self.assertEqual(list(document["phases_us"]), PHASES)
            self.assertEqual(list(document["total_us"]), QUANTILES)
            called = self.document("call", "demo", "--loader", loader, "scan", "0",
                                   str(SMALL_PAGES))
            self.assertEqual(list(called["phases_us"]), PHASES + ["total"])
            scans.add(called["reply"]["checksum"])
        self.assertEqual(len(scans), 1)

    def test_what_was_compared_with_what_is_told(self):
        self.create("demo")
        self.create("changed", "--after", "put 5 99")
        for words, expected in ((("demo",), "capture"), (("demo", "--verify"), "seed"),
                                (("changed", "--verify"), "capture")):
            document = self.document("snapshot", "restore", *words)
            self.assertEqual(document["expected_from"], expected, words)

    def test_auto_says_why(self):
        self.create("demo")
        document = self.document("snapshot", "restore", "demo")
        self.assertIn(document["loader"]["used"], LOADERS)
        self.assertGreater(len(document["loader"]["why"]), 20)

    def test_clones_share_no_secrets_and_no_changes(self):
        self.create("demo")
        clones = [self.document("call", "demo", "health")["reply"] for _ in range(5)]
        self.assertEqual(len({clone["generation"] for clone in clones}), 5)
        self.assertEqual(len({clone["random"] for clone in clones}), 5)
        before = value_of(self.document("call", "demo", "put", "5", "99"))
        self.assertEqual(value_of(self.document("call", "demo", "get", "5")), before)

    def test_the_table_has_a_row_for_each_phase(self):
        self.create("demo")
        text = self.ok("snapshot", "restore", "demo", "--count", "2")
        self.assertIn("2 of 2 verified", text)
        for phase in PHASES + ["total"]:
            self.assertRegex(text, rf"(?m)^{phase} +\d+\.\d")


class BenchAndDoctorTest(CliTest):
    def test_bench_reports_all_it_promises_and_leaves_nothing(self):
        document = self.document("bench", "restore", "-n", "3", "--touch", "2", *SMALL)
        self.assertEqual(document["schema"], "volt.bench.restore/v1")
        for name in ("floor_us", "restore_us"):
            self.assertEqual(list(document[name]), QUANTILES)
            self.assertGreater(document[name]["p50"], 0)
        self.assertEqual(list(document["phases_us"]), PHASES)
        self.assertGreater(document["ratio_p50"], 0)
        self.assertIs(type(document["verified"]), int)
        self.assertEqual((document["n"], document["verified"]), (3, 3))
        self.assertEqual(document["touched_pages"], 2)
        self.assertLessEqual({"cpu", "cpus", "memory_bytes", "kernel", "volt"},
                             set(document["host"]))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_bench_of_a_given_snapshot_keeps_it(self):
        self.create("demo")
        before = self.left_behind()
        text = self.ok("bench", "restore", "--ref", "demo", "-n", "2", "--verify")
        self.assertIn("2 of 2 verified", text)
        self.assertEqual(self.left_behind(), before)

    def test_bench_refuses_absurd_numbers_and_leaves_nothing(self):
        for options in ("-n 0", "-n 1000001", "-n x", "--touch 100001", "--touch 257",
                        "--memory 1T", "--loader tape"):
            with self.subTest(options=options):
                small = () if "--memory" in options else SMALL
                self.refused(2, "bench", "restore", *small, *options.split())
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_doctor_tells_what_works(self):
        document = self.document("doctor")
        self.assertIs(document["able"], True)
        self.assertIn(document["host_kind"], ("native", "ring3-only"))
        self.assertTrue(document["means"])
        checks = {check["name"]: check for check in document["checks"]}
        self.assertEqual(set(checks), {"kvm", "guest code", "userfaultfd", "open files", "memory",
                                       "data directory"})
        for check in checks.values():
            self.assertEqual(list(check), ["name", "ok", "found", "fix"])
            self.assertTrue(check["found"])
            self.assertTrue(check["ok"] or check["fix"], f"no advice: {check}")
        self.assertIn("host kind: " + document["host_kind"], self.ok("doctor"))

    def test_doctor_sees_a_data_directory_that_cannot_be_written(self):
        self.data.write_text("a file")
        document = self.document("doctor")
        check = next(c for c in document["checks"] if c["name"] == "data directory")
        self.assertIs(check["ok"], False)
        self.assertIn("VOLT_DATA_DIR", check["fix"])


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
