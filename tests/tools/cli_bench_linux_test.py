"""`volt bench linux`: what it refuses before it boots anything. What it measures is looked at where
Linux guests run: tests/testbed/bench.

Nothing here runs a guest, so it needs no KVM.
"""

import re

import volt_cli
from volt_cli import CliTest


class BenchLinuxTest(CliTest):
    def setUp(self):
        super().setUp()
        self.initrd = self.folder / "initrd"
        self.initrd.write_bytes(b"a root\n")
        self.words = ("bench", "linux", "--initrd", str(self.initrd))

    def tearDown(self):
        self.assertEqual([path.name for path in self.folder.iterdir()], ["initrd"])

    def test_a_kernel_that_is_not_there(self):
        error = self.refused(3, *self.words, saying="no kernel is here yet")
        self.assertEqual(error["fix"], ["volt kernel fetch"])
        error = self.refused(3, *self.words, "--kernel", "trixie", saying="'trixie'")
        self.assertEqual(error["fix"], ["volt kernel ls"])
        self.refused(3, *self.words, "--kernel", "/nothing/vmlinuz", saying="/nothing/vmlinuz")

    def test_a_guest_needs_a_root(self):
        self.refused(2, "bench", "linux", saying="--initrd is missing")
        self.refused(2, "bench", "linux", "--command", "uname -r", saying="'uname'")
        self.refused(2, "bench", "linux", "--initrd", "/nothing/root", saying="/nothing/root")

    def test_absurd_options(self):
        for options in ("-n 0", "-n 100001", "-n x", "--timeout 0", "--command="):
            with self.subTest(options=options):
                self.refused(2, *self.words, *options.split(), saying=re.split("[ =]", options)[0])

    def test_a_machine_that_cannot_be(self):
        for options in ("--cpus 0", "--cpus 17", "--memory 3", "--memory 1T"):
            with self.subTest(options=options):
                self.refused(2, *self.words, "--kernel", str(self.initrd), *options.split())

    def test_it_takes_no_operands(self):
        self.refused(2, *self.words, "date", saying="no operands")


if __name__ == "__main__":
    volt_cli.main(needs_kvm=False)
