"""Help, usage errors, where the data directory is, and what happens when nobody can listen.

Nothing here runs a guest, so it needs no KVM.
"""

import json
import os
import re
import stat
import unittest

import volt_cli
from volt_cli import COMMANDS, CliTest, help_commands

# What the issue promises of each command.
PROMISED = {
    "run": "--workload --memory --working-set --timeout",
    "call": "--loader --timeout",
    "snapshot create": "--name --workload --memory --working-set --after --from --label --replace"
                       " --unit --mode --store",
    "snapshot compact": "--store --threads",
    "snapshot restore": "--count --loader --verify",
    "snapshot verify": "--deep",
    "bench restore": "-n --loader --memory --working-set --touch",
    "bench linux": "-n --kernel --initrd --cpus --memory --command --timeout",
}
DIGEST = "0123456789abcdef" * 4


class HelpTest(CliTest):
    def test_the_overview_lists_every_command(self):
        overview = self.ok("--help")
        self.assertEqual(help_commands(overview), COMMANDS)
        self.assertEqual(self.ok("-h"), overview)
        self.assertEqual(self.ok(), overview)

    def test_a_group_lists_its_commands(self):
        listed = help_commands(self.ok("snapshot", "--help"))
        self.assertEqual(listed, tuple(c for c in COMMANDS if c.startswith("snapshot ")))

    def test_every_command_explains_itself(self):
        for command in COMMANDS:
            with self.subTest(command=command):
                outcome = self.run_volt(*command.split(), "--help")
                self.assertEqual((outcome.code, outcome.err), (0, ""))
                self.assertRegex(outcome.out, rf"\Ausage: volt {command}\b")
                self.assertIn(f"\nexample:\n  volt {command}", outcome.out)
                options = outcome.out.split("\noptions:\n")[1]
                for option in ("--json --help " + PROMISED.get(command, "")).split():
                    self.assertRegex(options, rf"(?m)^  {option}\b")
                self.assertEqual(self.ok(*command.split(), "-h"), outcome.out)

    def test_examples_use_options_that_exist(self):
        for command in COMMANDS:
            text = self.ok(*command.split(), "--help")
            example = text.split("\nexample:\n")[1].split("\n")[0]
            for option in re.findall(r" (--?[a-z][a-z-]*)", example):
                self.assertRegex(text.split("\noptions:\n")[1], rf"(?m)^  {option}\b")

    def test_help_wins_over_missing_operands(self):
        self.assertIn("usage: volt call", self.ok("call", "--help"))
        self.assertIn("usage: volt call", self.ok("call", "demo", "--help"))


