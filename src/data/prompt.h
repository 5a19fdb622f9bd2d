#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo::data {

/// A part of what a good policy answers (`target` of SFT rows): a text, or the path of an image.
struct TargetSegment {
  std::string text = {};
  std::string image = {};  // already joined to the dataset's folder; empty: this is a text
};

/// One row of a prompt file. GenEval's fields (`tag`, `include`, `exclude`) and `metadata` are carried as
/// JSON text in `metadata_json`: an object with whichever of them the row had; rewards parse it.
struct Prompt {
  std::string id;  // the row's own, else its index in decimal
  std::string text;
  std::string tag;                         // GenEval task tag, empty where absent
  std::string metadata_json = "{}";        // {"tag", "include", "exclude", "reference", "tags", "metadata"}
  std::vector<std::string> images;         // paths, already joined to the dataset's folder
  std::vector<TargetSegment> target = {};  // in the order of the episode; empty: the row is a prompt alone
  std::optional<int64_t> seed;
  double weight = 1.0;
  int64_t index = 0;  // 0-based row number among the non-blank rows
  int64_t line = 0;   // 1-based line in the file
};

/// The prompts of one step, in order: P rows of the prompt set.
struct PromptBatch {
  int64_t step = 0;
  std::vector<Prompt> prompts;
};

}  // namespace unigrpo::data
