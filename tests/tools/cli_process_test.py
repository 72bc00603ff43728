"""Signals, and processes that meet over one data directory."""

import json
import os
import signal
import subprocess
import threading

import volt_cli
from volt_cli import SMALL, CliTest, Outcome

WATCHED = {"VOLT_PROGRESS": "1"}  # progress lines on stderr tell how far a command is


def finish(process, words, said=""):
    """The outcome of a process some of whose stderr was read already."""
    with process:
        err = said + process.stderr.read()
        out = process.stdout.read()
    return Outcome(words, process.returncode, out, err)


class StoppedCommand:
    """A command that gets a signal once it has said `line` on stderr."""

    def __init__(self, test, line, *words, signals=(signal.SIGINT,)):
        process = test.start(*words, env=WATCHED)
        guard = threading.Timer(volt_cli.PATIENCE, process.kill)
        guard.start()
        try:
            before = ""
            for text in process.stderr:
                before += text
                if line in text:
                    break
            for number in signals:
                process.send_signal(number)
            self.outcome = finish(process, words, before)
        finally:
            guard.cancel()
        test.assertIn(line, before, str(self.outcome))


class InterruptTest(CliTest):
    def assert_stopped(self, outcome, by=signal.SIGINT):
        self.assert_came_to_an_end(outcome)
        self.assertEqual(outcome.code, 128 + by, str(outcome))
        self.assertEqual(outcome.out, "")
        self.assertRegex(outcome.err, r"(?m)^error: ")

    def test_a_stopped_boot_leaves_nothing(self):
        stopped = StoppedCommand(self, "booting", "snapshot", "create", "--name", "demo",
                                 "--memory", "4G", "--working-set", "2G")
        self.assert_stopped(stopped.outcome)
        self.assertFalse(self.data.exists() and self.left_behind())

    def test_a_stopped_call_leaves_nothing(self):
        stopped = StoppedCommand(self, "calling spin", "snapshot", "create", "--name", "demo",
                                 *SMALL, "--after", "spin")
        self.assert_stopped(stopped.outcome)
        self.assertFalse(self.data.exists() and self.left_behind())

    def test_a_stopped_capture_leaves_nothing_or_all(self):
        stopped = StoppedCommand(self, "capturing", "snapshot", "create", "--name", "demo",
                                 "--memory", "512M", "--working-set", "256M")
        document = self.document("snapshot", "verify")
        self.assertEqual(document["strays"], [])
        if stopped.outcome.code == 0:  # the signal came when it was published already
            self.assertEqual(len(document["items"]), 1)
            return
        self.assert_stopped(stopped.outcome)
        self.assertEqual(document["items"], [])
        self.assertEqual(self.left_behind(), [])

    def test_a_replacement_that_is_stopped_keeps_the_old(self):
        made = self.create("demo")
        StoppedCommand(self, "calling spin", "snapshot", "create", "--name", "demo", "--replace",
                       *SMALL, "--after", "spin")
        self.assertEqual(self.document("snapshot", "inspect", "demo")["digest"], made["digest"])
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])

    def test_long_loops_end_when_asked(self):
        self.create("demo")
        for words in (("snapshot", "restore", "demo", "--count", "100000"),
                      ("snapshot", "restore", "demo", "--count", "100000", "--loader", "uffd"),
                      ("bench", "restore", "--ref", "demo", "-n", "100000")):
            with self.subTest(words=words):
                self.assert_stopped(StoppedCommand(self, "50 of 100000", *words).outcome)

    def test_terminate_and_hangup_are_as_good_as_interrupt(self):
        self.create("demo")
        told = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever runs this test ignores
        self.addCleanup(signal.signal, signal.SIGHUP, told)
        for by in (signal.SIGTERM, signal.SIGHUP):
            stopped = StoppedCommand(self, "50 of", "snapshot", "restore", "demo", "--count",
                                     "100000", signals=(by,))
            self.assert_stopped(stopped.outcome, by=by)

    def test_hangup_is_ignored_where_it_was_before(self):
        self.create("demo")
        told = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, told)
        stopped = StoppedCommand(self, "50 of", "snapshot", "restore", "demo", "--count", "500",
                                 signals=(signal.SIGHUP,))
        self.assertEqual(stopped.outcome.code, 0, str(stopped.outcome))

    def test_a_stopped_bench_takes_its_own_snapshot_away(self):
        self.assert_stopped(StoppedCommand(self, "50 of", "bench", "restore", "-n", "100000",
                                           *SMALL).outcome)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_the_error_is_one_json_line_when_stopped_too(self):
        self.create("demo")
        outcome = StoppedCommand(self, "50 of", "snapshot", "restore", "demo", "--count", "100000",
                                 "--json").outcome
        self.assertEqual((outcome.code, outcome.out), (130, ""))
        error = json.loads(outcome.err.splitlines()[-1])
        self.assertEqual((error["code"], error["exit"]), ("interrupted", 130))


