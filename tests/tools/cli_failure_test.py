"""Each documented exit code, reached by the situation it is for, and what is said then."""

import os
import pathlib
import resource
import shutil
import unittest

import volt_cli
from cli_kernel_test import vmlinux
from volt_cli import SMALL, SMALL_PAGES, CliTest

UNIT = 65536
WITH_REFERENCE = ("call REF health", "snapshot restore REF", "snapshot inspect REF",
                  "snapshot compat REF", "snapshot verify REF", "snapshot rm REF",
                  "snapshot create --name new --from REF", "bench restore --ref REF")


class NotThereTest(CliTest):
    def test_exit_3_for_a_name_that_is_not_there(self):
        self.create("demo")
        for command in WITH_REFERENCE:
            with self.subTest(command=command):
                words = command.replace("REF", "missing").split()
                error = self.refused(3, *words, saying="'missing:latest'")
                self.assertIn("demo:latest", error["message"], "says what there is instead")
                self.assertEqual(error["fix"], ["volt snapshot ls"])
        self.refused(3, "call", "sha256:" + "0" * 64, "health")
        error = self.refused(3, "snapshot", "load", str(self.folder / "no.vsnap"), "--name", "a")
        self.assertEqual(error["fix"], ["volt snapshot load --help"])
        self.refused(3, "call", "demo:other", "health")

    def test_exit_1_where_the_data_directory_cannot_be(self):
        self.data.write_text("a file")
        self.refused(1, "snapshot", "create", "--name", "a", *SMALL, saying=str(self.data))


