#!/usr/bin/env python3
"""volt-init as process 1: of a PID namespace with a root of its own, which stands for a guest.

Gets the path of volt-init. It must be root and have unshare(1) and control groups of version 2, or
it exits 77: skipped. Its mounts are in a namespace of their own and go away with it.
"""

import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

SKIPPED = 77
PATIENCE = 120  # seconds
VERSION = 3
EXEC, STDIN_EOF, FREEZE, RESUME, SHUTDOWN = 1, 3, 6, 7, 8
READY, STARTED, STDOUT, STDERR, CREDIT, EXITED, FROZEN, RESUMED, FAILED = range(257, 266)

init = ""  # the program's path


def hierarchy():
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2":
            return pathlib.Path(path)
    return None


def fault():
    if os.geteuid() != 0:
        return "not root"
    if None in map(shutil.which, ("unshare", "setpriv")) or not pathlib.Path("/bin").is_symlink():
        return "no unshare or setpriv, or /bin is not in /usr"
    probe = subprocess.run(["unshare", "--pid", "--mount", "--uts", "--net", "--fork", "true"],
                           check=False, capture_output=True, text=True)
    if probe.returncode != 0:
        return probe.stderr.strip()
    group = hierarchy()
    if group is None:
        return "no control groups, version 2"
    try:
        probe = group / f"volt-probe-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return str(error)
    return ""


