#include "monitor/metrics_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "io/atomic_file.h"
#include "support/temp_folder.h"

namespace unigrpo::monitor {
namespace {

using testing::TempFolder;

std::string message_of(const std::filesystem::path& file) {
  try {
    read_metrics(file);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "no error";
}

TEST(MetricsRow, PutsTheStepFirstAndTheNamesInOrder) {
  EXPECT_EQ(metrics_row({.step = 7, .values = {{"b", 2}, {"a/x", 0.5}}}), R"({"step": 7, "a/x": 0.5, "b": 2})");
}

TEST(MetricsRow, WritesWhatIsNotFiniteAsNull) {
  EXPECT_EQ(metrics_row({.step = 0, .values = {{"a", std::nan("")}, {"b", -std::numeric_limits<double>::infinity()}}}),
            R"({"step": 0, "a": null, "b": null})");
}

TEST(MetricsRow, EscapesNames) {
  EXPECT_EQ(metrics_row({.step = 0, .values = {{"a\"\n", 1}}}), R"({"step": 0, "a\"\n": 1})");
}

TEST(MetricsFile, NumbersRoundTrip) {
  const TempFolder folder;
  const std::map<std::string, double> values = {
      {"a", 0.1}, {"b", 1.0 / 3}, {"c", 1e-300}, {"d", 5e-324}, {"e", 1e22}, {"f", -0.0}, {"g", 123456789012345678.0}};
  const auto file = folder.write("metrics.jsonl", metrics_row({.step = 3, .values = values}) + "\n");
  const MetricsTable table = read_metrics(file);
  ASSERT_EQ(table.steps, std::vector<int64_t>{3});
  for (const auto& [name, value] : values) {
    EXPECT_EQ(table.columns.at(name)[0], value) << name;
  }
}

TEST(MetricsFile, ColumnsHaveAnEntryARow) {
  const TempFolder folder;
  const auto file =
      folder.write("metrics.jsonl", "{\"step\": 0, \"a\": 1}\n{\"step\": 1, \"b\": null}\n{\"step\": 2, \"b\": 5}\n");
  const MetricsTable table = read_metrics(file);
  using Column = std::vector<std::optional<double>>;
  EXPECT_EQ(table.columns.at("a"), (Column{1.0, std::nullopt, std::nullopt}));
  EXPECT_EQ(table.columns.at("b"), (Column{std::nullopt, std::nullopt, 5.0}));
}

TEST(MetricsFile, ReadsPastATornLastLine) {
  const TempFolder folder;
  const auto file = folder.write("metrics.jsonl", "{\"step\": 0}\n{\"step\": 1, \"a\": 0.12");
  EXPECT_EQ(read_metrics(file).steps, std::vector<int64_t>{0});
}

TEST(MetricsFile, NamesTheLineOfABadRow) {
  const TempFolder folder;
  const auto broken = folder.write("metrics.jsonl", "{\"step\": 0}\n{\"step\": 1,\n{\"step\": 2}\n");
  EXPECT_NE(message_of(broken).find(broken.string() + ":2: "), std::string::npos) << message_of(broken);
  const auto text = folder.write("text.jsonl", "{\"step\": 0, \"a\": \"x\"}\n");
  EXPECT_EQ(message_of(text), text.string() + ":1: \"a\" must be a number or null, found string");
  const auto no_step = folder.write("no_step.jsonl", "{\"a\": 0}\n");
  EXPECT_EQ(message_of(no_step), no_step.string() + ":1: expected an object with an integer \"step\"");
  EXPECT_NE(message_of(folder.path() / "absent.jsonl").find("absent.jsonl"), std::string::npos);
}

TEST(CutMetrics, DropsLaterStepsAndATornLine) {
  const TempFolder folder;
  const std::string kept =
      "{\"step\": 0, \"eval/strict\": 0.5}\n{\"step\": 1, \"a\": 0.25}\n{\"step\": 2, \"a\": null}\n";
  const auto file = folder.write("metrics.jsonl", kept + "{\"step\": 3, \"a\": 1}\n{\"step\": 4, \"a\"");
  cut_metrics(file, 2);
  EXPECT_EQ(io::read_text_file(file), kept);
  cut_metrics(file, 2);
  EXPECT_EQ(io::read_text_file(file), kept);
  cut_metrics(file, 0);
  EXPECT_EQ(read_metrics(file).steps, std::vector<int64_t>{0});
  cut_metrics(file, -1);
  EXPECT_EQ(io::read_text_file(file), "");
  cut_metrics(folder.path() / "absent.jsonl", 5);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "absent.jsonl"));
}

}  // namespace
}  // namespace unigrpo::monitor
