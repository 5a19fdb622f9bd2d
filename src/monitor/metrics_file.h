#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "monitor/metrics.h"

namespace unigrpo::monitor {

/// One line of metrics.jsonl without its newline: "step" first, then the names in order. Numbers
/// are the shortest text that reads back as the same double; what is not finite is null.
std::string metrics_row(const StepRecord& record);

/// Drops the rows of metrics.jsonl after step `last`, and a last line that a killed process left torn. A missing file
/// is fine. Throws BadInput `file:line: ...` for a line that is no such row.
void cut_metrics(const std::filesystem::path& file, int64_t last);

/// metrics.jsonl by column. Each column has one entry a row; empty where the row has no such name
/// or null.
struct MetricsTable {
  std::vector<int64_t> steps;
  std::map<std::string, std::vector<std::optional<double>>> columns;
};

/// Reads metrics.jsonl; a torn last line (a run killed, or still writing) is left out.
/// Throws BadInput: missing file, or `file:line: ...`.
MetricsTable read_metrics(const std::filesystem::path& file);

}  // namespace unigrpo::monitor