class Guest:
    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="volt-root-"))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.root], check=True)
        for name in ("usr", "volt/services.d", "volt/modules", "etc", "var"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / name).symlink_to("usr/" + name)
        subprocess.run(["mount", "--bind", "-o", "ro", "/usr", self.root / "usr"], check=True)
        shutil.copy(init, self.root / "volt/init")
        (self.root / "etc/hostname").write_text("from-a-file\n")
        self.group = hierarchy() / f"volt-init-test-{os.getpid()}"
        self.group.mkdir(exist_ok=True)
        self.process = None

    def service(self, name, text):
        path = self.root / "volt/services.d" / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    def start(self):
        """Its READY."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.root / "agent_1024"))
            listener.listen(1)
            listener.settimeout(PATIENCE)
            with open(self.root / "console", "wb") as console:
                # A RESUME that is late by a second would set the clock of this machine.
                self.process = subprocess.Popen(
                    ["setpriv", "--bounding-set=-sys_time", "unshare", "--pid", "--mount", "--uts",
                     "--net", "--fork", "--kill-child", "--root", self.root, "/volt/init",
                     "--serve", "/agent", "--cgroup", f"/sys/fs/cgroup/{self.group.name}",
                     "a-word-for-init"],
                    stdin=subprocess.DEVNULL, stdout=console, stderr=console)
            connection, _ = listener.accept()
            with connection:
                return Session(connection).receive()

    def session(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(self.root / "agent"))
        return Session(connection)

    def console(self):
        return (self.root / "console").read_text()

    def run(self, text):
        """What a shell of the guest wrote, and its code."""
        with self.session() as session:
            words = ["/", "sh", "-c", text]
            session.send(EXEC, struct.pack("<IIIIHHII", VERSION, 0, 0, 0, 0, 0, 3, 0) +
                         b"".join(word.encode() + b"\0" for word in words))
            session.send(STDIN_EOF)
            out = b""
            while True:
                kind, payload = session.receive()
                if kind in (STDOUT, STDERR):
                    out += payload
                if kind == EXITED:
                    return out.decode(), struct.unpack("<II", payload)[1]
                if kind == FAILED:
                    raise AssertionError(payload)

    def ask(self, kind, payload):
        with self.session() as session:
            session.send(kind, payload)
            return session.receive()

    def remove(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        (self.group / "cgroup.kill").write_text("1")
        for part in ("volt", "volt-agent", ""):
            subprocess.run(["timeout", "60", "sh", "-c",
                            'while [ -d "$1" ] && ! rmdir "$1" 2>/dev/null; do sleep 0.05; done',
                            "sh", self.group / part], check=True)
        subprocess.run(["umount", "-R", "-l", self.root], check=True)
        self.root.rmdir()


class Session:
    def __init__(self, connection):
        self.connection = connection

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def send(self, kind, payload=b""):
        self.connection.sendall(struct.pack("<II", len(payload), kind) + payload)

    def read(self, count):
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def receive(self):
        length, kind = struct.unpack("<II", self.read(8))
        return kind, self.read(length)


class InitTest(unittest.TestCase):
    def setUp(self):
        self.guest = Guest()
        self.addCleanup(self.guest.remove)

    def shut_down(self, flags=0, grace_ms=2000):
        """The signal by which the kernel ends a namespace whose init asked for its end."""
        with self.guest.session() as session:
            session.send(SHUTDOWN, struct.pack("<III", VERSION, flags, grace_ms))
            with self.assertRaises(EOFError):
                session.receive()
        return -self.guest.process.wait(PATIENCE)

    def test_it_prepares_the_guest(self):
        kind, payload = self.guest.start()
        self.assertEqual(kind, READY, self.guest.console())
        self.assertEqual(struct.unpack("<IIQ", payload)[:2], (VERSION, 0))
        out, code = self.guest.run("uname -n; echo $$ > /tmp/x; cat /proc/1/comm; "
                                   "cat /sys/class/net/lo/operstate; ls -d /dev/pts/ptmx")
        self.assertEqual((out, code), ("from-a-file\ninit\nunknown\n/dev/pts/ptmx\n", 0))
        mounts = self.guest.run("cut -d' ' -f2,3 /proc/mounts")[0].splitlines()
        for wanted in ("/proc proc", "/sys sysfs", "/dev devtmpfs", "/dev/pts devpts",
                       "/dev/shm tmpfs", "/run tmpfs", "/tmp tmpfs", "/sys/fs/cgroup cgroup2"):
            self.assertIn(wanted, mounts)

    def test_it_collects_orphans(self):
        self.guest.start()
        self.guest.run("for i in 1 2 3 4 5 6 7 8; do (true &); done; (sleep 0.1 &)")
        self.guest.run("while grep -q sleep /proc/[0-9]*/comm; do :; done")
        states, _ = self.guest.run("cat /proc/[0-9]*/stat 2>/dev/null | cut -d' ' -f2,3")
        self.assertNotIn("Z", states, "zombies")

    def test_it_freezes_and_resumes(self):
        self.guest.service("tick.notify", "echo > /ticks; echo up >&$VOLT_READY_FD\n"
                                          "while :; do echo >> /ticks; done")
        self.guest.start()
        ticks = self.guest.root / "ticks"
        kind, payload = self.guest.ask(FREEZE, struct.pack("<III", VERSION, 0, 60000))
        self.assertEqual(kind, FROZEN, payload)
        before = ticks.stat().st_size
        select.select([], [], [], 0.05)
        self.assertEqual(ticks.stat().st_size, before)
        # The agent of tests may set no clock, and one that was told late is ahead of the host's.
        payload = b"ahead"
        while b"ahead" in payload:
            asked_ns = time.time_ns()
            kind, payload = self.guest.ask(RESUME, struct.pack(
                "<II16s64sQQQ", VERSION, 60000, bytes(range(16)), os.urandom(64), asked_ns, 0,
                0) + b"again\0")
        self.assertEqual(kind, RESUMED, payload)
        step_ns, resumed, thawed_ns, answered_ns = struct.unpack("<qQQQ", payload)
        self.assertEqual((step_ns, resumed), (0, 1))
        self.assertTrue(asked_ns <= thawed_ns <= answered_ns <= time.time_ns())
        self.assertEqual(self.guest.run("uname -n; cat /run/volt/generation")[0],
                         "again\n000102030405060708090a0b0c0d0e0f 1\n")

    def test_shutdown_lets_processes_end(self):
        wait = "echo up >&$VOLT_READY_FD\nwhile :; do sleep 1; done"
        self.guest.service("gentle.notify", "trap 'echo gone > /gone; exit' TERM\n" + wait)
        self.guest.service("stubborn.notify", "trap '' TERM\n" + wait)
        self.guest.start()
        self.assertEqual(self.shut_down(grace_ms=3000), signal.SIGINT, "switched off")
        self.assertEqual((self.guest.root / "gone").read_text(), "gone\n")
        self.assertIn("volt-init: switching off\n", self.guest.console())

    def test_shutdown_can_restart(self):
        self.guest.start()
        self.assertEqual(self.shut_down(flags=1), signal.SIGHUP, "restarted")

    def test_signals_of_the_guest_end_it(self):
        self.guest.start()
        with self.assertRaises(EOFError):
            self.guest.run("kill -USR2 1; sleep 1000")
        self.assertEqual(-self.guest.process.wait(PATIENCE), signal.SIGINT, "switched off")

    def test_a_guest_with_nothing_in_it_comes_up(self):
        shutil.rmtree(self.guest.root / "volt/modules")
        (self.guest.root / "etc/hostname").unlink()
        (self.guest.root / "volt/services.d").rmdir()
        self.assertEqual(self.guest.start()[0], READY)

    def test_nothing_it_is_sent_ends_it(self):
        self.guest.start()
        for size in (0, 1, 7, 8, 9, 100, 5000, 70000):
            for seed in (b"\0", b"\xff", b"\1\0\0\0"):
                with self.guest.session() as session:
                    try:
                        session.connection.sendall((seed * size)[:size])
                    except OSError:
                        pass
        self.assertEqual(self.guest.run("echo here")[0], "here\n")


class AgentTest(unittest.TestCase):
    """Under another init, where it is a service among others."""

    def test_a_signal_ends_the_agent_and_not_the_guest(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="volt-agent-"))
        self.addCleanup(shutil.rmtree, folder)
        for name in ("reboot", "poweroff"):
            (folder / name).write_text(f"#!/bin/sh\n: > {folder}/ran\n")
            (folder / name).chmod(0o755)
        group = hierarchy() / f"volt-agent-test-{os.getpid()}"
        group.mkdir()
        with open(folder / "console", "wb") as console:
            agent = subprocess.Popen(
                [init, "--agent", "--cgroup", group], env={"PATH": str(folder)},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        deadline = time.monotonic() + PATIENCE
        members = group / "volt-agent/cgroup.procs"
        # From its group on it has its signals.
        while agent.poll() is None and time.monotonic() < deadline:
            if members.exists() and members.read_text():
                break
            select.select([], [], [], 0.005)
        agent.terminate()
        code = agent.wait(PATIENCE)
        for part in ("volt", "volt-agent", ""):
            (group / part).rmdir()
        if code == 1:
            self.skipTest((folder / "console").read_text())  # no vsock here
        self.assertEqual(code, 0, (folder / "console").read_text())
        self.assertFalse((folder / "ran").exists())


def main():
    global init
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} PATH-OF-VOLT-INIT [TESTS]")
    why = fault()
    if why:
        print(f"cannot stand for a guest: {why}")
        sys.exit(SKIPPED)
    if os.environ.get("VOLT_INIT_TEST") != "inside":
        os.environ["VOLT_INIT_TEST"] = "inside"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-B", *sys.argv])
    init = os.path.abspath(sys.argv.pop(1))
    unittest.main()


if __name__ == "__main__":
    main()