class UsageTest(CliTest):
    def test_unknown_words_are_usage_errors(self):
        for words in (("bogus",), ("snapshot", "bogus"), ("snapshot",), ("bench",), ("--bogus",),
                      ("",)):
            with self.subTest(words=words):
                self.refused(2, *words, saying="unknown")

    def test_unknown_options_are_usage_errors(self):
        for command in COMMANDS:
            error = self.refused(2, *command.split(), "--bogus", saying="'--bogus'")
            self.assertEqual(error["fix"], [f"volt {command} --help"])

    def test_operands_are_counted(self):
        for words in (("call",), ("call", "demo"), ("snapshot", "restore"), ("snapshot", "rm"),
                      ("snapshot", "restore", "a", "b"), ("snapshot", "inspect"),
                      ("snapshot", "compat", "a", "b"), ("snapshot", "create", "demo"),
                      ("snapshot", "ls", "demo"), ("bench", "restore", "demo"), ("doctor", "x"),
                      ("version", "x")):
            with self.subTest(words=words):
                self.refused(2, *words)

    def test_options_want_what_they_say(self):
        self.refused(2, "run", "--memory", saying="--memory")
        self.refused(2, "snapshot", "create", saying="--name")
        self.refused(2, "snapshot", "verify", "--deep=yes", saying="takes no value")
        self.refused(2, "run", "--workload", "fortran", saying="echo or kv")
        self.refused(2, "snapshot", "restore", "demo", "--loader", "tape", saying="copy")
        self.refused(2, "call", "demo", "gte", "5", saying="one of health")
        self.refused(2, "call", "demo", "get", saying="'get'")
        self.refused(2, "call", "demo", "get", "five", saying="'five'")
        self.refused(2, "call", "demo", "get", "--", "-5", saying="'-5'")
        self.refused(2, "run", "--workload", "echo", "--working-set", "4M", saying="echo")
        self.refused(2, "run", "--grace", "5", "--", "health", saying="--grace")
        self.refused(2, "run", "--from", "demo", "--grace", "5", "--", "date", saying="--grace")
        self.refused(2, "run", "--kernel", "stock", "--grace", "3601", saying="3600")

    def test_options_that_would_change_nothing_are_mistakes(self):
        create = "snapshot create --name a"
        for words, option in (
                ("run --from py --kernel stock -- date", "--kernel"),
                ("run --from py --memory 1G -- date", "--memory"),
                ("run --from py --cpus 2 -- date", "--cpus"),
                ("run --from py --seed 3 -- date", "--seed"),
                ("run --from py --console -- date", "--console"),
                ("run --kernel stock --hostname w7 -- date", "--hostname"),
                ("run --kernel stock --loader uffd -- date", "--loader"),
                ("run --kernel stock --verify -- date", "--verify"),
                ("run --kernel stock --workload kv -- date", "--workload"),
                ("run --kernel stock --console -- date", "--console"),
                ("run --kernel stock --tty", "--tty"),
                ("run --from py --user 7", "--user"), ("run --user 7 get 5", "--user"),
                ("run --from py --user 7:x -- date", "--user"),
                ("run --from py --user -1 -- date", "--user"),
                ("run --from py --hotset record", "--hotset"),
                ("run --from py --report= -- date", "--report"),
                ("run --from py --vsock= -- date", "--vsock"),
                ("run --from py --report /none/such/file -- date", "/none/such/file"),
                ("run --initrd root.gz", "--initrd"), ("run --vsock s get 5", "--vsock"),
                ("run --hotset off get 5", "--hotset"),
                (f"{create} --initrd root.gz --cpus 2", "--initrd"),
                (f"{create} --settle 3", "--settle"), (f"{create} --vsock s", "--vsock"),
                (f"{create} --kernel stock --vsock=", "--vsock"),
                (f"{create} --kernel stock --working-set 64M", "--working-set"),
                (f"{create} --from py --boot pvh", "--boot")):
            with self.subTest(words=words):
                self.refused(2, *words.split(), saying=option)

    def test_references_are_checked(self):
        for name in ("", ":", "a:", ":b", "../a", "a/b", "a:b:c", ".a", "a b", "a@b", "x" * 64,
                     "sha256:12", "a@sha256:12"):
            with self.subTest(name=name):
                self.refused(2, "snapshot", "inspect", name, saying="reference")
        self.refused(2, "snapshot", "create", "--name", f"sha256:{DIGEST}", saying="--name")
        self.refused(2, "snapshot", "rm", f"sha256:{DIGEST}", saying="by its name")

    def test_absurd_numbers_are_refused_before_anything_is_made(self):
        for options in ("--memory 1T", "--memory 3", "--memory 1048576", "--memory 0",
                        "--memory 17G", "--memory 16E", "--memory 99999999999999999999G",
                        "--memory -1", "--memory 1.5G", "--memory x", "--working-set 5000",
                        "--memory 16M --working-set 16M", "--working-set 1G", "--seed x",
                        "--working-set 1000P", "--timeout 0", "--timeout -1", "--timeout 1h",
                        "--timeout 604801", "--timeout 99999999999999999999"):
            for command in (("run",), ("snapshot", "create", "--name", "a")):
                with self.subTest(command=command, options=options):
                    self.refused(2, *command, *options.split(), saying=options.split()[-2])
        for count in ("0", "-1", "1000001", "18446744073709551616", "1e3", "all"):
            self.refused(2, "snapshot", "restore", "demo", "--count", count, saying="--count")
        self.refused(2, "snapshot", "restore", "demo", "--timeout", "0", saying="--timeout")
        self.assertFalse(self.data.exists())

    def test_unit_sizes_are_checked_before_a_guest_boots(self):
        for size in ("0", "1", "2K", "12K", "65537", "4M", "-4K", "x", "16E"):
            with self.subTest(size=size):
                self.refused(2, "snapshot", "create", "--name", "a", "--unit", size,
                             saying="--unit")
        self.assertFalse(self.data.exists())

    def test_labels_are_checked_before_a_guest_boots(self):
        for label in ("novalue", "=v", "Upper=v", "sp ace=v", "k" * 64 + "=v", "k=" + "v" * 256):
            with self.subTest(label=label):
                self.refused(2, "snapshot", "create", "--name", "a", "--label", label,
                             saying="--label")
        self.refused(2, "snapshot", "create", "--name", "a", "--label", "k=1", "--label", "k=2",
                     saying="twice")
        self.assertFalse(self.data.exists())

    def test_a_difference_needs_a_parent_and_has_its_units(self):
        create = ("snapshot", "create", "--name", "b")
        self.refused(2, *create, "--mode", "diff", saying="--from")
        self.refused(2, *create, "--mode", "delta", saying="full or diff")
        self.refused(2, *create, "--from", "a", "--mode", "diff", "--unit", "64K", saying="--unit")
        self.refused(2, "snapshot", "compact", "a", "--store", "tape", saying="raw or packed")
        self.refused(2, "snapshot", "compact")
        self.assertFalse(self.data.exists())

    def test_what_a_parent_fixes_cannot_be_chosen(self):
        for option in ("--memory", "--working-set", "--workload", "--seed"):
            self.refused(2, "snapshot", "create", "--name", "b", "--from", "a", option, "1",
                         saying=option)


