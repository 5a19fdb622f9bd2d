"""Runs plain-text tests of the command line.

usage: run.py UNIGRPO DATA FILE.test...    UNIGRPO: the binary; DATA: tests/data

A test file, each in a fresh working folder of its own:

    # A comment.
    file shapes.toml        writes a file: the indented lines that follow
      [run]
    $ unigrpo recipe shapes.toml --set run.name=a      a command; {data} stands for DATA
    exit 2                                             its exit code (0 where not said)
    stderr unigrpo: no such key                        a line of stderr holds this text
    stdout kind                                        a line of stdout holds this text
    no stdout                                          nothing on stdout (or stderr)
    one stderr                                         exactly one line on stderr (or stdout)
    writes out/*.jsonl                                 the command may leave these files; any other new, changed
                                                       or missing file is a failure
"""

import fnmatch
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

TIMEOUT_S = 120  # under the sanitizers, on a busy machine


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def blocks_of(path):
    """Yields (line number, words, lines): one block a command or file, with the lines that belong to it."""
    current = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith(("$ ", "file ")):
            if current:
                yield current
            current = (number, line, [])
        elif line.startswith("  ") and current and current[1].startswith("file "):
            current[2].append(line[2:])
        elif line.strip() and not line.startswith("#"):  # a check
            if not current or current[1].startswith("file "):
                raise SystemExit(f"{path}:{number}: stands under no command")
            current[2].append(line)
    if current:
        yield current


def problems_of(result, checks, new_files):
    """Yields what the checks of one command find wrong with its result."""
    streams = {"stdout": result.stdout, "stderr": result.stderr}
    code, patterns = 0, []
    for check in checks:
        word, _, rest = check.partition(" ")
        if word == "exit":
            code = int(rest)
        elif word in streams:
            if not any(rest in line for line in streams[word].splitlines()):
                yield f"{word} has no line with: {rest}"
        elif word == "no":
            if streams[rest]:
                yield f"{rest} is not empty"
        elif word == "one":
            if len(streams[rest].splitlines()) != 1:
                yield f"{rest} is not one line"
        elif word == "writes":
            patterns.append(rest)
        else:
            yield f"unknown check: {check}"
    if result.returncode != code:
        yield f"exit code {result.returncode}, expected {code}"
    for name in new_files:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            yield f"wrote or changed {name}"
    for pattern in patterns:
        if not fnmatch.filter(new_files, pattern):
            yield f"did not write {pattern}"


def run_file(binary, data, path):
    """Runs one test file; returns the number of commands and prints what is wrong."""
    commands = failures = 0
    with tempfile.TemporaryDirectory(prefix="unigrpo-cli-") as folder:
        folder = pathlib.Path(folder)
        for number, line, lines in blocks_of(path):
            if line.startswith("file "):
                target = folder / line.split()[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text("\n".join(lines) + "\n", encoding="utf-8")
                continue
            words = [word.replace("{data}", data) for word in shlex.split(line[2:])]
            if words[0] != "unigrpo":
                raise SystemExit(f"{path}:{number}: only unigrpo is run")
            before = contents(folder)
            result = subprocess.run([binary, *words[1:]], cwd=folder, capture_output=True, text=True,
                                    stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, errors="replace")
            after = contents(folder)
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            commands += 1
            found = list(problems_of(result, lines, changed))
            if found:
                failures += 1
                print(f"{path.name}:{number}: {line}")
                for problem in found:
                    print(f"    {problem}")
                print(f"    stdout: {result.stdout[:2000]!r}\n    stderr: {result.stderr[:4000]!r}")
    return commands, failures


def main():
    binary, data, *files = sys.argv[1:]
    commands = failures = 0
    for name in files:
        ran, failed = run_file(os.path.abspath(binary), os.path.abspath(data), pathlib.Path(name))
        commands += ran
        failures += failed
    print(f"{commands - failures} passed, {failures} failed")
    raise SystemExit(1 if failures or not commands else 0)


if __name__ == "__main__":
    main()
