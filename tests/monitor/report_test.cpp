#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/image_codec.h"
#include "io/step_folder.h"
#include "monitor/monitor.h"
#include "monitor/report_data.h"
#include "monitor/run_folder.h"
#include "monitor/samples_file.h"
#include "support/temp_folder.h"

namespace unigrpo::monitor {
namespace {

using testing::TempFolder;

constexpr const char* kEval =
    R"({"model": "m", "reward": "geneval", "prompts": "test.jsonl", "num_prompts": 2, "seed": 0, "num_steps": 8,
        "cfg_scale": 1, "overall": {"strict": 0.5, "soft": 0.75}, "tags": {"colors": {"strict": 0.5, "soft": 0.75,
        "count": 2}}, "seconds": 3})";

Image image_of(int side) {
  Image image{.width = side, .height = side, .pixels = {}};
  image.pixels.resize(3 * static_cast<size_t>(side) * static_cast<size_t>(side));
  uint32_t state = 1;  // noise, which no encoder makes small
  for (uint8_t& value : image.pixels) value = static_cast<uint8_t>((state = state * 1664525U + 1013904223U) >> 24);
  return image;
}

SampleRow sample_of(const std::string& id, const std::string& prompt, const std::string& text, int side = 8) {
  data::SampleSegment thought, image;
  thought.text = text;
  image.kind = data::SegmentKind::image;
  image.image = image_of(side);
  SampleRow row;
  row.sample.id = id;
  row.sample.prompt = prompt;
  row.sample.segments = {thought, image};
  row.reward = 0.5;
  return row;
}

std::string report_of(const TempFolder& folder) {
  write_report(folder.path());
  return io::read_text_file(folder.path() / "report.html");
}

