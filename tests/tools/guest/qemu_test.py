#!/usr/bin/env python3
"""Boots the built-in guest through its other door: PVH under QEMU, asked over the serial port.

QEMU emulates the whole machine (TCG), so this is a second opinion on page tables, descriptors and
port rights, and needs no /dev/kvm. Answers are checked against values computed here from the seed.

    qemu_test.py VMICRO
"""

import os
import shutil
import subprocess
import sys
import threading
import unittest

QEMU = "qemu-system-x86_64"
HANG_SECONDS = 120  # far beyond any boot: only ends a hang
SKIP = 77
MASK = (1 << 64) - 1
SEED = 42
WORKING_SET = 1 << 20
PAGE_WORDS = 512

OK, UNKNOWN_FUNCTION, BAD_ARGUMENTS = 0, 1, 2
HEALTH, ECHO, GET, PUT, SCAN, TOUCH, WRITE, RANDOM, NOW, ASK_HOST, SPIN, CRASH = range(1, 13)
# guest_abi::CrashKind -> the vector it must raise
CRASHES = {1: 6, 2: 14, 3: 0, 4: 14, 5: 14, 6: 14}
QUIT_CODE = 32


def seeded_word(seed, index):
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def checksum(words):
    lanes = [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89]
    for i, word in enumerate(words):
        lanes[i & 3] = ((lanes[i & 3] ^ word) * 0x9FB21C651E98DF25) & MASK
    total = len(words)
    for lane in lanes:
        total = seeded_word(total ^ lane, 0)
    return total


def page(number, seed=SEED):
    return [seeded_word(seed, number * PAGE_WORDS + i) for i in range(PAGE_WORDS)]


