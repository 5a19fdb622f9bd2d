#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/sample.h"

namespace unigrpo::monitor {

inline constexpr const char* kSamplesFile = "samples.jsonl";  // in a folder of samples

/// One line of it (docs/FORMATS.md).
struct SampleRow {
  data::Sample sample;
  std::map<std::string, std::optional<double>> scores;  // by reward term; empty: the term had no score, see reasons
  std::map<std::string, std::string> reasons;           // by reward term
  std::map<std::string, std::map<std::string, std::string>> notes =
      {};  // by reward term: what the reward wrote, by name
  std::optional<double> reward;
  std::map<std::string, double> advantage = {};  // by modality, mean over the sample's segments of it; empty: none
};

/// Writes `folder`/samples.jsonl and a PNG for each image segment, named <row>_<image of the
/// row>.png (000_00.png); for a clip an MP4, its sound as WAV and a contact sheet as PNG.
/// samples.jsonl comes last and whole, so a folder that has one is complete. The folder is made where missing; what an
/// earlier attempt left in it is replaced. Text that is not UTF-8 is written with U+FFFD in place of the bad bytes.
/// Throws RuntimeFailure naming the path.
void write_samples(const std::filesystem::path& folder, std::span<const SampleRow> rows);

/// A row as it stands in the file: image segments have their size but no pixels, clips nothing.
struct StoredSample {
  SampleRow row;
  std::vector<std::filesystem::path> images;  // or clips, one a segment, empty for text; joined to the folder
};

/// Reads `folder`/samples.jsonl without opening its images. Strict about types, UTF-8 and paths
/// (relative, inside the folder); keys that it does not know are passed over. Throws BadInput
/// `file:line: ...`.
std::vector<StoredSample> list_samples(const std::filesystem::path& folder);

/// The same with images. Throws BadInput also for an image that is missing, broken or of another
/// size than stated.
std::vector<SampleRow> read_samples(const std::filesystem::path& folder);

}  // namespace unigrpo::monitor
