#!/usr/bin/env python3
"""The house rules a machine can check: include direction, columns, length, banned calls, CMake.

Run without arguments from anywhere; prints one line per finding and exits 1 if there is any.
Lengths are a ratchet: a limit may go down, and a file or function over it must be split instead.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# folder -> folders whose headers it may include, besides its own
MAY_INCLUDE = {
    "vmm/os": set(),
    "formats": {"vmm/os"},
    "vmm": {"vmm/os"},
    "vmm/virtio": {"vmm/os", "vmm"},
    "vmm/pc": {"vmm/os", "vmm", "vmm/virtio"},
    "uffd": {"vmm/os"},
    "snapshot": {"vmm/os", "formats", "vmm", "vmm/pc", "vmm/virtio", "uffd"},
    "tools": {"vmm/os", "formats", "vmm", "vmm/pc", "vmm/virtio", "snapshot", "bench"},
    "tests": {"vmm/os", "formats", "vmm", "vmm/pc", "vmm/virtio", "uffd", "snapshot", "tools",
              "bench"},
    "bench": {"vmm/os", "formats", "vmm", "vmm/pc", "vmm/virtio", "uffd", "snapshot", "tools"},
}
# narrower than their folder: file or folder prefix -> the only headers of ours it may include
ONLY = {
    "bench/floor": {"bench/floor.h"},
    "tools/guest/init/": {"vmm/agent_abi.h", "vmm/os/fd.h", "tools/guest/init/"},
    "tools/guest/": {"vmm/guest_abi.h", "tools/guest/"},
    "vmm/guest_abi.h": set(),
    "vmm/agent_abi.h": set(),
}
# formats/ is pure; of the system leaves it knows only the error type.
FORMATS_OS = {"vmm/os/error.h"}

MAX_COLUMNS = 100
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 400

BANNED = [
    (r"\bsprintf\(", "snprintf"),
    (r"\bstrcpy\(|\bstrcat\(", "std::string or memcpy with a length"),
    (r"\batoi\(|\batol\(|\bstrtol\(", "std::from_chars"),
    (r"\bassert\(", "an Error; release builds drop asserts"),
    (r"\busleep\(|\bsleep_for\(", "wait for the event itself"),
    (r"std::unreachable|__builtin_unreachable", "a failing check"),
    (r"std::endl", "'\\n'"),
    (r"#include <linux/kvm\.h>", "vmm/kvm_abi.h (Debian 12's header is wrong in C++)"),
    (r"#include <iostream>", "cstdio; static iostreams cost start-up time"),
    (r"\busing namespace std\b", "names"),
]
BANNED_EXEMPT = {"vmm/kvm_abi.h", "bench/floor.cc"}

SOURCE = re.compile(r"\.(cc|h|S|py|proto)$|CMakeLists\.txt$")
INCLUDE = re.compile(r'^\s*#include "([^"]+)"')


def tracked_files():
    out = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        capture_output=True, text=True, check=False)
    if out.returncode == 0:
        names = out.stdout.splitlines()
    else:
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    return sorted(n for n in names if (ROOT / n).is_file() and not n.startswith("build"))


def folder_of(name):
    best = ""
    for folder in MAY_INCLUDE:
        if name.startswith(folder + "/") and len(folder) > len(best):
            best = folder
    return best


def check_includes(name, lines):
    folder = folder_of(name)
    if not folder:
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        if target.endswith(".pb.h"):
            if folder not in ("formats", "snapshot", "tests"):
                yield number, f"only formats and snapshot see protobuf messages ({target})"
            continue
        narrow = next((only for prefix, only in ONLY.items() if name.startswith(prefix)), None)
        if narrow is not None:
            if not any(target == a or (a.endswith("/") and target.startswith(a)) for a in narrow):
                yield number, f"{name} may not include {target}"
            continue
        to = folder_of(target)
        if not to:
            yield number, f'"{target}" is no header of ours; includes are root-relative'
        elif to != folder and to not in MAY_INCLUDE[folder]:
            yield number, f"{folder} may not include {to} ({target})"
        elif folder == "formats" and to == "vmm/os" and target not in FORMATS_OS:
            yield number, f"formats is pure and may not include {target}"


def check_lines(name, lines):
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield number, f"{len(line)} columns, at most {MAX_COLUMNS}"
        if line != line.rstrip():
            yield number, "trailing space"
        if "\t" in line:
            yield number, "tab"
        if not name.endswith((".cc", ".h")) or name in BANNED_EXEMPT:
            continue
        code = line.split("//")[0]
        for pattern, instead in BANNED:
            if re.search(pattern, code) and "static_assert" not in code:
                yield number, f"banned here: {pattern}; use {instead}"


def check_length(name, lines):
    if len(lines) > MAX_FILE_LINES:
        yield 1, f"{len(lines)} lines, at most {MAX_FILE_LINES}: split it by idea"
    if not name.endswith((".cc", ".h")):
        return
    start, opener = None, ""
    for number, line in enumerate(lines, 1):
        # A body at column 0 (or one level in, for methods written in class) opens with a line that
        # ends in '{' and closes with '}' at the same indent.
        match = re.match(r"^( {0,2})(?! )[^#/].*\)[^;]*\{$", line)
        if start is None and match and not re.match(
                r"^\s*(if|for|while|switch|namespace|struct|class|enum)\b", line):
            start, opener = number, match.group(1)
        elif start is not None and re.match(r"^" + opener + r"\}", line):
            if number - start + 1 > MAX_FUNCTION_LINES:
                yield start, f"function of {number - start + 1} lines, at most {MAX_FUNCTION_LINES}"
            start = None


def check_heads(name, lines):
    if not name.endswith(".h"):
        return
    if not lines or not lines[0].startswith("//"):
        yield 1, "a header starts with a comment that says its one idea"
    if not any(line == "#pragma once" for line in lines):
        yield 1, "#pragma once is missing"


def check_cmake(names):
    cmake = "\n".join((ROOT / n).read_text() for n in names if n.endswith("CMakeLists.txt"))
    for name in names:
        if name.endswith(("_test.cc", "_fuzz.cc")) and pathlib.PurePath(name).name not in cmake:
            yield name, 1, "is in no CMakeLists.txt, so it never runs"


def check_prose(names):
    for name in names:
        if name.endswith(".md"):
            for number, line in enumerate((ROOT / name).read_text().split("\n"), 1):
                if re.fullmatch(r"@[A-Z]+@", line):
                    yield name, number, "a figure was never filled in"


def main():
    names = [n for n in tracked_files() if SOURCE.search(n)]
    findings = list(check_cmake(names)) + list(check_prose(tracked_files()))
    for name in names:
        lines = (ROOT / name).read_text().split("\n")[:-1]
        for check in (check_includes, check_lines, check_length, check_heads):
            extra = (name, lines)
            findings += [(name, number, what) for number, what in check(*extra)]
    for name, number, what in findings:
        print(f"{name}:{number}: {what}")
    print(f"tidy: {len(names)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
