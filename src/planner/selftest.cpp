#include "planner/selftest.h"

#include <ctime>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

json read_cases(const std::filesystem::path& file) {
  json content = io::read_json_file(file, {}, size_t{64} << 20);
  const auto bad = [&](const char* what) { return BadInput("{}: {}", file.string(), what); };
  if (!content.is_object() || content.value("format", json()) != "unigrpo-planner/1") {
    throw bad("'format' must be \"unigrpo-planner/1\"");
  }
  if (!content.contains("cases") || !content["cases"].is_array()) throw bad("'cases' must be a list");
  for (const json& one : content["cases"]) {
    const bool whole = one.is_object() && one.contains("name") && one["name"].is_string() && one.contains("op") &&
                       one["op"].is_string() && one.contains("input") && one["input"].is_object() &&
                       one.contains("expected") && one["expected"].is_object();
    if (!whole) throw bad("a case needs name, op, input and expected");
  }
  return content;
}

#ifdef __SANITIZE_ADDRESS__
constexpr double kSlowness = 20;  // of what the sanitizers look at, beside what a case's limit was set for
#else
constexpr double kSlowness = 1;
#endif

}  // namespace

int run_selftest(const std::filesystem::path& file, const std::filesystem::path& answers, std::ostream& out) {
  const json content = read_cases(file);
  const std::filesystem::path beside = file.parent_path() / "profiles.json";
  const json profiles = std::filesystem::exists(beside) ? io::read_json_file(beside, {}, size_t{64} << 20) : json();
  json list = json::array();
  int passed = 0, failed = 0;
  for (const json& one : content["cases"]) {
    const auto name = one["name"].get<std::string>(), op = one["op"].get<std::string>();
    std::string reason;
    try {
      const std::clock_t start = std::clock();  // of the processor: other work on the machine does not count
      json answer = solve_case(op, one["input"], profiles);
      const double took = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
      if (op == "flex.assign" || op == "flex.step") answer["seconds"] = took;
      reason = check_answer(one, answer);
      if (one.contains("seconds") && took > kSlowness * one["seconds"].get<double>() && reason.empty()) {
        reason = fmt::format("took {:.2f} s of {} s", took, one["seconds"].get<double>());
      }
      list.push_back({{"name", name}, {"answer", std::move(answer)}});
    } catch (const BadInput& error) {
      reason = error.what();
    } catch (const json::exception& error) {
      reason = error.what();
    } catch (const std::out_of_range& error) {
      reason = error.what();
    }
    if (reason.empty()) {
      ++passed;
      continue;
    }
    ++failed;
    out << fmt::format("FAIL {} ({}): {}\n", name, op, reason);
  }
  out << fmt::format("{} passed, {} failed\n", passed, failed);
  if (!answers.empty()) {
    const json document = {{"format", "unigrpo-planner-answers/1"}, {"answers", std::move(list)}};
    io::write_file_atomic(answers, std::string_view(document.dump(1) + "\n"));
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace unigrpo::planner
