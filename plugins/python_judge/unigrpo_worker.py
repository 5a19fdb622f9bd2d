"""The worker's side of UniGRPO's reward protocol (docs/REWARD_PROTOCOL.md), standard library only.

    import unigrpo_worker

    def make(settings):                # the recipe's [rewards.settings], a dict
        def score(samples):            # a list of Sample; returns one score a sample
            return [float(len(sample.text())) for sample in samples]
        return score

    unigrpo_worker.serve(make, name="my_judge", batch_size=16)

A score is a number, a dict {dimension: number or None}, or a Score with reasons and notes. An exception makes the call's samples
go without a score, with the exception as reason. What is printed ends in the run's log.
"""

import json
import math
import mmap
import os
import struct

PROTOCOL = 1
CONTROL, MEMORY = 3, 4  # descriptors
FRAME = struct.Struct("<IIQQ")  # kind, sequence, offset, num_bytes
CONFIGURE, READY, SCORE, SCORES, FAILED = 1, 2, 3, 4, 5


class Image:
    """8-bit RGB. `pixels`: a memoryview of the shared memory, valid during the call; a row starts every `row_stride` bytes."""

    def __init__(self, memory, entry):
        self.width, self.height, self.row_stride = entry["width"], entry["height"], entry["row_stride"]
        self.pixels = memory[entry["offset"]:entry["offset"] + self.row_stride * self.height]

    def tobytes(self):
        """The pixels without padding: what PIL.Image.frombytes("RGB", (width, height), ...) takes."""
        row = 3 * self.width
        if self.row_stride == row:
            return bytes(self.pixels)
        return b"".join(self.pixels[y * self.row_stride:y * self.row_stride + row] for y in range(self.height))


class Sample:
    """One episode: id, prompt, metadata (a dict), group, segments (str or Image, in order), images (the prompt's own)."""

    def __init__(self, memory, entry):
        self.id, self.prompt, self.group = entry["id"], entry["prompt"], entry["group"]
        self.metadata = json.loads(entry["metadata_json"])
        self.segments = []
        for segment in entry["segments"]:
            if segment["type"] == "text":
                self.segments.append(segment["text"])
            elif segment["type"] == "image":
                self.segments.append(Image(memory, segment))
        self.images = [Image(memory, image) for image in entry["images"]]

    def text(self):
        return "\n".join(segment for segment in self.segments if isinstance(segment, str))

    def last_image(self):
        images = [segment for segment in self.segments if isinstance(segment, Image)]
        return images[-1] if images else None


class Score:
    """values: {dimension: number}; reasons: {dimension: why it has no value}; notes: {name: text}, for samples.jsonl."""

    def __init__(self, values=None, reasons=None, notes=None):
        self.values, self.reasons, self.notes = values or {}, reasons or {}, notes or {}


def _entry(score, dimensions):
    """A score as the protocol has it. JSON knows no NaN: such a value is no score, and says so."""
    if not isinstance(score, Score):
        score = Score(score if isinstance(score, dict) else {dimensions[0]: score})
    values, reasons = {}, dict(score.reasons)
    for name, value in score.values.items():
        if value is not None and not math.isfinite(value):
            reasons[name], value = f"the score is {value}", None
        values[name] = None if value is None else float(value)
    return {"values": values, "reasons": reasons, "notes": score.notes}


def _read_frame():
    data = b""
    while len(data) < FRAME.size:
        more = os.read(CONTROL, FRAME.size - len(data))
        if not more:
            return None
        data += more
    return FRAME.unpack(data)


def _describe(error):
    return f"{type(error).__name__}: {error}"


class _Server:
    def __init__(self, make, description):
        self.make, self.description, self.score = make, description, None

    def configure(self, message, _):
        try:
            self.score = self.make(message["settings"])
        except Exception as error:  # whatever the scorer throws is the trainer's to hear
            return FAILED, {"error": _describe(error)}
        return READY, self.description

    def judge(self, message, memory):
        names = [dimension["name"] for dimension in self.description["dimensions"]]
        samples = [Sample(memory, entry) for entry in message["samples"]]
        try:
            return SCORES, {"scores": [_entry(score, names) for score in self.score(samples)]}
        except Exception as error:
            return FAILED, {"error": _describe(error)}

    def run(self):
        while True:
            frame = _read_frame()
            if frame is None:
                return
            kind, sequence, offset, size = frame
            # Mapped anew for each call: the trainer may have made it larger. Not closed: a scorer may still hold pixels.
            memory = memoryview(mmap.mmap(MEMORY, 0))
            message = json.loads(bytes(memory[offset:offset + size]))
            kind, reply = (self.configure if kind == CONFIGURE else self.judge)(message, memory)
            self.answer(memory, -(-(offset + size) // 64) * 64, kind, sequence, reply)

    @staticmethod
    def answer(memory, offset, kind, sequence, reply):
        data = json.dumps(reply, allow_nan=False).encode()
        if len(data) > len(memory) - offset:
            kind, data = FAILED, b'{"error": "the answer is too long"}'
        memory[offset:offset + len(data)] = data
        os.write(CONTROL, FRAME.pack(kind, sequence, offset, len(data)))


def serve(make, name, batch_size=1, wants_groups=False, dimensions=("score",)):
    """Answers until the trainer is gone. dimensions: names, or dicts {"name", "min", "max"}; the first is the main number."""
    os.set_inheritable(CONTROL, False)
    os.set_inheritable(MEMORY, False)
    dimensions = [d if isinstance(d, dict) else {"name": d} for d in dimensions]
    _Server(make, {"protocol": PROTOCOL, "name": name, "batch_size": batch_size, "wants_groups": wants_groups,
                   "dimensions": dimensions}).run()