class RoomTest(CliTest):
    """Exit 1 where there is no room: what helps is said, and no draft stays."""

    SMALL_DISK = 'mount -t tmpfs -o size=512k small "$0" && exec "$@"'

    def test_a_full_disk(self):
        if os.geteuid() != 0:
            self.skipTest("only root can mount a small disk")
        self.data.mkdir(parents=True)
        on_it = {"program": "unshare", "env": {"TMPDIR": str(self.data)}}
        words = ("-m", "sh", "-c", self.SMALL_DISK, str(self.data), volt_cli.volt)
        for command, helps in ((("snapshot", "create", "--name", "a", *SMALL),
                                "volt snapshot prune, or VOLT_DATA_DIR on a disk with more room"),
                               (("bench", "restore", "-n", "1"),
                                "TMPDIR on a disk with more room")):
            with self.subTest(command=command):
                error = self.refused_as_json(1, *words, *command, **on_it)
                self.assertIn("No space left", error["message"])
                self.assertEqual(error["fix"], [helps])

    def test_a_limit_on_the_size_of_files(self):
        limit = (1 << 19, 1 << 19)
        error = self.refused(1, "snapshot", "create", "--name", "a", *SMALL,
                             saying="File too large", preexec_fn=lambda:
                             resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        self.assertEqual(error["fix"], ["a larger limit on the size of files (ulimit -f)"])
        self.assertEqual(self.left_behind(), [])


class SlowHostTest(CliTest):
    def test_a_boot_that_takes_too_long_is_blamed_on_a_host_that_emulates_kernels(self):
        emulates = self.document("doctor")["host_kind"] == "ring3-only"
        kernel = self.folder / "vmlinux"
        kernel.write_bytes(vmlinux(code=b"\xeb\xfe"))  # runs on the spot
        error = self.refused(124, "run", "--kernel", str(kernel), "--timeout", "1", "--", "true",
                             saying="CPU 0: rip 0x1000000 ")
        self.assertEqual("KVM here emulates" in error["message"], emulates)
        self.assertEqual(error["fix"], ["volt doctor" if emulates else
                                        "the same command with a larger --timeout"])


class HostTest(CliTest):
    """Without the right to use /dev/kvm, which only root can give up for a test."""

    def without_kvm(self):
        if os.geteuid() != 0:
            self.skipTest("only root can give up /dev/kvm")
        if pathlib.Path("/dev/kvm").stat().st_mode & 0o006:
            self.skipTest("everybody may use /dev/kvm here")
        self.folder.chmod(0o755)
        program = self.folder / "volt"
        shutil.copy(volt_cli.volt, program)
        program.chmod(0o755)
        return {"program": str(program), "user": 65534, "group": 65534, "extra_groups": []}

    def test_exit_6_says_why_and_asks_the_doctor(self):
        self.create("demo")
        before = self.left_behind()
        nobody = self.without_kvm()
        for words in (("run",), ("call", "demo", "health"), ("snapshot", "restore", "demo"),
                      ("snapshot", "create", "--name", "new"), ("bench", "restore", "-n", "1")):
            with self.subTest(words=words):
                error = self.refused(6, *words, saying="/dev/kvm", **nobody)
                self.assertEqual(error["fix"], ["volt doctor"])
        self.assertEqual(self.left_behind(), before)
        self.refused(1, "snapshot", "verify", "--deep", saying="Permission denied", **nobody)
        for path in (self.data, *self.data.rglob("*")):  # guest memory is for its owner
            os.chown(path, 65534, 65534, follow_symlinks=False)
        self.assertIn("demo:latest", self.ok("snapshot", "ls", **nobody))
        self.ok("snapshot", "verify", "--deep", **nobody)

    def test_usage_comes_before_the_host(self):
        nobody = self.without_kvm()
        for words in (("run", "--memory", "3"), ("run", "gte"), ("run", "--timeout", "0"),
                      ("call", "demo", "get"), ("snapshot", "restore", "demo", "--count", "0"),
                      ("snapshot", "create")):
            self.refused(2, *words, **nobody)

    def test_the_doctor_names_the_cure(self):
        nobody = self.without_kvm()
        document = self.document("doctor", code=6, **nobody)
        self.assertEqual((document["able"], document["host_kind"]), (False, "none"))
        kvm = next(check for check in document["checks"] if check["name"] == "kvm")
        self.assertIn("usermod", kvm["fix"])


class DamageTest(CliTest):
    """Exit 7, 5 and 10: what is stored is not what was stored."""

    def setUp(self):
        super().setUp()
        self.create("demo")
        self.files = self.files_of("demo")

    def data_offset(self):
        """The file offset of the first unit of the working set's last 64 KiB that is not zero."""
        extents = self.document("snapshot", "inspect", "demo")["memory"]["data"]
        last = extents[-1]
        with open(self.files / "memory", "rb") as memory:
            at = last["file_offset"] + last["size_bytes"]
            while at > last["file_offset"]:
                at -= UNIT
                memory.seek(at)
                if any(memory.read(UNIT)):
                    return at
        raise AssertionError("the memory file is all zero")

    READERS = (("snapshot", "verify"), ("snapshot", "restore", "demo", "--verify"),
               ("call", "demo", "--loader", "copy", "health"), ("call", "demo", "health"),
               ("snapshot", "inspect", "demo"), ("snapshot", "restore", "demo"))

    def test_exit_7_for_a_changed_byte_of_manifest_state_or_index(self):
        for name in ("manifest", "state", "index"):
            size = (self.files / name).stat().st_size
            for offset in (0, 33, size // 2, size - 1):
                self.flip(self.files / name, offset, bit=3)
                with self.subTest(file=name, offset=offset):
                    for words in self.READERS:
                        self.refused(7, *words, saying=f"{name}:")
                self.flip(self.files / name, offset, bit=3)
        self.ok("snapshot", "verify", "--deep")

    def test_exit_7_for_a_file_cut_short(self):
        for name in ("manifest", "state", "index", "memory"):
            whole = (self.files / name).read_bytes()
            (self.files / name).chmod(0o644)
            os.truncate(self.files / name, len(whole) - 1)
            with self.subTest(file=name):
                self.refused(7, "call", "demo", "health", saying=f"{name}:")
                self.refused(7, "snapshot", "verify", "demo", saying=f"{name}:")
            (self.files / name).write_bytes(whole)

    def test_a_file_that_was_lost_is_named(self):
        (self.files / "state").unlink()
        self.refused(7, "snapshot", "verify", saying="open state")
        self.refused(7, "snapshot", "verify", "demo", saying="open state")
        self.refused(3, "call", "demo", "health", saying="open state")

    def test_exit_7_for_changed_memory_where_it_is_looked_at(self):
        offset = self.data_offset()
        self.flip(self.files / "memory", offset)
        self.ok("snapshot", "verify", "demo")  # heads and index are good
        for words in (("snapshot", "verify", "--deep", "demo"),
                      ("snapshot", "restore", "demo", "--verify"),
                      ("snapshot", "restore", "demo", "--verify", "--loader", "uffd"),
                      ("call", "demo", "--loader", "copy", "health")):
            with self.subTest(words=words):
                self.refused(7, *words, saying=f"file offset {offset}")

    def test_a_damaged_parent_gives_no_child_with_valid_sums(self):
        self.flip(self.files / "memory", self.data_offset() + 100)
        for after in ((), ("--after", "health"), ("--after", "scan 0 1")):
            self.refused(7, "snapshot", "create", "--name", "child", "--from", "demo", *after,
                         saying="memory: unit")
        self.refused(3, "snapshot", "inspect", "child")

    def test_exit_7_for_bytes_where_the_index_has_none(self):
        with open(self.files / "memory", "rb") as memory:
            content = memory.read()
        hole = next(at for at in range(len(content) - UNIT, 0, -UNIT)
                    if not any(content[at:at + UNIT]))
        self.flip(self.files / "memory", hole + 5)
        self.refused(7, "snapshot", "verify", "--deep", "demo", saying=f"byte {hole + 5}")
        self.refused(7, "snapshot", "create", "--name", "child", "--from", "demo",
                     saying=f"byte {hole + 5}")

    def test_exit_10_for_a_page_that_cannot_be_had(self):
        offset = self.data_offset()
        self.flip(self.files / "memory", offset)
        error = self.refused(10, "call", "demo", "--loader", "uffd", "scan", "0",
                             str(SMALL_PAGES), saying=f"file offset {offset}")
        self.assertEqual(error["fix"], ["volt snapshot verify --deep demo"])

    def test_exit_5_for_a_format_of_another_version(self):
        self.flip(self.files / "manifest", 8, bit=4)  # major
        error = self.refused(5, "call", "demo", "health", saying="manifest: major")
        self.assertEqual(error["fix"], ["volt snapshot compat demo"])
        self.refused(5, "snapshot", "compat", "demo")

    def test_a_bad_snapshot_does_not_hide_the_others(self):
        self.create("good")
        self.create("worse")
        self.flip(self.files / "manifest", 60)
        self.flip(self.files_of("worse") / "index", 60)
        error = self.refused(7, "snapshot", "verify")
        self.assertIn("demo:latest: manifest", error["message"])
        self.assertIn("worse:latest: index", error["message"])
        items = {item["name"]: item for item in self.document("snapshot", "ls")["items"]}
        self.assertIn("manifest", items["demo:latest"]["error"])
        self.assertNotIn("error", items["good:latest"])
        self.assertIn("damaged", self.ok("snapshot", "ls"))
        self.ok("call", "good", "health")

    def test_a_name_that_points_nowhere_is_found_and_can_be_removed(self):
        (self.data / "names" / "gone:latest").symlink_to("../snapshots/" + "0" * 64)
        self.refused(7, "snapshot", "verify", saying="gone:latest")
        self.ok("snapshot", "rm", "gone")
        self.ok("snapshot", "verify")


class GuestTest(CliTest):
    """Exit 9, 124 and 2: what the guest does, or will not do."""

    def setUp(self):
        super().setUp()
        self.create("demo")

    def test_exit_9_names_the_exception(self):
        for kind, name in (("undefined", "exception 6 (invalid opcode)"),
                           ("null", "exception 14 (page fault), error code 0x4, cr2 0x0"),
                           ("divide", "exception 0 (divide error)"),
                           ("write-code", "exception 14 (page fault), error code 0x7"),
                           ("run-data", "exception 14 (page fault), error code 0x15"),
                           ("stack", "exception 14 (page fault)"),
                           ("unbacked", "where no memory is")):
            with self.subTest(kind=kind):
                error = self.refused(9, "call", "demo", "crash", kind, saying=name)
                self.assertRegex(error["message"], r"\brip 0x[0-9a-f]+")
                self.refused(9, "run", *SMALL, "crash", kind, saying=name)
        self.ok("call", "demo", "health")

    def test_exit_124_at_the_deadline(self):
        for words in (("call", "demo", "spin", "--timeout", "1"),
                      ("run", *SMALL, "--timeout", "1", "spin")):
            error = self.refused(124, *words)
            self.assertIn("--timeout", error["fix"][0])

    def test_a_call_that_fails_before_the_capture_leaves_nothing(self):
        before = self.left_behind()
        for code, call in ((9, "crash null"), (124, "spin"), (2, "get 99999999"), (2, "gte 1"),
                           (2, "")):
            self.refused(code, "snapshot", "create", "--name", "new", *SMALL, "--timeout", "1",
                         "--after", call, saying="--after")
        self.assertEqual(self.left_behind(), before)

    def test_exit_2_where_the_guest_refuses_the_arguments(self):
        for words in (("get", "65536"), ("scan", "0", "257"), ("touch", "256"),
                      ("write", "256", "1", "0"), ("random", "1025")):
            self.refused(2, "call", "demo", *words, saying=words[0] + ": the guest refused")
        self.refused(2, "run", "--workload", "echo", "get", "0", saying="get: the guest refused")

    def test_arguments_beyond_the_window_are_refused_here(self):
        self.refused(2, "call", "demo", "echo", *(["x" * 100_000] * 12))


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
