"""Kernels for Linux guests: taken from a file or from a (pretended) package manager, kept, removed.

Nothing here runs a guest, so it needs no KVM.
"""

import gzip
import json
import lzma
import os
import signal
import struct

import volt_cli
from volt_cli import CliTest

VERSION = "6.1.0-9-test"
PACKAGE = f"linux-image-{VERSION}"


def vmlinux(version=VERSION, code=b""):
    """One segment at 16 MiB, with nothing in it but what runs first and the banner."""
    text = code + f"Linux version {version} (someone)\0".encode()
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 1 << 24, 64, 0, 0, 64, 56,
                       1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, 1 << 24, 1 << 24, len(text), 4096, 4096)
    return head + segment + text


def bz_image(payload, version=VERSION):
    """Boot protocol 2.15; the payload is at 0x240 of the protected-mode part."""
    file = bytearray(1024 + 0x240) + payload
    file += bytes(-len(file) % 16)
    for offset, form, value in (
            (0x1F1, "<B", 1), (0x1F4, "<I", (len(file) - 1024) // 16), (0x1FE, "<H", 0xAA55),
            (0x200, "<H", 0x6AEB), (0x202, "<4s", b"HdrS"), (0x206, "<H", 0x20F),
            (0x20E, "<H", 0x100), (0x211, "<B", 1), (0x22C, "<I", 0x7FFFFFFF), (0x236, "<H", 1),
            (0x238, "<I", 2047), (0x248, "<I", 0x240), (0x24C, "<I", len(payload)),
            (0x258, "<Q", 1 << 24), (0x260, "<I", 1 << 24)):
        struct.pack_into(form, file, offset, value)
    file[0x300:0x300 + len(version) + 2] = version.encode() + b" x"
    return bytes(file)


def module(depends="", version=VERSION):
    return b"\x7fELF\0" + f"license=GPL\0depends={depends}\0vermagic={version} SMP\0".encode()


def module_names(document):
    return [name[4:-3] for name in document["modules"]]


class KernelTest(CliTest):
    def file(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    def setUp(self):
        super().setUp()
        self.kernel = self.file("vmlinux", vmlinux())
        self.tree = self.folder / "modules"
        self.tree.mkdir()

    def add_module(self, name, *of_module, pack=lambda content: content):
        self.file(f"modules/kernel/drivers/{name}", pack(module(*of_module)))

    def import_it(self, name, *words):
        return self.document("kernel", "import", self.kernel, "--name", name, *words)

    def with_modules(self):
        return self.import_it("k", "--modules", str(self.tree))

    def names(self):
        return [item["name"] for item in self.document("kernel", "ls")["items"]]

    def assert_no_drafts(self):
        self.assertEqual([path for path in (self.data / "kernels").iterdir()
                          if path.name.startswith(".")], [])


class ImportTest(KernelTest):
    def test_a_kernel_is_kept_as_it_was_given(self):
        document = self.import_it("mine")
        self.assertEqual((document["name"], document["version"], document["modules"]),
                         ("mine", VERSION, []))
        kept = self.data / "kernels" / "mine"
        self.assertEqual((kept / "kernel").read_bytes(), vmlinux())
        about = json.loads((kept / "about.json").read_text())
        self.assertEqual(about["schema"], "volt.kernel/v1")
        self.assertEqual((about["version"], about["sha256"], about["bytes"]),
                         (VERSION, document["sha256"], len(vmlinux())))
        self.assert_no_drafts()

    def test_packed_kernels_are_kernels_too(self):
        packed = bz_image(gzip.compress(vmlinux("from the banner")))
        for name, content in (("gzip", packed), ("itself", bz_image(b"some other packing" * 9))):
            self.kernel = self.file(name, content)
            self.assertEqual(self.import_it(name)["version"], VERSION)
        self.assertEqual(self.names(), ["gzip", "itself"])

    def test_what_is_no_kernel_is_refused_and_leaves_nothing(self):
        half = self.file("half", vmlinux()[:100])
        broken = self.file("broken", bz_image(gzip.compress(vmlinux())[:-30]))
        for path in (half, broken, self.file("empty", b""), self.file("text", b"hello" * 999)):
            error = self.refused(7, "kernel", "import", path, "--name", "k", saying=path)
            self.assertEqual(error["fix"], ["volt kernel fetch"])
        self.refused(5, "kernel", "import", self.file("arm", vmlinux().replace(b"\x3e", b"\xb7")),
                     "--name", "k", saying="x86-64")
        self.refused(3, "kernel", "import", str(self.folder / "none"), "--name", "k")
        self.assertEqual(self.names(), [])
        self.assertEqual(self.left_behind() if self.data.exists() else [], [])

    def test_names_are_checked(self):
        self.refused(2, "kernel", "import", self.kernel, saying="--name")
        for name in ("", ".k", "../k", "a/b", "a b", "-k", "x" * 64):
            self.refused(2, "kernel", "import", self.kernel, f"--name={name}", saying="--name")
            if name and name[0] != "-":
                self.refused(2, "kernel", "rm", name, saying="kernel name")
        self.assertFalse(self.data.exists())

    def test_a_name_is_taken_once(self):
        first = self.import_it("k")
        self.kernel = self.file("other", vmlinux("7.0"))
        self.refused(4, "kernel", "import", self.kernel, "--name", "k", saying="'k'")
        self.assertEqual(self.document("kernel", "ls")["items"][0]["sha256"], first["sha256"])
        self.assert_no_drafts()

    def test_of_many_at_once_one_gets_the_name(self):
        runs = [self.start("kernel", "import", self.kernel, "--name", "k") for _ in range(8)]
        codes = []
        for run in runs:
            run.communicate(timeout=volt_cli.PATIENCE)
            codes.append(run.returncode)
        self.assertEqual(sorted(codes), [0] + 7 * [4])
        self.assertEqual(self.names(), ["k"])
        self.assert_no_drafts()


class ModulesTest(KernelTest):
    def test_what_they_need_comes_first(self):
        self.add_module("virtio_mmio.ko", "virtio,virtio_ring")
        self.add_module("virtio.ko", "virtio_ring")
        self.add_module("virtio_ring.ko")
        self.add_module("virtio-rng.ko", "virtio,rng-core")
        self.add_module("rng-core.ko")
        self.add_module("e1000.ko")
        document = self.with_modules()
        self.assertEqual(module_names(document), ["virtio_ring", "virtio", "virtio_mmio",
                                                  "rng_core", "virtio_rng"])
        kept = self.data / "kernels" / "k" / "modules"
        self.assertEqual(sorted(path.name for path in kept.iterdir()), document["modules"])
        self.assertEqual((kept / "000-virtio_ring.ko").read_bytes(), module())

    def test_packed_ones_are_unpacked(self):
        self.add_module("overlay.ko.xz", pack=lzma.compress)
        self.assertEqual(self.with_modules()["modules"], ["000-overlay.ko"])
        kept = self.data / "kernels" / "k" / "modules" / "000-overlay.ko"
        self.assertEqual(kept.read_bytes(), module())

    def test_a_circle_and_a_missing_one_do_no_harm(self):
        self.add_module("virtio_blk.ko", "overlay,built_in")
        self.add_module("overlay.ko", "virtio-blk")
        self.assertEqual(sorted(module_names(self.with_modules())), ["overlay", "virtio_blk"])

    def test_those_of_another_kernel_are_refused(self):
        self.add_module("overlay.ko", "", "6.1.0-8-test")
        self.refused(2, "kernel", "import", self.kernel, "--name", "k", "--modules",
                     str(self.tree), saying="6.1.0-8-test")
        self.assertEqual(self.names(), [])

    def test_what_is_no_module_is_refused(self):
        for content in (b"", b"text", b"\xfd7zXZ\0 and no more", b"\x28\xb5\x2f\xfd\0"):
            path = self.file("modules/overlay.ko", content)
            outcome = self.run_volt("kernel", "import", self.kernel, "--name", "k", "--modules",
                                    str(self.tree))
            self.assertIn(outcome.code, (5, 7), str(outcome))
            self.assertIn(path, outcome.err)
        self.refused(3, "kernel", "import", self.kernel, "--name", "k", "--modules",
                     str(self.folder / "none"), saying="none")
        self.assertEqual(self.names(), [])


class StoreTest(KernelTest):
    def test_looking_makes_nothing(self):
        self.assertEqual(self.names(), [])
        self.assertIn("volt kernel fetch", self.ok("kernel", "ls"))
        self.refused(3, "kernel", "rm", "k", saying="'k'")
        self.assertFalse(self.data.exists())

    def test_the_one_added_last_is_the_default(self):
        for name in ("b", "c", "a"):
            self.import_it(name)
        items = self.document("kernel", "ls")["items"]
        self.assertEqual([(item["name"], item["default"]) for item in items],
                         [("a", True), ("b", False), ("c", False)])
        lines = self.ok("kernel", "ls").splitlines()
        self.assertTrue(lines[1].startswith("* a"))
        self.assertIn(VERSION, lines[2])
        self.assertEqual(self.document("kernel", "rm", "a")["removed"], ["a"])
        items = self.document("kernel", "ls")["items"]
        self.assertEqual([(item["name"], item["default"]) for item in items],
                         [("b", False), ("c", True)])
        self.assertEqual(self.ok("kernel", "rm", "b", "c"), "removed b\nremoved c\n")
        self.assertEqual(self.left_behind(), [])

    def test_a_boot_without_its_files_says_where_they_are(self):
        for words in (("run",), ("snapshot", "create", "--name", "a")):
            error = self.refused(3, *words, "--kernel", "trixie", saying="trixie")
            self.assertEqual(error["fix"], ["volt kernel ls"])

    def test_an_import_that_could_not_be_meant(self):
        self.refused(2, "kernel", "import", self.kernel, "--name", "latest", saying="latest")
        self.refused(3, "kernel", "import", self.kernel, "--name", "k", "--modules",
                     str(self.folder), saying="no module of " + VERSION)
        self.assertEqual(self.names(), [])

    def test_files_that_cannot_be_booted_are_told_apart(self):
        kernel, empty = self.file("kernel", vmlinux()), self.file("empty", b"")
        folder = str(self.folder)
        for code, words, saying, fix in (
                (7, f"--kernel {self.file('words', b'no kernel')}", "neither", "volt kernel ls"),
                (7, f"--kernel {empty}", "empty", "volt kernel ls"),
                (2, f"--kernel {folder}", f"{folder} is a directory", "volt run --help"),
                (7, f"--kernel {kernel} --initrd {empty}", "empty", "volt run --help"),
                (3, f"--kernel {kernel} --initrd {folder}/none", "none", "volt run --help"),
                (1, f"--kernel {kernel} --initrd {'n' * 300}", "too long", "volt run --help")):
            with self.subTest(words=words):
                error = self.refused(code, "run", *words.split(), "--", "true", saying=saying)
                self.assertEqual(error["fix"], [fix])

    def test_a_command_that_cannot_be_comes_before_the_boot(self):
        kernel = self.file("kernel", vmlinux(code=b"\xeb\xfe"))
        for words, saying in ((("--env", "FOO", "--", "true"), "no NAME=VALUE"),
                              (("--", ""), "no program")):
            error = self.refused(2, "run", "--kernel", str(kernel), "--timeout", "60", *words,
                                 saying=saying)
            self.assertNotIn("CPU 0", error["message"])

    def test_one_that_is_not_there_names_those_that_are(self):
        self.import_it("here")
        self.assertEqual(self.document("snapshot", "verify")["strays"], [])
        error = self.refused(3, "kernel", "rm", "there", saying="here")
        self.assertEqual(error["fix"], ["volt kernel ls"])

    def test_a_damaged_one_is_listed_and_can_go(self):
        self.import_it("good")
        self.import_it("bad")
        about = self.data / "kernels" / "bad" / "about.json"
        for content in ("", "[]", "{}", '{"schema": 5}', '{"schema": "volt.kernel/v2"}', "\xff"):
            about.chmod(0o644)
            about.write_text(content, encoding="latin-1")
            bad, good = self.document("kernel", "ls")["items"]
            self.assertIn("about.json", bad["error"])
            self.assertTrue(good["default"])
            self.assertIn("damaged", self.ok("kernel", "ls"))
        self.ok("kernel", "rm", "bad")
        self.assertEqual(self.names(), ["good"])

    def test_what_a_killed_command_left_is_no_kernel_and_goes(self):
        self.import_it("k")
        left = self.data / "kernels" / ".draft-1-0123456789abcdef"
        (left / "modules").mkdir(parents=True)
        (left / "kernel").write_bytes(vmlinux())
        self.assertEqual(self.names(), ["k"])
        self.refused(2, "kernel", "rm", left.name, saying="kernel name")
        self.import_it("l")
        self.assertFalse(left.exists())


class FetchTest(KernelTest):
    """Programs of the package manager's names, which do what they would."""

    def setUp(self):
        super().setUp()
        self.programs = self.folder / "programs"
        self.package = self.folder / "package"
        self.file(f"package/boot/vmlinuz-{VERSION}", bz_image(gzip.compress(vmlinux())))
        self.file(f"package/lib/modules/{VERSION}/kernel/virtio_blk.ko", module())
        self.pretend("apt-cache", f'echo "$2"; echo "  Depends: {PACKAGE}"')
        self.pretend("apt-get", f'[ "$3" = {PACKAGE} ] || {{ echo "E: Unable to locate package"; '
                     'exit 100; }\necho "$LC_ALL" >"$3_1.0_amd64.deb"')
        self.pretend("dpkg-deb", f'[ "$(cat $2)" = C ] && cp -r {self.package} "$3"')
        self.env["PATH"] = f"{self.programs}:{os.environ['PATH']}"

    def pretend(self, name, script):
        path = self.file(f"programs/{name}", f"#!/bin/sh\n{script}\n".encode())
        os.chmod(path, 0o755)

    def test_the_latest_and_a_version(self):
        for words in ((), ("latest",), (VERSION,), (PACKAGE,)):
            document = self.document("kernel", "fetch", *words)
            self.assertTrue(document["added"])
            self.assertEqual((document["name"], document["version"], document["source"]),
                             (VERSION, VERSION, f"{PACKAGE}_1.0_amd64.deb"))
            self.assertEqual(module_names(document), ["virtio_blk"])
            self.assert_no_drafts()
            self.pretend("apt-get", "exit 1")
            self.assertFalse(self.document("kernel", "fetch", *words)["added"])
            self.pretend("apt-get", 'echo "$LC_ALL" >"$3_1.0_amd64.deb"')
            self.ok("kernel", "rm", VERSION)

    def test_progress_is_on_stderr(self):
        outcome = self.run_volt("kernel", "fetch", env={"VOLT_PROGRESS": "1"})
        self.assertEqual(outcome.code, 0, str(outcome))
        self.assertIn(PACKAGE, outcome.err)
        self.assertTrue(outcome.out.startswith(f"added {VERSION}"))

    def test_modules_may_be_in_usr(self):
        (self.package / "usr").mkdir()
        (self.package / "lib").rename(self.package / "usr" / "lib")
        self.assertEqual(module_names(self.document("kernel", "fetch")), ["virtio_blk"])

    def test_without_apt_a_file_is_the_way(self):
        self.env["PATH"] = str(self.folder)
        error = self.refused(6, "kernel", "fetch", saying="apt-cache")
        self.assertIn("volt kernel import", error["fix"][0])
        self.refused(6, "kernel", "fetch", VERSION, saying="apt-get")

    def test_a_package_nobody_knows_is_not_found(self):
        error = self.refused(3, "kernel", "fetch", "1.2.3", saying="linux-image-1.2.3")
        self.assertIn("apt-get update", error["fix"][0])
        for script in ("exit 100", "echo nothing"):
            self.pretend("apt-cache", script)
            self.refused(3, "kernel", "fetch", saying="linux-image-cloud")
        for version in ("../x", "-o", "a b", ""):
            if version != "-o":
                self.refused(2, "kernel", "fetch", version, saying="kernel name")

    def test_failures_say_what_the_program_said(self):
        self.pretend("apt-get", "echo E: no network >&2; echo; exit 100")
        self.refused(1, "kernel", "fetch", saying="E: no network")
        self.pretend("apt-get", "exit 0")
        self.refused(1, "kernel", "fetch", saying="no package")
        self.pretend("apt-get", "kill -9 $$")
        self.refused(1, "kernel", "fetch", saying="apt-get download")
        self.pretend("apt-get", "touch x.deb")
        self.pretend("dpkg-deb", "echo corrupt; exit 2")
        self.refused(1, "kernel", "fetch", saying="corrupt")
        self.pretend("dpkg-deb", "mkdir $3")
        self.refused(3, "kernel", "fetch", saying="vmlinuz")
        self.assertEqual(self.names(), [])
        self.assert_no_drafts()

    def test_two_at_once_both_succeed(self):
        runs = [self.start("kernel", "fetch", "--json") for _ in range(4)]
        for run in runs:
            out, err = run.communicate(timeout=volt_cli.PATIENCE)
            self.assertEqual(run.returncode, 0, err)
            self.assertEqual(json.loads(out)["name"], VERSION)
        self.assertEqual(self.names(), [VERSION])
        self.assert_no_drafts()

    def wait_in_apt(self):
        """A fetch that is in the middle of its download, for as long as one likes."""
        started, release = (self.folder / name for name in ("started", "release"))
        os.mkfifo(started)
        os.mkfifo(release)
        self.addCleanup(lambda: os.close(os.open(release, os.O_RDWR)))
        self.pretend("apt-get", f"echo half >x.deb; echo >{started}; exec cat {release}")
        run = self.start("kernel", "fetch")
        started.read_text()
        return run

    def test_a_stopped_fetch_leaves_nothing(self):
        run = self.wait_in_apt()
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=volt_cli.PATIENCE)
        self.assertEqual(run.returncode, 128 + signal.SIGTERM)
        self.assertEqual(self.names(), [])
        self.assert_no_drafts()

    def test_what_a_killed_fetch_leaves_is_no_kernel_and_goes(self):
        run = self.wait_in_apt()
        run.kill()
        run.communicate(timeout=volt_cli.PATIENCE)
        self.assertEqual(self.names(), [])
        self.assertEqual(len(list((self.data / "kernels").iterdir())), 1)
        self.import_it("k")
        self.assertEqual(self.names(), ["k"])
        self.assert_no_drafts()


if __name__ == "__main__":
    volt_cli.main(needs_kvm=False)
