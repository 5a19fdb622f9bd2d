#!/usr/bin/env python3
"""Draws the two images of README.md: docs/images/before_after.png and docs/images/reward_curve.png.

usage: result_images.py BEFORE AFTER RUN...

BEFORE, AFTER: folders of `unigrpo eval --out` with the same prompts and seed, one sample a prompt. RUN: run folders whose
metrics.jsonl make the curves, one a seed. Needs Pillow, which comes with TensorBoard (requirements-dev.txt).
"""

import argparse
import json
import pathlib
import textwrap

from PIL import Image, ImageDraw, ImageFont

OUT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "images"
RIGHT, WRONG, GREY = (26, 122, 46), (176, 32, 40), (120, 120, 120)
SIDE, GAP, COLUMNS = 128, 12, 4  # pixels an image, between images; prompts a row


def font(size):
    return ImageFont.load_default(size)


def samples_of(folder):
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [(folder, json.loads(line)) for line in lines]


def before_after(before, after):
    pairs = list(zip(samples_of(before), samples_of(after), strict=True))
    width, height = 2 * SIDE + 4 * GAP, SIDE + 104
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, pair in enumerate(pairs):
        x, y = index % COLUMNS * width + GAP, index // COLUMNS * height + GAP
        assert pair[0][1]["prompt"] == pair[1][1]["prompt"], "the folders hold other prompts"
        draw.text((x, y), pair[0][1]["prompt"], "black", font(13))
        for side, (folder, sample) in enumerate(pair):
            left, top = x + side * (SIDE + GAP), y + 22
            color = RIGHT if sample["scores"]["geneval_strict"] == 1 else WRONG
            path = next(segment["path"] for segment in sample["segments"] if segment["type"] == "image")
            image = Image.open(folder / path).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            draw.rectangle((left - 2, top - 2, left + SIDE + 1, top + SIDE + 1), color)
            sheet.paste(image, (left, top))
            plan = next(segment["text"] for segment in sample["segments"] if segment["type"] == "text")
            plan = plan.replace("<think>", "").replace("</think>", "").strip()
            text = [("before" if side == 0 else "after") + (": right" if color == RIGHT else ": wrong")]
            text += textwrap.wrap(plan, 24)[:4]
            for line, words in enumerate(text):
                draw.text((left, top + SIDE + 4 + 13 * line), words, color if line == 0 else GREY, font(10))
    sheet.save(OUT / "before_after.png", optimize=True)


def smooth(values, reach=5):
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i - reach):i + reach + 1])]


def reward_curve(runs, metric="reward/geneval_strict"):
    curves = []
    for run in runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curves.append([row[metric] for row in rows if metric in row])
    width, height, left, bottom = 900, 300, 60, 40
    steps = max(map(len, curves))
    low, high = (round(edge(map(edge, curves)), 1) for edge in (min, max))
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)

    def at(step, value):
        return (left + step * (width - left - 20) / (steps - 1),
                height - bottom - (value - low) * (height - bottom - 40) / (high - low))

    for tick in range(round(low * 10), round(high * 10) + 1):
        y = at(0, tick / 10)[1]
        draw.line((left, y, width - 20, y), (225, 225, 225))
        draw.text((left - 30, y - 7), f"{tick / 10:.1f}", "black", font(12))
    for step in range(0, steps, 20):
        draw.text((at(step, low)[0] - 5, height - bottom + 6), str(step), "black", font(12))
    draw.text((width / 2, height - 18), "step", "black", font(12))
    draw.text((left, 8), f"strict score of the rollouts, {len(curves)} seeds; thin: each step, thick: mean of 11", "black", font(12))
    for curve, color in zip(curves, [(36, 90, 190), (214, 120, 30), (40, 140, 70)]):
        pale = tuple(255 - (255 - c) // 4 for c in color)
        draw.line([at(step, value) for step, value in enumerate(curve)], pale)
        draw.line([at(step, value) for step, value in enumerate(smooth(curve))], color, 3)
    sheet.save(OUT / "reward_curve.png", optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    before_after(options.before, options.after)
    reward_curve(options.runs)


if __name__ == "__main__":
    main()
