#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::testing {

/// One line of tests/data/malformed/manifest.jsonl; see the README.md beside it.
struct MalformedCase {
  std::string id;
  std::filesystem::path path;  // absolute
  bool accept = false;
  nlohmann::json all;  // the whole line, with names, contents, line, probe, rows, ...
};

inline void PrintTo(const MalformedCase& c, std::ostream* out) { *out << c.id; }

/// The cases of one class: "safetensors", "tokenizer" or "prompts".
inline std::vector<MalformedCase> malformed_cases(std::string_view wanted) {
  const auto folder = std::filesystem::path(UNIGRPO_TEST_DATA) / "malformed";
  const std::string text = io::read_text_file(folder / "manifest.jsonl");
  std::vector<MalformedCase> cases;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    auto row = io::parse_json(std::string_view(text).substr(begin, end - begin), "manifest.jsonl");
    begin = end + 1;
    if (row.at("class") != wanted) continue;
    MalformedCase one;
    one.id = row.at("id").get<std::string>();
    one.path = folder / row.at("path").get<std::string>();
    one.accept = row.at("expect") == "accept";
    one.all = std::move(row);
    cases.push_back(std::move(one));
  }
  return cases;
}

inline std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

/// What the manifest asks of an error line: one line, the file's name, one of `names`.
inline bool names_the_fault(const MalformedCase& c, const std::string& message) {
  const std::string line = lower(message);
  const auto& names = c.all.at("names");
  return line.find('\n') == std::string::npos && line.find(lower(c.path.filename().string())) != std::string::npos &&
         std::ranges::any_of(names, [&](const nlohmann::json& name) {
           return line.find(lower(name.get<std::string>())) != std::string::npos;
         });
}

/// A test's name may hold letters, digits and underscores; ids hold nothing else.
inline std::string case_name(const ::testing::TestParamInfo<MalformedCase>& info) { return info.param.id; }

}  // namespace unigrpo::testing