class DataDirectoryTest(CliTest):
    def plant(self, folder, name):
        """A name that tells, by being listed, which directory was looked at."""
        (folder / "names").mkdir(parents=True)
        (folder / "names" / f"{name}:latest").symlink_to(f"../snapshots/{DIGEST}")

    def listed(self, **env):
        document = self.document("snapshot", "ls", env=env)
        return [item["name"] for item in document["items"]]

    def test_volt_then_xdg_then_home(self):
        volt_dir, xdg, home = (self.folder / name for name in ("volt", "xdg", "home"))
        self.plant(volt_dir, "by-volt")
        self.plant(xdg / "volt", "by-xdg")
        self.plant(home / ".local/share/volt", "by-home")
        env = {"VOLT_DATA_DIR": str(volt_dir), "XDG_DATA_HOME": str(xdg), "HOME": str(home)}
        self.assertEqual(self.listed(**env), ["by-volt:latest"])
        for unset in ("", None):
            env["VOLT_DATA_DIR"] = unset
            self.assertEqual(self.listed(**env), ["by-xdg:latest"])
        for unset in ("", None):
            env["XDG_DATA_HOME"] = unset
            self.assertEqual(self.listed(**env), ["by-home:latest"])
        env["HOME"] = None
        self.refused(2, "snapshot", "ls", env=env, saying="VOLT_DATA_DIR")

    def test_an_empty_store_is_no_error_and_is_not_made_by_looking(self):
        document = self.document("snapshot", "ls")
        self.assertEqual((document["items"], document["next"]), ([], None))
        self.assertIn("volt snapshot create", self.ok("snapshot", "ls"))
        self.assertEqual(self.document("snapshot", "verify")["items"], [])
        self.ok("snapshot", "verify")
        self.assertFalse(self.data.exists())

    def test_a_data_directory_that_is_none_is_a_plain_error(self):
        self.data.write_text("a file")
        self.refused(1, "snapshot", "ls", saying=str(self.data))


class VersionTest(CliTest):
    def test_text_and_document_agree(self):
        document = self.document("version")
        self.assertEqual(document["schema"], "volt.version/v1")
        self.assertRegex(document["version"], r"^\d+\.\d+\.\d+$")
        self.assertIsInstance(document["guest_abi"], int)
        self.assertEqual(self.ok("version"), f"volt {document['version']}\n")
        self.assertEqual(self.ok("--version"), f"volt {document['version']}\n")


class NobodyListensTest(CliTest):
    COMMANDS = (("version",), ("version", "--json"), ("snapshot", "ls"), ("run", "--help"),
                ("snapshot", "ls", "--json"), ("snapshot", "verify"))

    def into(self, words, **more):
        return volt_cli.subprocess.run([volt_cli.volt, *words], env=self.env, text=True,
                                       stderr=volt_cli.subprocess.PIPE, check=False,
                                       timeout=volt_cli.PATIENCE, **more)

    def assert_told(self, words, done):
        self.assertEqual(done.returncode, 1, f"{words}: {done.stderr}")
        self.assertIn("stdout", done.stderr)
        if "--json" in words:
            self.assertEqual(json.loads(done.stderr)["code"], "system")

    @unittest.skipUnless(os.path.exists("/dev/full") and
                         stat.S_ISCHR(os.stat("/dev/full").st_mode), "no /dev/full")
    def test_a_full_disk_is_an_error(self):
        for words in self.COMMANDS:
            with open("/dev/full", "w", encoding="ascii") as full:
                self.assert_told(words, self.into(words, stdout=full))

    def test_a_closed_stdout_is_an_error(self):
        for words in self.COMMANDS:
            self.assert_told(words, self.into(words, preexec_fn=lambda: os.close(1)))


if __name__ == "__main__":
    volt_cli.main(needs_kvm=False)
