"""How snapshots are stored, through the command: pack, unpack, save, load, prune, tree."""

import hashlib
import signal
import subprocess

import volt_cli
from cli_process_test import StoppedCommand
from volt_cli import SMALL, SMALL_PAGES, CliTest

BIG = ("--memory", "512M", "--working-set", "256M")


class PackTest(CliTest):
    def test_packing_and_unpacking_keep_what_the_snapshot_is(self):
        made = self.create("demo")
        before = self.document("snapshot", "inspect", "demo")
        packed = self.document("snapshot", "pack", "demo")
        self.assertEqual(packed["schema"], "volt.snapshot.pack/v1")
        self.assertEqual(list(packed), ["schema", "name", "changed", "units", "shared_units",
                                        "written_bytes", "hot_units", "hot_set_unusable"])
        self.assertIs(packed["changed"], True)
        self.assertEqual((packed["hot_units"], packed["hot_set_unusable"]), (0, ""))
        self.assertEqual(packed["units"], made["stored_bytes"] // 65536)
        self.assertFalse((self.files_of("demo") / "memory").exists())
        self.assertEqual(self.document("snapshot", "inspect", "demo")["digest"],
                         before["digest"])
        self.assertIn("packed already", self.ok("snapshot", "pack", "demo"))
        self.assertIs(self.document("snapshot", "pack", "demo")["changed"], False)
        self.ok("snapshot", "restore", "demo", "--verify", "--count", "3")
        for loader in ("uffd", "copy"):
            self.ok("snapshot", "restore", "demo", "--verify", "--loader", loader)
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])
        unpacked = self.document("snapshot", "unpack", "demo")
        self.assertEqual(unpacked["schema"], "volt.snapshot.unpack/v1")
        self.assertIn("raw already", self.ok("snapshot", "unpack", "demo"))
        self.ok("snapshot", "restore", "demo", "--verify", "--loader", "map")
        self.assertEqual(list((self.data / "packs").iterdir()), [])

    def test_map_of_a_packed_snapshot_is_refused_and_unpack_is_the_advice(self):
        self.create("demo", "--store", "packed")
        for words in (("call", "demo", "--loader", "map", "health"),
                      ("snapshot", "restore", "demo", "--loader", "map")):
            error = self.refused(4, *words, saying="in packs")
            self.assertEqual(error["fix"], ["volt snapshot unpack demo"])
        self.ok("snapshot", "unpack", "demo")
        self.ok("call", "demo", "--loader", "map", "health")

    def test_a_packed_create_shares_and_ls_and_inspect_say_so(self):
        first = self.create("first", "--store", "packed", "--level", "3", "--threads", "1")
        self.document("snapshot", "create", "--name", "second", "--from", "first",
                      "--after", "put 5 99", "--store", "packed")
        items = self.document("snapshot", "ls")["items"]
        self.assertEqual(len(items), 2)
        for item in items:
            self.assertEqual(item["stored_bytes"], item["shared_bytes"] + item["unique_bytes"])
            self.assertGreater(item["shared_bytes"], item["unique_bytes"])
            self.assertLessEqual(item["stored_bytes"], first["stored_bytes"] * 2)
        tree = self.document("snapshot", "tree")
        self.assertEqual(tree["schema"], "volt.snapshot.tree/v1")
        self.assertEqual([item["names"] for item in tree["items"]],
                         [["first:latest"], ["second:latest"]])
        self.assertEqual([item["depth"] for item in tree["items"]], [0, 1])
        self.assertEqual(tree["items"][1]["parent"], first["digest"])
        text = self.ok("snapshot", "tree").splitlines()
        self.assertTrue(text[0].startswith("first:latest"))
        self.assertTrue(text[1].startswith("  second:latest"))
        self.ok("snapshot", "rm", "first")
        self.assertIn("which is not here", self.ok("snapshot", "tree"))
        self.ok("snapshot", "restore", "second", "--loader", "copy")

    def test_what_is_packed_is_laid_out_by_a_hot_set_that_was_recorded_later(self):
        self.create("demo", "--store", "packed")
        digest = self.document("snapshot", "inspect", "demo")["digest"]
        error = self.refused(4, "snapshot", "pack", "demo", "--relayout", saying="hot set")
        self.assertEqual(error["fix"], ["volt snapshot restore demo --hotset record"])
        words = ("scan", "40", "8")
        reply = self.document("call", "demo", *words, "--hotset", "record")["reply"]
        packs = sorted((self.data / "packs").iterdir())
        self.assertIn("packed already", self.ok("snapshot", "pack", "demo"))
        laid_out = self.document("snapshot", "pack", "demo", "--relayout")
        self.assertIs(laid_out["changed"], True)
        self.assertGreater(laid_out["hot_units"], 0)
        self.assertLess(laid_out["hot_units"], laid_out["units"])
        self.assertNotEqual(sorted((self.data / "packs").iterdir()), packs)
        self.assertIn("in the order of its hot set",
                      self.ok("snapshot", "pack", "demo", "--relayout"))
        self.assertEqual(self.document("snapshot", "inspect", "demo")["digest"], digest)
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])
        call = self.document("call", "demo", *words)
        self.assertEqual((call["hot_set"], call["reply"]), ("replayed", reply))
        self.ok("snapshot", "unpack", "demo")
        self.assertIn("hot units first", self.ok("snapshot", "pack", "demo", "--relayout"))

    def test_a_damaged_hot_set_is_told_and_stops_no_packing(self):
        self.create("demo")
        self.ok("call", "demo", "health", "--hotset", "record")
        self.flip(self.files_of("demo") / "hotset", 100)
        self.refused(7, "snapshot", "pack", "demo", "--relayout", saying="hotset")
        self.assertIn("left out of account: hotset", self.ok("snapshot", "pack", "demo"))
        self.ok("call", "demo", "health", "--hotset", "off")

    def test_a_damaged_pack_is_found(self):
        self.create("demo", "--store", "packed")
        pack = next((self.data / "packs").iterdir())
        self.flip(pack, pack.stat().st_size // 2)
        self.ok("snapshot", "verify")
        self.refused(7, "snapshot", "verify", "--deep", saying=pack.name)
        self.refused(7, "snapshot", "restore", "demo", "--loader", "copy", saying=pack.name)

    def test_tree_of_nothing(self):
        self.assertEqual(self.ok("snapshot", "tree"), "no snapshots\n")
        self.assertEqual(self.document("snapshot", "tree")["items"], [])


class PruneTest(CliTest):
    def test_prune_gives_back_what_killed_commands_left(self):
        self.create("demo", "--store", "packed")
        left = self.data / "packs" / ".draft-left"
        left.write_bytes(b"x" * 8192)
        told = self.document("snapshot", "prune", "--dry-run")
        self.assertEqual(list(told), ["schema", "dry_run", "freed_bytes", "kept_dead_bytes",
                                      "items"])
        self.assertIs(told["dry_run"], True)
        self.assertEqual(told["items"], [{"what": "packs/.draft-left", "bytes": 8192}])
        self.assertTrue(left.exists())
        self.assertIn("would remove", self.ok("snapshot", "prune", "--dry-run"))
        done = self.document("snapshot", "prune", "--dead", "1")
        self.assertEqual(done["schema"], "volt.snapshot.prune/v1")
        self.assertEqual(done["freed_bytes"], 8192)
        self.assertFalse(left.exists())
        self.assertEqual(self.ok("snapshot", "prune"), "freed 0 B\n")
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])


