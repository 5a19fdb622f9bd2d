"""Starts the binary as several ranks, as a launcher would, and reads what two runs have in common."""

import array
import json
import os
import pathlib
import socket
import sys

import tiny_run
import warm_start


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(binary, size, *arguments, cwd, fault="", port=None, env=None, absent=()):
    """One process a rank, those that are absent apart; rank 0 comes first. cwd: of all, or a list of one each. env:
    variables beside a launcher's, a table for each rank."""
    port = port or free_port()
    folders = cwd if isinstance(cwd, list) else [cwd] * size
    ranks = []
    for rank in sorted(set(range(size)) - set(absent)):
        variables = {**tiny_run.environment(fault), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                     "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                     "OMP_WAIT_POLICY": "PASSIVE", **(env[rank] if env else {})}
        ranks.append(warm_start.popen(tiny_run.command(binary, *arguments), cwd=folders[rank], env=variables))
    return ranks


def finish(ranks):
    """[(exit code, stdout, stderr)], by rank. Nobody is left, whatever happens."""
    try:
        outputs = [rank.communicate(timeout=tiny_run.TIMEOUT_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *output) for rank, output in zip(ranks, outputs)]


def run(binary, size, *arguments, cwd, fault=""):
    """The same for one process (size 0), which is nobody's rank."""
    if size == 0:
        return finish([warm_start.popen(tiny_run.command(binary, *arguments), cwd=cwd, env=tiny_run.environment(fault))])
    return finish(start(binary, size, *arguments, cwd=cwd, fault=fault))


def tensors_in(path):
    """{name: array of floats} of a safetensors file of float32 (and bf16) tensors."""
    data = pathlib.Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        raw = data[8 + length + first:8 + length + last]
        if entry["dtype"] == "BF16":
            raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
        tensors[name] = array.array("f", raw) if entry["dtype"] in ("F32", "BF16") else raw
    return tensors


def part_of(checkpoint, part):
    """{name: array of floats} of a part of a checkpoint, whether one process wrote it or several ranks, in pieces."""
    checkpoint = pathlib.Path(checkpoint)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    if manifest["version"] == 1:
        return tensors_in(checkpoint / f"{part}.safetensors")
    files, tensors = {}, {}
    for name, stored in manifest["parts"][part].items():
        for piece in stored["pieces"]:
            if piece["file"] not in files:
                files[piece["file"]] = tensors_in(checkpoint / piece["file"])
            values = files[piece["file"]][f"{name}@{piece['first']}"]
            tensors[name] = tensors[name] + values if name in tensors else values
    return tensors


def distance(path, other):
    """|a - b| / |b| over all tensors of two files of one layout, or of two dictionaries of tensors."""
    a, b = (each if isinstance(each, dict) else tensors_in(each) for each in (path, other))
    assert a.keys() == b.keys(), (path, other)
    apart = size = 0.0
    for name, values in b.items():
        assert len(a[name]) == len(values), name
        apart += sum((x - y) ** 2 for x, y in zip(a[name], values))
        size += sum(y * y for y in values)
    return (apart / size) ** 0.5


def own_tests(case):
    """A module's load_tests: the tests of `case` without the inherited ones."""
    def load_tests(loader, _tests, _pattern):
        names = sorted(name for name in vars(case) if name.startswith("test_"))
        return loader.suiteClass(loader.loadTestsFromName(name, case) for name in names)
    return load_tests


def main(unittest, module):
    """usage: X_test.py UNIGRPO DATA [TEST ...]. Modules whose tests it borrows run the same binary."""
    for each in (module, *vars(module).values()):
        if hasattr(each, "BINARY"):
            each.BINARY, each.DATA = map(os.path.abspath, sys.argv[1:3])
    os.environ.pop("UNIGRPO_FAULT", None)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
