"""The volt command as a test sees it: what it said, how it ended, what it left behind.

A script gets the program's path as its first argument. One that needs KVM exits 77 where it has
none, which CTest counts as skipped; with VOLT_REQUIRE_KVM=1 it fails instead.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77
PATIENCE = 120  # seconds; only a command that hangs gets there
SMALL = ("--memory", "16M", "--working-set", "1M")
SMALL_PAGES = 256

COMMANDS = ("run", "call", "snapshot create", "snapshot restore", "snapshot ls",
            "snapshot inspect", "snapshot verify", "snapshot compat", "snapshot rm",
            "snapshot tree", "snapshot pack", "snapshot unpack", "snapshot compact",
            "snapshot save", "snapshot load", "snapshot prune",
            "kernel fetch", "kernel import", "kernel ls", "kernel rm",
            "pager", "bench restore", "bench linux", "doctor", "version")

CODE_NAMES = {1: "system", 2: "usage", 3: "not_found", 4: "conflict", 5: "incompatible",
              6: "host_unable", 7: "integrity", 9: "guest_crashed", 10: "page_lost", 75: "busy",
              124: "deadline", 130: "interrupted"}

volt = ""  # the program's path, set by main()


def kvm_fault():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return str(error)
    return ""


def main(needs_kvm):
    global volt
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} PATH-OF-VOLT [TESTS]")
    volt = os.path.abspath(sys.argv.pop(1))
    fault = kvm_fault() if needs_kvm else ""
    if fault:
        print(f"no KVM: {fault}")
        sys.exit(1 if os.environ.get("VOLT_REQUIRE_KVM") == "1" else SKIPPED)
    unittest.main()


class Outcome:
    def __init__(self, words, code, out, err):
        self.command = " ".join(str(word) for word in words)
        self.code, self.out, self.err = code, out, err

    def __str__(self):
        return f"volt {self.command}\nexit {self.code}\nstdout: {self.out}\nstderr: {self.err}"


class CliTest(unittest.TestCase):
    """Every test has a data directory and a home of its own, and nothing of the caller's."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="volt-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.data = self.folder / "data"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.folder / "home"),
                    "TMPDIR": str(self.folder), "VOLT_DATA_DIR": str(self.data)}
        self.env.update({name: value for name, value in os.environ.items()
                         if name.endswith("SAN_OPTIONS")})

    # ---- Running it.

    def start(self, *words, **more):
        return subprocess.Popen([volt, *words], env=self.env | more.pop("env", {}), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **more)

    def run_volt(self, *words, **more):
        env = {name: value for name, value in (self.env | more.pop("env", {})).items()
               if value is not None}
        done = subprocess.run([more.pop("program", volt), *words], env=env, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE,
                              check=False, **more)
        outcome = Outcome(words, done.returncode, done.stdout, done.stderr)
        self.assert_came_to_an_end(outcome)
        return outcome

    def assert_came_to_an_end(self, outcome):
        self.assertGreaterEqual(outcome.code, 0, f"killed by a signal: {outcome}")
        self.assertNotIn("Sanitizer", outcome.err, str(outcome))
        self.assertNotIn("runtime error:", outcome.err, str(outcome))

    def ok(self, *words, **more):
        outcome = self.run_volt(*words, **more)
        self.assertEqual(outcome.code, 0, str(outcome))
        return outcome.out

    def document(self, *words, code=0, **more):
        """The one JSON document on stdout."""
        outcome = self.run_volt(*words, "--json", **more)
        self.assertEqual(outcome.code, code, str(outcome))
        self.assertEqual(outcome.err, "", str(outcome))
        document = json.loads(outcome.out)
        self.assertEqual(next(iter(document)), "schema", "the schema comes first")
        self.assertRegex(document["schema"], r"^volt(\.[a-z]+)+/v1$")
        return document

    # ---- Refusals: the same code, silence on stdout and advice on stderr, in both forms.

    def refused(self, code, *words, saying="", **more):
        outcome = self.run_volt(*words, **more)
        self.assertEqual(outcome.code, code, str(outcome))
        self.assert_human_error(outcome)
        self.assertIn(saying, outcome.err, str(outcome))
        return self.refused_as_json(code, *words, **more)

    def assert_human_error(self, outcome):
        self.assertEqual(outcome.out, "", str(outcome))
        self.assertRegex(outcome.err, r"\Aerror: [^\n]+\n  try: [^\n]+\n\Z", str(outcome))
        self.assertNotIn(f"try: volt {outcome.command}\n", outcome.err,
                         "the advice is what has just failed")

    def refused_as_json(self, code, *words, **more):
        cut = words.index("--") if "--" in words else len(words)
        outcome = self.run_volt(*words[:cut], "--json", *words[cut:], **more)
        self.assertEqual(outcome.code, code, str(outcome))
        self.assertEqual(outcome.out, "", str(outcome))
        self.assertEqual(outcome.err.count("\n"), 1, str(outcome))
        error = json.loads(outcome.err)
        self.assertEqual(error["schema"], "volt.error/v1")
        self.assertEqual(error["code"], CODE_NAMES[code], str(outcome))
        self.assertEqual(error["exit"], code)
        self.assertTrue(error["message"], str(outcome))
        self.assertTrue(error["fix"] and all(error["fix"]), str(outcome))
        return error

    # ---- What most tests begin with.

    def create(self, name, *words):
        return self.document("snapshot", "create", "--name", name, *SMALL, *words)

    def files_of(self, name):
        """The directory of a snapshot's files."""
        tagged = name if ":" in name else name + ":latest"
        return (self.data / "names" / tagged).resolve(strict=True)

    def left_behind(self):
        return sorted(str(path.relative_to(self.data)) for path in self.data.rglob("*")
                      if path.is_symlink() or not path.is_dir())

    def flip(self, path, offset, bit=0):
        path.chmod(0o644)
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ (1 << bit)]))


def help_commands(text):
    return tuple(match.group(1).strip()
                 for match in re.finditer(r"^  ([a-z]+(?: [a-z]+)?) {2,}\S", text, re.M))