class KilledWriterTest(CliTest):
    def test_what_a_killed_writer_leaves_is_found_and_swept(self):
        StoppedCommand(self, "capturing", "snapshot", "create", "--name", "demo", "--memory",
                       "512M", "--working-set", "256M", signals=(signal.SIGKILL,))
        for stray in self.document("snapshot", "verify")["strays"]:
            self.assertTrue(stray.startswith("snapshots/"), stray)
        self.create("next")
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])


class TwoProcessesTest(CliTest):
    """One restores while another removes and makes the same name: whole, or cleanly not there."""

    def test_restore_and_remove_at_once(self):
        self.create("demo")
        done = threading.Event()
        outcomes = []

        def restore_again_and_again():
            while not done.is_set():
                outcomes.append(self.run_volt("snapshot", "restore", "demo", "--count", "3",
                                              "--verify", "--json"))

        reader = threading.Thread(target=restore_again_and_again)
        reader.start()
        try:
            for _ in range(15):
                self.ok("snapshot", "rm", "demo")
                self.create("demo")
        finally:
            done.set()
            reader.join()
        self.assertTrue(outcomes)
        for outcome in outcomes:
            self.assertIn(outcome.code, (0, 3), str(outcome))
            if outcome.code == 0:
                document = json.loads(outcome.out)
                self.assertEqual((document["verified"], document["count"]), (3, 3))
            else:
                self.assertEqual(json.loads(outcome.err)["code"], "not_found")
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])

    def test_of_two_writers_of_one_name_one_is_refused(self):
        writers = [self.start("snapshot", "create", "--name", "demo", *SMALL) for _ in range(4)]
        codes = []
        for writer in writers:
            out, err = writer.communicate(timeout=volt_cli.PATIENCE)
            self.assert_came_to_an_end(Outcome(("snapshot create",), writer.returncode, out, err))
            codes.append(writer.returncode)
        self.assertEqual(sorted(codes), [0, 4, 4, 4])
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])

    def test_writers_of_different_names_do_not_disturb_each_other(self):
        writers = [self.start("snapshot", "create", "--name", f"demo:{i}", *SMALL)
                   for i in range(4)]
        for writer in writers:
            out, err = writer.communicate(timeout=volt_cli.PATIENCE)
            self.assertEqual(writer.returncode, 0, out + err)
        self.assertEqual(len(self.document("snapshot", "verify", "--deep")["items"]), 4)


class RunningCloneTest(CliTest):
    """A clone of `demo` that waits, in the middle of its calls, for somebody to read its log."""

    # More than a pipe and a reader's buffer hold, so it cannot be done before it is read out.
    LOGS = ["--after", "ask log " + "x" * 900] * 150

    def waiting_clone(self):
        self.create("demo", "--replace")
        words = ("snapshot", "create", "--name", "copy", "--from", "demo", *self.LOGS, "--after",
                 f"scan 0 {volt_cli.SMALL_PAGES}")
        process = self.start(*words)
        self.assertTrue(process.stderr.readline().startswith("guest: "))
        return process, words

    def finish_reading(self, process, words):
        guard = threading.Timer(volt_cli.PATIENCE, process.kill)
        guard.start()
        outcome = finish(process, words)
        guard.cancel()
        self.assert_came_to_an_end(outcome)
        return outcome

    def test_it_survives_the_removal_of_its_snapshot(self):
        process, words = self.waiting_clone()
        self.ok("snapshot", "rm", "demo")
        self.assertEqual(self.left_behind(), [])
        outcome = self.finish_reading(process, words)
        self.assertEqual(outcome.code, 0, str(outcome)[-500:])
        document = self.document("snapshot", "restore", "copy", "--verify")
        self.assertEqual(document["verified"], 1)

    def test_exit_10_when_its_memory_file_is_cut_short(self):
        self.create("demo")
        extents = self.document("snapshot", "inspect", "demo")["memory"]["data"]
        end = extents[-1]["file_offset"] + extents[-1]["size_bytes"]
        # The end of the working set; all but the first page, with the guest's own code and tables.
        for cut in (end - (256 << 10), 4096):
            with self.subTest(cut=cut):
                process, words = self.waiting_clone()
                memory = self.files_of("demo") / "memory"
                memory.chmod(0o644)
                os.truncate(memory, cut)
                outcome = self.finish_reading(process, words)
                self.assertEqual(outcome.code, 10, str(outcome)[-500:])
                self.assertRegex(outcome.err, r"(?m)^error: ")
                self.assertFalse((self.data / "names" / "copy:latest").is_symlink())


class ReaderGoesAwayTest(CliTest):
    def test_a_pipe_nobody_reads_ends_the_command(self):
        self.create("demo")
        reader, writer = os.pipe()
        os.close(reader)
        process = subprocess.run([volt_cli.volt, "snapshot", "inspect", "demo"], env=self.env,
                                 stdout=writer, stderr=subprocess.PIPE, check=False,
                                 timeout=volt_cli.PATIENCE)
        os.close(writer)
        self.assertIn(process.returncode, (1, -signal.SIGPIPE))


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
