#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ingest/manifest.h"
#include "ingest/pipeline.h"
#include "media/clip.h"
#include "media/write_mp4.h"
#include "support/temp_folder.h"

namespace unigrpo::ingest {

/// A folder of media files and the set that is made of it.
class Set {
 public:
  std::filesystem::path in() const { return folder_.path() / "in"; }
  std::filesystem::path out(const std::string& name = "out") const { return folder_.path() / name; }
  Set() { std::filesystem::create_directories(in()); }

  void add(const std::string& name, const media::Clip& clip, const media::Mp4Options& options = {}) const {
    std::filesystem::create_directories((in() / name).parent_path());
    media::write_mp4(in() / name, clip, options);
  }
  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    return folder_.write("in/" + name, bytes);
  }

  Options options(std::vector<std::string> stages, const std::string& name = "out", int workers = 1) const {
    return {.in = in(), .out = out(name), .stages = std::move(stages), .workers = workers};
  }
  /// Runs stages and gives the last one's manifest.
  Manifest run(const Options& options) const {
    ::testing::internal::CaptureStdout();
    try {
      run_stages(options);
    } catch (...) {
      ::testing::internal::GetCapturedStdout();
      throw;
    }
    printed_ = ::testing::internal::GetCapturedStdout();
    return read_manifest(manifest_path(options.out, chosen_stages(options).back()));
  }
  Manifest run_named(std::vector<std::string> stages) const { return run(options(std::move(stages))); }
  /// What the last run printed.
  const std::string& printed() const { return printed_; }

 private:
  testing::TempFolder folder_;
  mutable std::string printed_;
};

/// Reasons by the rows' ids; "" for those that were kept.
inline std::map<std::string, std::string> reasons_of(const Manifest& manifest) {
  std::map<std::string, std::string> reasons;
  for (const nlohmann::json& row : manifest.rows) {
    reasons[row["id"]] = row.contains("dropped") ? row["dropped"]["reason"].get<std::string>() : "";
  }
  return reasons;
}

}  // namespace unigrpo::ingest
