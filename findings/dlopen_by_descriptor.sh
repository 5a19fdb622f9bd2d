#!/usr/bin/env bash
# glibc 2.36 (Debian 12)
#
# dlopen("/proc/self/fd/N") gives the library that was loaded first under that name, whatever N is open on now. The
# loader compares names before it opens anything, and a library keeps the name after its descriptor is closed; the
# system hands the number out again, so a second library from memory (memfd_create) is taken for the first: no error,
# the first one's code. Who loads from descriptors must keep each open as long as its library stays loaded.
#
# Seen:
#   first library: 1
#   second one, the first's descriptor closed and its number given out again (True): 1
#   second one, the first's descriptor still open: 2
#
# Needs gcc and python3, and no network. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

for number in 1 2; do
  echo "int number(void) { return $number; }" | gcc -x c -shared -fPIC -o "$number.so" -
done
python3 - <<'PY'
import ctypes
import os
import sys


def load(file):
    descriptor = os.memfd_create(file)
    with open(file, "rb") as library:
        os.write(descriptor, library.read())
    return descriptor, ctypes.CDLL(f"/proc/self/fd/{descriptor}").number()


def run(close):
    """The numbers of both libraries, in a process of its own, since what is loaded stays."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        first, one = load("1.so")
        if close:
            os.close(first)
        second, two = load("2.so")
        os.write(theirs, bytes([one, two, first == second]))
        os._exit(0)
    os.wait()
    return tuple(os.read(ours, 3))


closed, kept = run(True), run(False)
print(f"first library: {closed[0]}")
print(f"second one, the first's descriptor closed and its number given out again ({bool(closed[2])}): {closed[1]}")
print(f"second one, the first's descriptor still open: {kept[1]}")
sys.exit(0 if (closed, kept) == ((1, 1, 1), (1, 2, 0)) else 1)
PY
