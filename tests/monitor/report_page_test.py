"""Runs the report's own script in a small JavaScript engine over a stub of the few DOM calls that it makes, and looks at
the page that it builds. How the page is laid out and coloured is CSS: report_test.cpp.

usage: report_page_test.py UNIGRPO    UNIGRPO: the binary
"""

import base64
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import quickjs

BINARY = ""

GREY = base64.b64decode(  # 4x4 pixels
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAADklEQVR42mNoQAIMxHEAcFIYAZ6uvm8AAAAASUVORK5CYII=")

# What a browser has, as far as the script asks for it; node() is a tree that JSON can hold.
DOM = """
class Node {
  constructor(tag) {
    Object.assign(this, {tag, attributes: {}, children: [], listeners: {}, open: false});
    const words = () => (this.attributes.class || '').split(' ').filter(Boolean);
    this.classList = {
      contains: word => words().includes(word),
      toggle: (word, on) => {
        const others = words().filter(other => other !== word);
        if (on ?? !words().includes(word)) others.push(word);
        this.attributes.class = others.join(' ');
      }};
  }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  append(...nodes) { for (const node of nodes) { this.children.push(node); if (node instanceof Node) node.parent = this; } }
  replaceChildren(...nodes) { this.children = []; this.append(...nodes); }
  remove() { this.parent.children = this.parent.children.filter(node => node !== this); }
  click() { if (this.listeners.click) this.listeners.click({currentTarget: this}); }
  set textContent(text) { this.children = [text]; }
  get textContent() { return this.children.map(node => node instanceof Node ? node.textContent : String(node)).join(''); }
  all() { return [this, ...this.children.filter(node => node instanceof Node).flatMap(node => node.all())]; }
}
const main = new Node('main'), holder = new Node('script'), listeners = {};
const document = {
  title: '', documentElement: {clientWidth: 1000}, createElement: tag => new Node(tag), createElementNS: (space, tag) => new Node(tag),
  getElementById: id => id === 'main' ? main : holder,
  querySelectorAll: what => main.all().filter(what === '.more' ? node => node.classList.contains('more') : node => node.tag === 'details' && !node.open)};
const addEventListener = (name, listener) => { listeners[name] = listener; };
const node = one => one instanceof Node ? {tag: one.tag, attributes: one.attributes, open: one.open, text: one.textContent, children: one.children.map(node)} : String(one);
const tree = () => JSON.stringify(node(main));
"""


class Page:
    def __init__(self, run):
        result = subprocess.run([BINARY, "report", str(run)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        html = (run / "report.html").read_text()
        data, script = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
        self.engine = quickjs.Context()
        self.engine.eval(DOM)
        self.engine.eval(f"holder.textContent = {json.dumps(data)};")
        self.engine.eval("{" + script.replace("const main = document.getElementById('main');", "") + "}")

    def event(self, name):
        self.engine.eval(f"listeners.{name}();")

    def all(self, tag=None, word=None):
        found = []

        def visit(node):
            if isinstance(node, str):
                return
            if tag in (None, node["tag"]) and (word is None or word in node["attributes"].get("class", "").split()):
                found.append(node)
            for child in node["children"]:
                visit(child)
        visit(json.loads(self.engine.eval("tree()")))
        return found

    def texts(self, tag=None, word=None):
        return [node["text"] for node in self.all(tag, word)]


def write_samples(folder, rows):
    folder.mkdir(parents=True)
    lines = []
    for number, (prompt, segments, more) in enumerate(rows):
        for segment in segments:
            if segment["type"] == "image":
                (folder / segment["path"]).write_bytes(GREY)
        lines.append(json.dumps({"id": f"{number}/0", "prompt": prompt, "metadata": {}, "segments": segments, **more}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")


def text(words):
    return {"type": "text", "text": words, "num_tokens": 3, "finished": True}


def image(path):
    return {"type": "image", "path": path, "width": 4, "height": 4}


def evaluation(strict, soft, error=None, **more):
    means = {"strict": strict, "soft": soft, **({"strict_error": error, "soft_error": error} if error else {})}
    return {"reward": "geneval", "num_prompts": 2, "seed": 0, "num_steps": 4, "cfg_scale": 1, "overall": means, "overall_by_tag": means,
            "tags": {"colors": {**means, "count": 2}}, **more}


class ReportPage(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="unigrpo-page-")
        self.addCleanup(holder.cleanup)
        self.run_folder = pathlib.Path(holder.name) / "run"
        self.run_folder.mkdir()
        self.metrics([{"step": 1, "reward/mean": 0.25}, {"step": 2, "reward/mean": 0.5}])

    def metrics(self, rows):
        (self.run_folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write_evals(self, **evaluations):
        for name, content in evaluations.items():
            (self.run_folder / f"eval_{name}.json").write_text(json.dumps(content))

    def page(self):
        return Page(self.run_folder)

    def test_clips_are_played_with_their_frames_and_sound(self):
        folder = self.run_folder / "samples/before"
        segment = {"type": "av", "path": "000_00.mp4", "frames": 17, "fps": 16.0, "sample_rate": 8000, "seconds": 1.0625}
        write_samples(folder, [("a ball falls", [segment], {"scores": {"av_sync": 0.5}, "reward": 0.5})])
        (folder / "000_00.mp4").write_bytes(b"clip")
        (folder / "000_00.png").write_bytes(GREY)
        samples = [0, 0] * 60 + [16384, -32767] * 60  # silence, then loud: two channels
        body = b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples)
        header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, 8000, 32000, 4, 16) + b"data" + struct.pack("<I", len(body))
        (folder / "000_00.wav").write_bytes(b"RIFF" + struct.pack("<I", len(header) + len(body)) + header + body)
        shutil.copytree(folder, self.run_folder / "samples/after")
        self.write_evals(before=evaluation(0.25, 0.25, rewards={"av_quality": 0.25, "av_sync": None}),
                         after=evaluation(0.5, 0.5, rewards={"av_quality": 0.5, "av_sync": 0.75}))
        page = self.page()
        videos = page.all("video")
        self.assertEqual(len(videos), 2)
        for video in videos:
            self.assertEqual(video["attributes"]["src"], "data:video/mp4;base64," + base64.b64encode(b"clip").decode())
            self.assertEqual(video["attributes"]["controls"], "true")  # the browser's own, which keys reach
            self.assertEqual(video["attributes"]["aria-label"], "Clip: a ball falls")
        self.assertEqual(page.all("img")[0]["attributes"]["alt"], "Frames of the clip: a ball falls")
        (path,) = page.all("svg", "wave")[0]["children"]
        points = path["attributes"]["d"][1:].split("L")
        self.assertEqual((points[0], points[60], len(points)), ("0 12.0", "60 1.0", 240))
        rows = [[cell["text"] for cell in row["children"]] for row in page.all("tr")]
        self.assertIn(["av_quality", "0.25", "0.50", "+0.25"], rows)
        self.assertIn(["av_sync", "\u2013", "0.75", ""], rows)

    def test_charts_that_are_zero_everywhere_are_one_line(self):
        self.metrics([{"step": step, "reward/mean": 0.5, "text/clip_fraction": 0, "text/length": step, "text/truncated_ratio": 0}
                      for step in (1, 2, 3)])
        page = self.page()
        self.assertIn("0 at every step: Clipped tokens, Cut by the length limit.", page.texts("p", "flat"))
        titles = page.texts("span", "title")
        self.assertIn("Length", titles)
        self.assertNotIn("Clipped tokens", titles)
        self.assertNotIn("Cut by the length limit", titles)

    def test_a_run_of_texts_has_no_empty_thumbnails(self):
        write_samples(self.run_folder / "samples/step_000001", [("p", [text("words")], {"reward": 0.5})])
        page = self.page()
        film = [button for button in page.all("button") if "Samples of step 1" == button["attributes"].get("aria-label")]
        self.assertEqual([button["attributes"].get("class") for button in film], ["plain"])
        self.assertEqual(page.all(word="mosaic"), [])
        self.assertEqual(page.all("img"), [])
        self.assertIn("words", page.texts("p", "thought"))

    def test_a_run_of_images_has_them(self):
        write_samples(self.run_folder / "samples/step_000001", [("p", [image("a.png")], {"reward": 0.5})])
        page = self.page()
        self.assertEqual(len(page.all(word="mosaic")), 1)
        self.assertTrue(all(node["attributes"]["src"].startswith("data:image/png;base64,") for node in page.all("img")))

    def test_a_reason_is_shown_beside_a_score_too(self):
        write_samples(self.run_folder / "samples/step_000001", [
            ("p", [text("x")], {"reward": 0.5, "scores": {"geneval": 0.5}, "reasons": {"geneval": "expected 2 circles, found 1"}}),
            ("q", [text("y")], {"scores": {"geneval": None}, "reasons": {"geneval": "no image"}})])
        page = self.page()
        self.assertEqual(page.texts("p", "reason"), ["expected 2 circles, found 1", "no image"])

    def test_before_and_after_have_error_bars(self):
        self.write_evals(before=evaluation(0.25, 0.5, 0.05), after=evaluation(0.75, 0.875, 0.04))
        page = self.page()
        self.assertEqual(page.texts("div", "error"), [" \u00b1 0.05 before,  \u00b1 0.04 after"] * 2)
        bells = [svg for cell in page.all("td", "bells") for svg in cell["children"]]
        self.assertEqual(bells[0]["attributes"]["aria-label"], "strict 0.25 \u00b1 0.05 before, 0.75 \u00b1 0.04 after")
        ends = [(line["attributes"]["x1"], line["attributes"]["x2"]) for line in bells[0]["children"]
                if line["attributes"].get("y1") == "8" and line["attributes"].get("stroke") in ("var(--faint)", "var(--accent)")]
        self.assertIn(("71%", "79%"), ends)  # 0.75 +- 0.04
        self.assertIn("the standard error over prompts", page.texts("p", "lead")[0])
        self.assertEqual(page.texts("div", "name"), ["Strict score", "Soft score"])

    def test_without_errors_there_are_no_bars(self):
        self.write_evals(before=evaluation(0.25, 0.5), after=evaluation(0.75, 0.875))
        page = self.page()
        self.assertEqual(page.texts("div", "error"), [])
        self.assertNotIn("\u00b1", page.texts("main")[0])

    def test_the_official_score_comes_first_and_is_the_mean_of_tags(self):
        def official(overall, by_tag):
            means = {"strict": 0.1, "soft": 0.2}
            return {**evaluation(0.1, 0.2), "metric": "official", "overall": {**means, "official": overall}, "overall_by_tag": {**means, "official": by_tag},
                    "tags": {"colors": {**means, "official": by_tag, "count": 2}}}
        self.write_evals(before=official(0.5, 0.25), after=official(0.75, 0.5))
        page = self.page()
        self.assertEqual(page.texts("div", "name"), ["Official score", "Strict score", "Soft score"])
        self.assertTrue(page.texts("div", "figure")[0].startswith("0.25\u21920.50+0.25"), page.texts("div", "figure"))
        self.assertEqual(page.all("td", "bells")[0]["children"][0]["attributes"]["aria-label"], "official 0.25 before, 0.50 after")

    def test_long_names_break_behind_their_separators_alone(self):
        name = "weighed/a_very_long_name." + "0123456789abcdef" * 2
        self.metrics([{"step": 1, name: 1.5}, {"step": 2, name: 2.5}])
        page = self.page()
        cell = next(td for td in page.all("td") if td["text"] == name)
        parts = [child for child in cell["children"] if isinstance(child, str)]
        self.assertEqual(parts, ["weighed/", "a_", "very_", "long_", "name.", "0123456789abcdef", "0123456789abcdef"])
        self.assertEqual([child["tag"] for child in cell["children"] if not isinstance(child, str)], ["wbr"] * 6)

    def test_on_paper_everything_is_open(self):
        (self.run_folder / "recipe.toml").write_text("[run]\nname = \"x\"\n")
        rows = [(f"prompt {number}", [text("x")], {"reward": 0.5}) for number in range(15)]
        for name in ("before", "after"):
            write_samples(self.run_folder / "samples" / name, rows)
        page = self.page()
        self.assertEqual(len(page.all("div", "pair")), 12)
        self.assertFalse(any(details["open"] for details in page.all("details")))
        page.event("beforeprint")
        self.assertEqual(len(page.all("div", "pair")), 15)
        self.assertEqual(page.all("button", "more"), [])
        self.assertTrue(all(details["open"] for details in page.all("details")))
        page.event("afterprint")
        self.assertFalse(any(details["open"] for details in page.all("details")))

    def test_a_run_without_a_step_says_so(self):
        self.metrics([])
        self.assertIn("No step has been finished yet.", self.page().texts("p", "muted"))


if __name__ == "__main__":
    BINARY = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=1)