std::string message_of(const std::filesystem::path& folder) {
  try {
    write_report(folder);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "no error";
}

void write_metrics(const TempFolder& folder) {
  folder.write("metrics.jsonl", "{\"step\": 0, \"reward/mean\": 0.25}\n{\"step\": 1, \"reward/mean\": null}\n");
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Report, RefersToNothingOutsideItself) {
  const TempFolder folder;
  write_metrics(folder);
  write_samples(folder.path() / "samples" / io::step_name(20), std::vector{sample_of("0/0", "a circle", "one circle")});
  const std::string report = report_of(folder);
  EXPECT_EQ(count(report, "https://"), 0U);
  EXPECT_EQ(count(report, "http://"), 1U);
  EXPECT_EQ(count(report, "'http://www.w3.org/2000/svg'"), 1U);  // a name, not an address
  EXPECT_EQ(count(report, "src=\""), 0U);
  EXPECT_EQ(count(report, "<link"), 0U);
  EXPECT_EQ(count(report, "default-src 'none'; img-src data:"), 1U);
  EXPECT_EQ(count(report, "\"src\":\"data:image/png;base64,"), 1U);
}

TEST(Report, HostileTextStaysText) {
  const TempFolder folder;
  folder.write("metrics.jsonl", "{\"step\": 0, \"</script><b>\": 1}\n");
  folder.write("recipe.toml", "[run]\nname = \"</script><script>alert(0)</script><!--\"\n");
  write_samples(
      folder.path() / "samples" / io::step_name(0),
      std::vector{sample_of("0/0", "</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>\xff @DATA@")});
  const std::string report = report_of(folder);
  EXPECT_EQ(count(report, "</script>"), 2U);  // the page's own
  EXPECT_EQ(count(report, "<script"), 2U);
  EXPECT_EQ(count(report, "<img"), 0U);
  EXPECT_EQ(count(report, "<!--"), 0U);
  EXPECT_EQ(count(report, "\\u003cscript>alert(1)"), 1U);
  // The script builds the page from text nodes alone.
  for (const char* sink : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("}) {
    EXPECT_EQ(count(report, sink), 0U) << sink;
  }
}

TEST(ReportData, HoldsMetricsByColumn) {
  const TempFolder folder;
  write_metrics(folder);
  const nlohmann::json data = report_data(folder.path());
  EXPECT_EQ(data["metrics"]["steps"], (nlohmann::json{0, 1}));
  EXPECT_EQ(data["metrics"]["columns"]["reward/mean"], (nlohmann::json{0.25, nullptr}));
}

TEST(ReportData, ListsTheAlarmsByStep) {
  const TempFolder folder;
  folder.write("metrics.jsonl",
               "{\"step\": 0, \"drift/text_length\": 9}\n"
               "{\"step\": 1, \"drift/text_length\": 2, \"drift_raised/text_length\": -1}\n"
               "{\"step\": 2, \"drift_raised/brightness\": 1, \"drift_raised/edge_density\": -1}\n");
  EXPECT_EQ(report_data(folder.path())["drift"],
            nlohmann::json::parse(R"([{"step": 1, "statistic": "text_length", "rise": false},
                                      {"step": 2, "statistic": "brightness", "rise": true},
                                      {"step": 2, "statistic": "edge_density", "rise": false}])"));
}

TEST(ReportData, WhatIsMissingIsEmpty) {
  const TempFolder folder;
  write_metrics(folder);
  folder.write("samples/step_000020/000_00.png", "a killed run left no samples.jsonl");
  const nlohmann::json data = report_data(folder.path());
  EXPECT_TRUE(data["evals"].empty());
  EXPECT_TRUE(data["grids"].empty());
  EXPECT_TRUE(data["pairs"]["rows"].empty());
  EXPECT_EQ(data["recipe"], "");
}

TEST(ReportData, PairsSamplesById) {
  const TempFolder folder;
  write_metrics(folder);
  write_samples(folder.path() / "samples" / "before",
                std::vector{sample_of("a", "first", "x"), sample_of("b", "second", "x")});
  write_samples(folder.path() / "samples" / "after",
                std::vector{sample_of("b", "second", "y"), sample_of("c", "third", "y")});
  const nlohmann::json pairs = report_data(folder.path())["pairs"];
  EXPECT_EQ(pairs["total"], 1);
  EXPECT_EQ(pairs["rows"][0]["before"]["segments"][0]["text"], "x");
  EXPECT_EQ(pairs["rows"][0]["after"]["segments"][0]["text"], "y");
  EXPECT_EQ(pairs["rows"][0]["after"]["prompt"], "second");
}

TEST(ReportData, GridsAreInOrderAndThinnedEvenly) {
  const TempFolder folder;
  write_metrics(folder);
  for (int step = 0; step < 40; ++step) {
    write_samples(folder.path() / "samples" / io::step_name(step * 1000), std::vector{sample_of("0", "p", "t")});
  }
  const nlohmann::json data = report_data(folder.path());
  EXPECT_EQ(data["grids_total"], 40);
  ASSERT_EQ(data["grids"].size(), 16U);
  EXPECT_EQ(data["grids"][0]["step"], 0);
  EXPECT_EQ(data["grids"][15]["step"], 39000);
}

TEST(ReportData, LargeImagesAreMadeSmall) {
  const TempFolder folder;
  write_metrics(folder);
  write_samples(folder.path() / "samples" / io::step_name(0),
                std::vector{sample_of("0", "p", "t", 600), sample_of("1", "p", "t", 64)});
  const nlohmann::json rows = report_data(folder.path())["grids"][0]["rows"];
  EXPECT_EQ(rows[0]["segments"][1]["width"],
            200);  // a third: the smallest whole factor that fits 256
  EXPECT_EQ(rows[1]["segments"][1]["width"], 64);
}

// Relative luminance of "#rrggbb", and the contrast of two: WCAG 2.1, "relative luminance" and "contrast ratio".
double luminance(const std::string& colour) {
  const double weights[] = {0.2126, 0.7152, 0.0722};
  double sum = 0;
  for (size_t i = 0; i < 3; ++i) {
    const double value = std::stoi(colour.substr(1 + 2 * i, 2), nullptr, 16) / 255.0;
    sum += weights[i] * (value <= 0.03928 ? value / 12.92 : std::pow((value + 0.055) / 1.055, 2.4));
  }
  return sum;
}

double contrast(const std::string& a, const std::string& b) {
  const double x = luminance(a), y = luminance(b);
  return (std::max(x, y) + 0.05) / (std::min(x, y) + 0.05);
}

// The colours of each ":root { ... }" by name: light, then dark.
std::vector<std::map<std::string, std::string>> palettes_of(const std::string& page) {
  std::vector<std::map<std::string, std::string>> palettes;
  const std::regex colour("--(\\w+): (#[0-9a-f]{6})");
  for (size_t at = page.find(":root {"); at != std::string::npos; at = page.find(":root {", at + 1)) {
    const std::string block = page.substr(at, page.find('}', at) - at);
    std::map<std::string, std::string> palette;
    for (auto match = std::sregex_iterator(block.begin(), block.end(), colour); match != std::sregex_iterator();
         ++match) {
      palette[(*match)[1]] = (*match)[2];
    }
    if (!palette.empty()) palettes.push_back(palette);
  }
  return palettes;
}

TEST(Report, TextAndCurvesStandOutFromWhatIsBehindThemInLightAndDark) {
  const TempFolder folder;
  write_metrics(folder);
  const auto palettes = palettes_of(report_of(folder));
  ASSERT_EQ(palettes.size(), 2U);
  EXPECT_GT(luminance(palettes[0].at("page")), 0.8);
  EXPECT_LT(luminance(palettes[1].at("page")), 0.05);
  const std::set<std::string> behind = {"page", "card", "sunk", "tint"};
  for (const auto& palette : palettes) {
    int texts = 0;
    for (const auto& [name, colour] : palette) {
      if (behind.contains(name) || name == "line" || name == "grid") continue;  // line and grid are decoration
      ++texts;
      for (const std::string& back : behind) {
        EXPECT_GE(contrast(colour, palette.at(back)), 4.5) << name << " " << colour << " on " << back;
      }
    }
    EXPECT_EQ(texts, 11);  // ink, soft, faint, accent, loss, s0 .. s5
  }
}

TEST(Report, IsMadeForPaperAndBreaksNoWords) {
  const TempFolder folder;
  write_metrics(folder);
  const std::string report = report_of(folder);
  EXPECT_EQ(count(report, "@media print"), 1U);
  EXPECT_EQ(count(report, "@media screen and (prefers-color-scheme: dark)"), 1U);  // paper is light
  EXPECT_EQ(count(report, "'beforeprint'"), 1U);                                   // what was folded is opened
  EXPECT_EQ(count(report, "word-break"), 0U);
  EXPECT_EQ(count(report, "overflow-wrap: anywhere"), 1U);  // the recipe's text, which has no other place to break
  EXPECT_EQ(count(report, "pre { overflow-wrap: anywhere"), 1U);
}

TEST(ReportData, HoldsWhatMadeTheRun) {
  const TempFolder folder;
  write_metrics(folder);
  EXPECT_FALSE(report_data(folder.path()).contains("run"));
  const auto file = folder.write("run.json", R"({"version": "0.1.0", "threads": 2, "command": ["unigrpo", "train"]})");
  EXPECT_EQ(report_data(folder.path())["run"]["threads"], 2);
  folder.write("run.json", "[1]");
  EXPECT_EQ(message_of(folder.path()), file.string() + ": expected an object, found array");
}

TEST(ReportData, HoldsTheReasonBesideAScoreToo) {
  const TempFolder folder;
  write_metrics(folder);
  SampleRow row = sample_of("0/0", "two circles", "x");
  row.scores = {{"geneval", 0.0}};
  row.reasons = {{"geneval", "expected 2 circles, found 1"}};
  write_samples(folder.path() / "samples" / io::step_name(0), std::vector{row});
  const nlohmann::json sample = report_data(folder.path())["grids"][0]["rows"][0];
  EXPECT_EQ(sample["scores"]["geneval"], 0.0);
  EXPECT_EQ(sample["reasons"]["geneval"], "expected 2 circles, found 1");
}

TEST(ReportData, StandardErrorsAreNumbersWhereTheyAreThere) {
  const TempFolder folder;
  write_metrics(folder);
  folder.write("eval_before.json",
               R"({"overall": {"strict": 0.5, "soft": 1, "strict_error": 0.1, "soft_error": null}})");
  EXPECT_EQ(report_data(folder.path())["evals"]["before"]["overall"]["strict_error"], 0.1);
  const auto file = folder.write("eval_after.json", R"({"overall": {"strict": 0.5, "soft": 1, "strict_error": "x"}})");
  EXPECT_EQ(message_of(folder.path()), file.string() + ": overall.strict_error: expected a number");
}

TEST(Report, BadInputIsNamed) {
  const TempFolder folder;
  EXPECT_EQ(message_of(folder.path()), folder.path().string() + ": not a run folder: no metrics.jsonl");
  EXPECT_EQ(message_of(folder.path() / "absent"), (folder.path() / "absent").string() + ": not a run folder");
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "report.html"));

  write_metrics(folder);
  folder.write("eval_before.json", kEval);
  EXPECT_EQ(message_of(folder.path()), "no error");
  const auto file = folder.write("eval_after.json", R"({"overall": {"strict": "high", "soft": 1}})").string();
  EXPECT_EQ(message_of(folder.path()), file + ": overall.strict: expected a number");
  folder.write("eval_after.json", R"({"tags": {}})");
  EXPECT_EQ(message_of(folder.path()), file + ": missing key \"overall\"");
}

}  // namespace
}  // namespace unigrpo::monitor
