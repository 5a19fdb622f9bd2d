#!/usr/bin/env python3
"""A reward in Python, standard library only: does the image have the colours that the prompt names?

Settings: `tolerance`, how far a channel may be from a colour's own (default 60). `colors` is the share of the named colours of
which at least 1% of the image's pixels are; `ink` is the share of pixels that are not white.
"""

import unigrpo_worker
from unigrpo_worker import Score

COLORS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220), "yellow": (240, 210, 40),
          "black": (20, 20, 20), "orange": (240, 140, 30), "purple": (140, 60, 180)}
SHARE = 0.01


def make(settings):
    tolerance = settings.pop("tolerance", 60)
    if settings:
        raise ValueError(f"unknown setting '{next(iter(settings))}'")

    def near(pixel, color):
        return all(abs(a - b) <= tolerance for a, b in zip(pixel, color))

    def score_one(sample):
        image = sample.last_image()
        if image is None:
            return Score(reasons={"colors": "no image", "ink": "no image"})
        data = image.tobytes()
        pixels = list(zip(data[0::3], data[1::3], data[2::3]))
        ink = sum(min(pixel) < 250 for pixel in pixels) / len(pixels)
        wanted = [name for name in COLORS if name in sample.prompt.lower().split()]
        if not wanted:
            return Score({"ink": ink}, {"colors": "the prompt names no colour"})
        found = [name for name in wanted if sum(near(pixel, COLORS[name]) for pixel in pixels) >= SHARE * len(pixels)]
        return Score({"colors": len(found) / len(wanted), "ink": ink}, notes={"found": " ".join(found)})

    return lambda samples: [score_one(sample) for sample in samples]


if __name__ == "__main__":
    unigrpo_worker.serve(make, name="python_judge", batch_size=16,
                         dimensions=[{"name": "colors", "min": 0, "max": 1}, {"name": "ink", "min": 0, "max": 1}])
