"""Snapshots stored as differences: made, restored, folded, and what they take on disk."""

import volt_cli
from volt_cli import CliTest

UNIT = 65536


def value_of(document):
    return document["reply"]["value"]


class DifferenceTest(CliTest):
    def diff(self, name, parent, *words):
        return self.document("snapshot", "create", "--name", name, "--from", parent,
                             "--mode", "diff", *words)

    def test_it_says_what_it_wrote(self):
        first = self.create("first")
        self.assertEqual((first["mode"], first["full_because"]), ("full", None))
        made = self.diff("second", "first", "--after", "put 5 99")
        self.assertEqual((made["mode"], made["full_because"]), ("diff", None))
        units = made["units"]
        self.assertEqual(sum(units.values()), first["stored_bytes"] // UNIT)
        self.assertGreater(units["changed"], 0)
        self.assertEqual(made["stored_bytes"], units["changed"] * UNIT)
        self.assertEqual(made["data_bytes"], first["data_bytes"])
        text = self.ok("snapshot", "create", "--name", "third", "--from", "first", "--mode", "diff")
        self.assertRegex(text, r"\n  memory   0 B written, .* with the parent's, of 16")
        self.assertRegex(text, r"\n  units    \d+ taken over, 0 equal, 0 changed\n")
        digest = self.document("snapshot", "inspect", "first")["digest"]
        self.assertEqual(self.document("snapshot", "inspect", "second")["parent"], digest)

    def test_a_chain_is_restored_folded_and_outlives_its_parents(self):
        self.create("v0")
        for i in range(1, 4):
            store = "packed" if i == 2 else "raw"
            made = self.diff(f"v{i}", f"v{i - 1}", "--after", f"put {i} {100 + i}",
                             "--store", store)
            self.assertEqual(made["mode"], "diff")
        error = self.refused(4, "snapshot", "restore", "v3", "--loader", "map", saying="layers")
        self.assertEqual(error["fix"], ["volt snapshot unpack v3"])
        for loader in ("auto", "copy"):
            self.ok("snapshot", "restore", "v3", "--verify", "--loader", loader)
        self.ok("snapshot", "rm", "v1", "v0")
        self.ok("snapshot", "prune")
        for i in range(1, 4):
            self.assertEqual(value_of(self.document("call", "v3", "get", str(i))), 100 + i)
        self.ok("snapshot", "verify", "--deep", "v2", "v3")

        digest = self.document("snapshot", "inspect", "v3")["digest"]
        document = self.document("snapshot", "compact", "v3")
        self.assertEqual((document["changed"], document["storage"]), (True, "raw"))
        self.assertEqual(self.document("snapshot", "inspect", "v3")["digest"], digest)
        self.ok("snapshot", "restore", "v3", "--verify", "--loader", "map")
        self.assertIn("already", self.ok("snapshot", "compact", "v3"))
        self.assertIs(self.document("snapshot", "compact", "v2", "--store", "packed")["changed"],
                      True)
        self.ok("snapshot", "verify", "--deep", "v2", "v3")
        self.assertEqual(self.document("snapshot", "verify")["strays"], [])

    def test_ls_and_tree_show_what_is_shared(self):
        self.create("first")
        made = self.diff("second", "first", "--after", "write 0 64 7")
        for command in ("ls", "tree"):
            items = self.document("snapshot", command)["items"]
            second = items[1]
            self.assertEqual(second["unique_bytes"], made["units"]["changed"] * UNIT)
            self.assertGreater(items[0]["shared_bytes"], 0)
            self.assertEqual(second["stored_bytes"],
                             second["shared_bytes"] + second["unique_bytes"])

    def test_a_difference_can_be_saved_and_loaded(self):
        self.create("first")
        made = self.diff("second", "first", "--after", "put 5 99")
        path = str(self.folder / "second.vsnap")
        self.ok("snapshot", "save", "second", path)
        self.ok("snapshot", "rm", "first", "second")
        self.ok("snapshot", "load", path, "--name", "second")
        self.assertEqual(self.document("snapshot", "inspect", "second")["digest"], made["digest"])
        self.assertEqual(value_of(self.document("call", "second", "get", "5")), 99)

    def test_a_damaged_layer_is_named(self):
        self.create("first")
        self.diff("second", "first", "--after", "put 5 99")
        self.diff("third", "second", "--after", "put 6 99")
        folder = self.data / "names" / "third:latest"
        layer = sorted(folder.resolve().glob("layer-*"))[0]
        layer.chmod(0o644)
        data = bytearray(layer.read_bytes())
        place = next(i for i in range(len(data) - 1, 0, -1) if data[i])
        data[place] ^= 1
        with layer.open("r+b") as file:  # in place: the other links see it too
            file.seek(place)
            file.write(data[place:place + 1])
        outcome = self.run_volt("snapshot", "verify", "--deep", "--json")
        self.assertEqual(outcome.code, 7, str(outcome))
        self.assertIn(layer.name + ": unit ", outcome.out + outcome.err)


if __name__ == "__main__":
    volt_cli.main(needs_kvm=True)
