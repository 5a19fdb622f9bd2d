"""What the end-to-end and fault tests share: the tiny recipe, the binary, a run folder's contents."""

import json
import os
import pathlib
import struct
import subprocess
import zlib

TIMEOUT_S = 600  # a run takes a second; this is for a busy machine
UNSTEADY = ("time/", "throughput/", "memory/", "parallel/")  # metrics that say how fast, not what

RECIPE = """
[run]
name = "tiny"
num_steps = {num_steps}
threads = 1
[policy]
model = "{model}"
[data]
prompts = "prompts.jsonl"
[rollout]
image_size = {image_size}
num_steps = 4
max_tokens = 6
[rollout.window]
width = 2
[grpo]
prompts_per_step = 2
group_size = 3
[[rewards]]
kind = "saturation"
[optim]
lr = 1e-3
[checkpoint]
every = 1
keep_last = 2
[monitor]
sample_every = 2
num_samples = 2
"""

PROMPTS = [
    {"prompt": "a red circle", "tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}]},
    {"prompt": "two squares", "tag": "counting", "include": [{"class": "square", "count": 2}]},
    {"prompt": "a star", "tag": "single_object", "include": [{"class": "star", "count": 1}]},
    {"prompt": "a blue triangle and a star", "tag": "two_object",
     "include": [{"class": "triangle", "count": 1, "color": "blue"}, {"class": "star", "count": 1}]},
]


def write_inputs(folder, data, num_steps=4, extra="", image_size=64):
    """Puts tiny.toml and prompts.jsonl into `folder`. data: tests/data."""
    folder = pathlib.Path(folder)
    (folder / "tiny.toml").write_text(RECIPE.format(model=f"{data}/bagel_tiny", num_steps=num_steps, image_size=image_size) + extra)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))


def command(binary, *arguments):
    return [binary, *map(str, arguments)]


def environment(fault=""):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("UNIGRPO_FAULT", None)
    if fault:
        env["UNIGRPO_FAULT"] = fault
    return env


def run(binary, *arguments, cwd, fault=""):
    return subprocess.run(command(binary, *arguments), cwd=cwd, env=environment(fault), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)


def files_in(folder):
    """Relative paths; TensorBoard's names hold the time and lock files the process, so these are left out."""
    folder = pathlib.Path(folder)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                  if path.is_file() and path.name != ".lock" and "tfevents" not in path.name)


def contents_of(folder):
    folder = pathlib.Path(folder)
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def metrics_of(run_folder, steady=True):
    """Rows of metrics.jsonl, without what depends on the clock."""
    rows = [json.loads(line) for line in (pathlib.Path(run_folder) / "metrics.jsonl").read_text().splitlines()]
    if not steady:
        return rows
    return [{key: value for key, value in row.items() if not key.startswith(UNSTEADY)} for row in rows]


def differences(run_folder, reference):
    """Yields what two finished runs of one recipe have not in common: files, weights, metrics, samples."""
    run_folder, reference = pathlib.Path(run_folder), pathlib.Path(reference)
    found, wanted = set(files_in(run_folder)), set(files_in(reference))
    if found != wanted:
        yield f"files: only here {sorted(found - wanted)}, only there {sorted(wanted - found)}"
    for name in sorted(found & wanted):
        steady = name.endswith((".safetensors", ".png", "recipe.toml", "state.json", "manifest.json")) or \
            name.startswith(("final/", "samples/"))
        if steady and (run_folder / name).read_bytes() != (reference / name).read_bytes():
            yield f"{name} differs"
    if metrics_of(run_folder) != metrics_of(reference):
        yield "metrics.jsonl differs"


def red_square(size=64):
    """A PNG."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = b"".join(b"\0" + bytes((200, 40, 40)) * size for _ in range(size))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def read_png(path):
    """(width, height, RGB bytes) of an 8-bit RGB PNG."""
    data = pathlib.Path(path).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    at, packed, width, height = 8, b"", 0, 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", body)
            assert (depth, color, interlace) == (8, 2, 0), path
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, stride, rows = zlib.decompress(packed), width * 3, []
    above = bytes(stride)
    for y in range(height):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for x in range(stride):
            left, up, corner = line[x - 3] if x >= 3 else 0, above[x], above[x - 3] if x >= 3 else 0
            nearest = min((left, up, corner), key=lambda v: abs(left + up - corner - v))
            line[x] = (line[x] + (0, left, up, (left + up) // 2, nearest)[kind]) % 256
        above = bytes(line)
        rows.append(above)
    return width, height, b"".join(rows)
