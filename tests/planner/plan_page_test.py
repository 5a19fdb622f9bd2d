"""Runs the plan page's own script over the report test's stub of a browser, and changes degrees on it.

usage: plan_page_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import quickjs

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "monitor"))
from report_page_test import DOM  # noqa: E402

RECIPE = """[run]
name = "one"
[policy]
model = "MODEL"
dtype = "bfloat16"
[data]
prompts = "p.jsonl"
[[rewards]]
kind = "format"
"""


class PlanPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory(prefix="unigrpo-plan-page-") as folder:
            recipe, page = pathlib.Path(folder, "one.toml"), pathlib.Path(folder, "plan.html")
            recipe.write_text(RECIPE.replace("MODEL", str(pathlib.Path(sys.argv[2]).resolve() / "bagel_7b")))
            subprocess.run([sys.argv[1], "plan", recipe, "--batch", "32", "--micro-batches", "4", "--html", page], check=True,
                           stdout=subprocess.DEVNULL)
            cls.html = page.read_text(encoding="utf-8")

    def setUp(self):
        self.data, script = re.findall(r"<script[^>]*>(.*?)</script>", self.html, re.DOTALL)
        self.engine = quickjs.Context()
        self.engine.eval(DOM)
        self.engine.eval(f"holder.textContent = {json.dumps(self.data)};")
        self.engine.eval("{" + script + "}")

    def texts(self, tag):
        return json.loads(self.engine.eval(f"JSON.stringify(main.all().filter(node => node.tag === '{tag}').map(node => node.textContent))"))

    def choose(self, label, text):
        self.engine.eval(f"""{{
          const select = main.all().find(node => node.tag === 'select' && node.attributes['aria-label'] === '{label}');
          const index = select.children.findIndex(option => option.textContent === '{text}');
          if (index < 0) throw new Error('no such choice');
          select.listeners.change({{target: {{selectedIndex: index}}}});
        }}""")

    def stated(self):
        line = next(text for text in self.texts("p") if "on a rank of stage" in text)
        return float(line.split()[0]), "does not fit" not in line

    def test_the_page_is_whole_and_needs_nothing_else(self):
        self.assertNotIn("http://", self.html.replace("http://www.w3.org/2000/svg", ""))
        self.assertNotIn("https://", self.html)
        self.assertEqual(self.texts("h2"), ["Plans", "Where a step goes", "Memory of a rank", "Other degrees", "Simulated time line"])

    def test_the_map_holds_the_memory_of_the_chosen_degrees(self):
        plans = json.loads(self.data)["uniform"]
        for zero in (0, 3):
            for split in ("1", "tp 4", "sp 2"):
                self.choose("Stages", "1")
                self.choose("Ranks a sample", split)
                self.choose("ZeRO", str(zero))
                self.choose("Recomputation", "yes")
                want = next(p for p in plans if (p["pp"], p["split"], p["zero"], p["recompute"]) == (1, split, zero, True))
                gib, fits = self.stated()
                self.assertAlmostEqual(gib, sum(want["memory"]) / 1024, delta=0.06)
                self.assertEqual(fits, sum(want["memory"]) <= 1024 * 80)

    def test_the_map_covers_the_rank(self):
        areas = json.loads(self.engine.eval("""JSON.stringify(main.all().filter(node => node.attributes.class === 'map')[0].all()
            .filter(node => node.tag === 'rect').map(node => [node.textContent, node.attributes.width * node.attributes.height]))"""))
        self.assertAlmostEqual(sum(area for _, area in areas), 1000 * 300, delta=1)
        for text, area in areas:  # 80 GiB on the whole
            self.assertAlmostEqual(float(text.split()[1]), 80 * area / 300_000, delta=0.06)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
