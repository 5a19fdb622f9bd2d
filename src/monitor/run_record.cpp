#include "monitor/run_record.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::monitor {
namespace {

using nlohmann::json, nlohmann::ordered_json;

ordered_json to_json(const Launch& launch) {
  return {{"version", launch.version}, {"commit", launch.commit},   {"libtorch", launch.libtorch},
          {"cpu", launch.cpu},         {"threads", launch.threads}, {"command", launch.command},
          {"start", launch.start},     {"step", launch.step}};
}

Launch launch_of(const json& object) {
  return {.version = object.at("version").get<std::string>(),
          .commit = object.at("commit").get<std::string>(),
          .libtorch = object.at("libtorch").get<std::string>(),
          .cpu = object.at("cpu").get<std::string>(),
          .threads = object.at("threads").get<int64_t>(),
          .command = object.at("command").get<std::string>(),
          .start = object.at("start").get<std::string>(),
          .step = object.at("step").get<int64_t>()};
}

}  // namespace

void write_run_record(const std::filesystem::path& file, const RunRecord& record) {
  ordered_json object = to_json(record.first);
  object["resumed"] = ordered_json::array();
  for (const Launch& launch : record.resumed) object["resumed"].push_back(to_json(launch));
  object["inputs"] = ordered_json::object();
  for (const auto& [key, input] : record.inputs) {
    object["inputs"][key] = {{"path", input.path}, {"sha256", input.sha256}};
  }
  // A command line need not be UTF-8.
  io::write_file_atomic(file, object.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

std::optional<RunRecord> read_run_record(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  const json object = io::read_json_file(file);
  try {
    RunRecord record{.first = launch_of(object)};
    for (const json& launch : object.at("resumed")) record.resumed.push_back(launch_of(launch));
    for (const auto& [key, input] : object.at("inputs").items()) {
      record.inputs[key] = {.path = input.at("path").get<std::string>(),
                            .sha256 = input.at("sha256").get<std::string>()};
    }
    return record;
  } catch (const json::exception& error) {
    throw BadInput("{}: not the record of a run: {}", file.string(), error.what());
  }
}

std::string changed_build(const Launch& before, const Launch& now) {
  std::vector<std::string> changes;
  const auto compare = [&](const char* what, const std::string& then, const std::string& here) {
    if (then != here) changes.push_back(fmt::format("{} {}, now {}", what, then, here));
  };
  compare("version", before.version, now.version);
  compare("commit", before.commit, now.commit);
  compare("LibTorch", before.libtorch, now.libtorch);
  compare("CPU", before.cpu, now.cpu);
  return join(changes, "; ");
}

}  // namespace unigrpo::monitor
