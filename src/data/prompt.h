#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo::data {

/// One row of a prompt file. GenEval's fields (`tag`, `include`, `exclude`) and `metadata` are carried as
/// JSON text in `metadata_json`: an object with whichever of them the row had; rewards parse it.
struct Prompt {
  std::string id;  // the row's own, else its index in decimal
  std::string text;
  std::string tag;                   // GenEval task tag, empty where absent
  std::string metadata_json = "{}";  // {"tag", "include", "exclude", "reference", "tags", "metadata"}
  std::vector<std::string> images;   // paths, already joined to the dataset's folder
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