class Machine:
    """One QEMU that runs the guest; `with` ends it."""

    def __init__(self, options):
        self.process = subprocess.Popen(
            [QEMU, "-M", "microvm,isa-serial=on,rtc=off,auto-kernel-cmdline=off",
             "-accel", "tcg", "-cpu", "max", "-m", "64M", "-nodefaults", "-no-user-config",
             "-display", "none", "-no-reboot", "-serial", "stdio",
             "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
             "-kernel", sys.argv[1], "-append", options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.watchdog = threading.Timer(HANG_SECONDS, self.process.kill)
        self.watchdog.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.watchdog.cancel()
        self.process.stdin.close()
        self.process.stdout.close()

    def line(self):
        return self.process.stdout.readline().strip()

    def send(self, *words):
        self.process.stdin.write(" ".join(f"{word:x}" for word in words) + "\n")

    def call(self, *words):
        """(status, checksum, words summed, data)"""
        self.send(*words)
        answer = self.line().split()
        if answer[:1] != ["ok"]:
            raise AssertionError(f"answer to {words}: {answer}")
        numbers = [int(word, 16) for word in answer[1:]]
        return (*numbers[:3], numbers[3:])

    def exit_code(self):
        """What the guest wrote to isa-debug-exit; QEMU exits with twice that plus one."""
        return (self.process.wait() - 1) / 2


def booted(options):
    machine = Machine(options)
    line = machine.line().split()
    if line[:2] != ["VMICRO", "READY"] or int(line[2], 16) == 0:
        machine.__exit__()
        raise AssertionError(f"first line: {line}")
    return machine


class KvWorkload(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = booted(f"workload=kv ws=1M seed={SEED}")

    @classmethod
    def tearDownClass(cls):
        cls.machine.__exit__()

    def check(self, request, read, data):
        self.assertEqual(self.machine.call(*request), (OK, checksum(read), len(read), data))

    def test_echo_returns_and_sums_its_arguments(self):
        for count in (0, 1, 3, 4, 5, 8):
            words = [seeded_word(7, i) for i in range(count)]
            self.check((ECHO, *words), words, words)

    def test_get_returns_the_seeded_value_of_the_first_and_the_last_record(self):
        for record in (0, WORKING_SET // 16 - 1):
            words = [seeded_word(SEED, 2 * record), seeded_word(SEED, 2 * record + 1)]
            self.check((GET, record), words, words[1:])

    def test_put_returns_the_old_value_and_keeps_the_new_one(self):
        key, value = seeded_word(SEED, 512), seeded_word(SEED, 513)
        self.check((PUT, 256, 0xABCDEF), [key, value], [value])
        self.check((GET, 256), [key, 0xABCDEF], [0xABCDEF])

    def test_scan_sums_whole_pages(self):
        self.check((SCAN, 100, 3), page(100) + page(101) + page(102), [])
        self.check((SCAN, 256, 0), [], [])

    def test_touch_adds_one_to_word_1_of_each_page(self):
        self.check((TOUCH, 7, 9, 7), [page(7)[0], page(9)[0], page(7)[0]], [])
        touched = page(7)
        touched[1] = (touched[1] + 2) & MASK
        self.check((SCAN, 7, 1), touched, [])

    def test_write_makes_pages_of_another_seed(self):
        written = page(20, 99) + page(21, 99)
        self.check((WRITE, 20, 2, 99), written, [])
        self.check((SCAN, 20, 2), written, [])

    def test_health_reads_the_first_page_and_counts_calls(self):
        first = self.machine.call(HEALTH)
        second = self.machine.call(HEALTH)
        self.assertEqual(first[:3], (OK, checksum(page(0)), PAGE_WORDS))
        self.assertEqual(first[3][2], WORKING_SET)
        self.assertEqual(second[3][3], first[3][3] + 1)
        self.assertNotEqual(second[3][4], first[3][4])
        self.assertEqual(first[3][5], 2)

    def test_random_differs_from_call_to_call(self):
        seen = {word for _ in range(4) for word in self.machine.call(RANDOM, 64)[3]}
        self.assertEqual(len(seen), 32)

    def test_nothing_beyond_the_working_set_is_touched(self):
        for request in ((GET, WORKING_SET // 16), (PUT, WORKING_SET // 16, 1), (SCAN, 255, 2),
                        (SCAN, 2, MASK), (TOUCH, 3, 256), (WRITE, 256, 1, 1), (RANDOM, 1025)):
            self.assertEqual(self.machine.call(*request)[0], BAD_ARGUMENTS, request)
        self.check((SCAN, 3, 1), page(3), [])

    def test_wrong_argument_counts_and_functions_are_refused(self):
        for request in ((HEALTH, 1), (GET,), (PUT, 1), (SCAN, 1), (WRITE, 1, 1), (NOW, 1), (CRASH,),
                        (SPIN, 1), (CRASH, 8)):
            self.assertEqual(self.machine.call(*request)[0], BAD_ARGUMENTS, request)
        for function in (ASK_HOST, 13, 0xFFFFFFFF):
            self.assertEqual(self.machine.call(function)[0], UNKNOWN_FUNCTION, function)


class Lives(unittest.TestCase):
    def test_quit_ends_the_machine(self):
        with booted("workload=echo") as machine:
            machine.process.stdin.write("quit\n")
            self.assertEqual(machine.exit_code(), QUIT_CODE)

    def test_each_crash_raises_its_vector(self):
        for kind, vector in CRASHES.items():
            with self.subTest(kind=kind), booted("workload=echo") as machine:
                machine.send(CRASH, kind)
                self.assertEqual(machine.exit_code(), vector)

    def test_echo_has_no_working_set(self):
        with booted("workload=echo ws=1M") as machine:
            self.assertEqual(machine.call(SCAN, 0, 1)[0], BAD_ARGUMENTS)
            self.assertEqual(machine.call(HEALTH)[:3], (OK, checksum([]), 0))

    def test_auto_prints_a_rising_counter(self):
        with booted("workload=kv ws=1M auto=1 ch_dbg=1") as machine:
            self.assertEqual([machine.line() for _ in range(2)],
                             ["VMICRO TICK 0", "VMICRO TICK 1"])

    def test_a_working_set_larger_than_memory_is_refused(self):
        with Machine("workload=kv ws=64M") as machine:
            self.assertEqual(machine.line(), "VMICRO BAD OPTIONS")
            self.assertEqual(machine.exit_code(), QUIT_CODE)


if __name__ == "__main__":
    if shutil.which(QEMU) is None:
        print(f"{QEMU} is not installed")
        sys.exit(1 if os.environ.get("VOLT_REQUIRE_KVM") == "1" else SKIP)
    unittest.main(argv=sys.argv[:1])