class ArchiveTest(CliTest):
    def save(self, name="demo"):
        path = self.folder / f"{name}.vsnap"
        return path, self.document("snapshot", "save", name, str(path))

    def test_a_snapshot_goes_to_a_file_and_comes_back(self):
        made = self.create("demo")
        path, saved = self.save()
        self.assertEqual(saved["schema"], "volt.snapshot.save/v1")
        self.assertEqual(list(saved), ["schema", "snapshot", "digest", "archive_sha256", "units",
                                       "bytes"])
        self.assertEqual(saved["bytes"], path.stat().st_size)
        self.assertEqual(saved["archive_sha256"],
                         hashlib.sha256(path.read_bytes()[:-64]).hexdigest())
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        for store in ("raw", "packed"):
            loaded = self.document("snapshot", "load", str(path), "--name", "copy:" + store,
                                   "--store", store, "--sha256", saved["archive_sha256"])
            self.assertEqual(loaded["schema"], "volt.snapshot.load/v1")
            self.assertEqual(loaded["digest"], made["digest"])
        self.ok("snapshot", "rm", "demo", "copy:raw", "copy:packed")
        self.document("snapshot", "load", str(path), "--name", "again", "--store", "packed")
        self.assertEqual(self.document("call", "again", "scan", "0", str(SMALL_PAGES))
                         ["reply"]["function"], "scan")
        self.assertEqual(self.document("snapshot", "verify", "--deep")["strays"], [])

    def test_save_and_load_meet_in_a_pipe(self):
        self.create("demo")
        saver = subprocess.Popen([volt_cli.volt, "snapshot", "save", "demo", "-"], env=self.env,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        loader = subprocess.run([volt_cli.volt, "snapshot", "load", "-", "--name", "piped"],
                                env=self.env, stdin=saver.stdout, capture_output=True, text=True,
                                timeout=volt_cli.PATIENCE, check=False)
        saver.stdout.close()
        self.assertEqual(saver.wait(), 0)
        self.assertEqual(loader.returncode, 0, loader.stderr)
        self.ok("snapshot", "restore", "piped", "--verify")

    def test_a_file_that_is_there_is_kept_unless_replace_is_said(self):
        self.create("demo")
        path, _ = self.save()
        before = path.read_bytes()
        error = self.refused(4, "snapshot", "save", "demo", str(path), saying="exists")
        self.assertIn("--replace", error["fix"][0])
        self.assertEqual(path.read_bytes(), before)
        self.ok("snapshot", "save", "demo", str(path), "--replace")
        error = self.refused(4, "snapshot", "load", str(path), "--name", "demo", saying="exists")
        self.assertIn("--replace", error["fix"][0])
        self.ok("snapshot", "load", str(path), "--name", "demo", "--replace")

    def test_a_damaged_or_wrong_archive_is_refused_and_leaves_nothing(self):
        self.create("demo")
        path, saved = self.save()
        before = self.left_behind()
        other = ("0" if saved["archive_sha256"][0] != "0" else "1") + saved["archive_sha256"][1:]
        self.refused(7, "snapshot", "load", str(path), "--name", "new", "--sha256", other,
                     saying=saved["archive_sha256"])
        self.refused(2, "snapshot", "load", str(path), "--name", "new", "--sha256", "abc")
        size = path.stat().st_size
        self.flip(path, size // 2)
        error = self.refused(7, "snapshot", "load", str(path), "--name", "new", saying="archive")
        self.assertNotIn("verify", error["fix"][0], "the archive is damaged, not a snapshot")
        self.flip(path, size // 2)
        path.write_bytes(path.read_bytes()[:-1])
        self.refused(7, "snapshot", "load", str(path), "--name", "new", saying="archive")
        self.refused(3, "snapshot", "load", str(self.folder / "none"), "--name", "new")
        self.assertEqual(self.left_behind(), before)


class UsageTest(CliTest):
    def test_wrong_words_are_usage_errors(self):
        for words in ("pack", "unpack", "pack a b", "save demo", "load file", "prune x",
                      "tree x", "pack a --level 0", "pack a --level 20", "pack a --threads 0",
                      "pack a --threads 65", "unpack a --level 1", "prune --dead 0",
                      "prune --dead 101", "load file --name a@sha256:" + "0" * 64,
                      "load file --name new --store tape", "create --name a --store tape"):
            with self.subTest(words=words):
                self.refused(2, "snapshot", *words.split())
        self.assertFalse(self.data.exists())

    def test_what_is_not_there_is_not_found(self):
        self.create("demo")
        for words in (("pack", "none"), ("pack", "none", "--relayout"), ("unpack", "none"),
                      ("save", "none", str(self.folder / "x"))):
            self.refused(3, "snapshot", *words, saying="none")
        self.assertFalse((self.folder / "x").exists())

    def test_an_archive_is_not_mixed_with_json(self):
        self.create("demo")
        self.refused_as_json(2, "snapshot", "save", "demo", "-")

    def test_help_names_every_option(self):
        for command, options in (("pack", ("--relayout", "--level", "--threads")),
                                 ("unpack", ("--threads",)),
                                 ("save", ("--replace", "--level", "--threads")),
                                 ("load", ("--name", "--replace", "--sha256", "--store")),
                                 ("prune", ("--dry-run", "--dead")), ("tree", ()),
                                 ("create", ("--store", "--unit"))):
            text = self.ok("snapshot", command, "--help")
            for option in options + ("--json",):
                self.assertIn(option, text, command)


class StopTest(CliTest):
    """Ctrl-C while a command works: exit 130, and everything as it was."""

    def stop(self, line, *words):
        before, files = self.document("snapshot", "verify"), self.left_behind()
        outcome = StoppedCommand(self, line, "snapshot", *words, signals=(signal.SIGINT,)).outcome
        self.assert_came_to_an_end(outcome)
        if outcome.code == 0:
            return False  # it was quicker than the signal
        self.assertEqual(outcome.code, 130, str(outcome))
        self.assertEqual(self.left_behind(), files)
        self.assertEqual(self.document("snapshot", "verify"), before)
        return True

    def test_a_stopped_command_leaves_the_store_as_it_was(self):
        self.document("snapshot", "create", "--name", "demo", *BIG)
        path = str(self.folder / "demo.vsnap")
        stopped = self.stop("packing", "pack", "demo", "--level", "9")
        self.assertTrue(stopped, "packing 256 MiB at level 9 was too quick to stop")
        if not self.stop("saving", "save", "demo", path, "--level", "9"):
            self.assertTrue((self.folder / "demo.vsnap").exists())
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()
                                if p.name.startswith("demo.vsnap.")), [])
        self.ok("snapshot", "save", "demo", path, "--replace")
        self.stop("loading", "load", path, "--name", "copy", "--store", "packed")
        self.ok("snapshot", "pack", "demo")
        self.stop("unpacking", "unpack", "demo", "--threads", "1")
        self.ok("snapshot", "verify", "--deep")


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
