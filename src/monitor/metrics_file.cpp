#include "monitor/metrics_file.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::monitor {
namespace {

struct Line {
  size_t end = 0;  // offset behind the line and its newline
  nlohmann::json row;
};

nlohmann::json parse_row(std::string_view text, const std::string& where) {
  nlohmann::json row = io::parse_json(text, where);
  if (!row.is_object() || !row.contains("step") || !row["step"].is_number_integer()) {
    throw BadInput("{}: expected an object with an integer \"step\"", where);
  }
  for (const auto& [name, value] : row.items()) {
    if (!value.is_number() && !value.is_null()) {
      throw BadInput("{}: \"{}\" must be a number or null, found {}", where, name, value.type_name());
    }
  }
  return row;
}

std::vector<Line> parse_lines(std::string_view text, const std::filesystem::path& file) {
  std::vector<Line> lines;
  size_t begin = 0;
  for (int64_t number = 1; begin < text.size(); ++number) {
    const size_t newline = text.find('\n', begin);
    const bool torn = newline == std::string_view::npos;  // its writer died: a row and its newline are one append
    if (torn) break;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    lines.push_back({.end = newline + 1, .row = parse_row(text.substr(begin, newline - begin), where)});
    begin = newline + 1;
  }
  return lines;
}

}  // namespace

std::string metrics_row(const StepRecord& record) {
  std::string row = fmt::format("{{\"step\": {}", record.step);
  for (const auto& [name, value] : record.values) {
    if (name == "step") continue;
    row += fmt::format(", {}: ", nlohmann::json(name).dump());
    row += std::isfinite(value) ? fmt::format("{}", value) : "null";
  }
  return row + "}";
}

void cut_metrics(const std::filesystem::path& file, int64_t last) {
  if (!std::filesystem::exists(file)) return;
  const std::string text = io::read_text_file(file);
  std::string kept;
  size_t begin = 0;
  for (const Line& line : parse_lines(text, file)) {
    if (line.row["step"].get<int64_t>() <= last) kept.append(text, begin, line.end - begin);
    begin = line.end;
  }
  if (kept != text) io::write_file_atomic(file, std::string_view(kept));
}

MetricsTable read_metrics(const std::filesystem::path& file) {
  const std::string text = io::read_text_file(file);
  MetricsTable table;
  for (const Line& line : parse_lines(text, file)) {
    const size_t index = table.steps.size();
    table.steps.push_back(line.row["step"].get<int64_t>());
    for (const auto& [name, value] : line.row.items()) {
      if (name == "step") continue;
      auto& column = table.columns[name];
      column.resize(index + 1);
      if (value.is_number()) column[index] = value.get<double>();
    }
  }
  for (auto& [name, column] : table.columns) column.resize(table.steps.size());
  return table;
}

}  // namespace unigrpo::monitor
