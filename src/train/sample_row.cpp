#include "train/sample_row.h"

#include <utility>

namespace unigrpo::train {

monitor::SampleRow sample_row(data::Sample sample, std::span<const std::string> terms,
                              std::span<const reward::Score> scores) {
  monitor::SampleRow row{
      .sample = std::move(sample), .scores = {}, .reasons = {}, .notes = {}, .reward = {}, .advantage = {}};
  for (size_t k = 0; k < terms.size(); ++k) {
    const std::string& term = terms[k];
    const reward::Score& score = scores[k];
    row.scores[term] = score.value;
    for (const auto& [name, value] : score.parts) row.scores[term + "_" + name] = value;
    if (!score.reason.empty()) row.reasons[term] = score.reason;
    if (!score.notes.empty()) row.notes[term] = score.notes;
  }
  return row;
}

}  // namespace unigrpo::train
