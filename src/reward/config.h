#pragma once

#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo {

namespace reward {

enum class OnError { drop_sample, drop_group, stop, retry };
enum class RewardKind { geneval, edit, answer, format, saturation, plugin };
enum class GenevalMeasure { strict, soft, mixed };
enum class Isolation { process, none };

struct TermConfig {  // recipe: [[reward.terms]]
  std::string name;  // metric name reward/<name>; the kind where empty
  RewardKind kind = RewardKind::geneval;
  double weight = 1.0;
  GenevalMeasure measure = GenevalMeasure::mixed;  // geneval, edit: strict, soft, or their mean
  double timeout_s = 60;  // of one call, for rewards outside of this process
  std::string path = "";  // plugin: the library, or the program that is its worker
  Isolation isolate = Isolation::process;  // plugin: where it runs
  double max_memory_gib = 8;               // plugin in a process: of its data
  std::string settings = "{}";             // plugin: its own table, as JSON
};

struct RewardConfig {  // recipe: [reward]
  OnError on_error = OnError::drop_sample;
  double max_dropped = 0.25;  // a step with a larger share dropped stops the run
  std::vector<TermConfig> terms;
};

}  // namespace reward

template <>
struct EnumNames<reward::OnError> {
  static constexpr std::array names = {std::pair{reward::OnError::drop_sample, "drop_sample"},
                                       std::pair{reward::OnError::drop_group, "drop_group"},
                                       std::pair{reward::OnError::stop, "stop"},
                                       std::pair{reward::OnError::retry, "retry"}};
};
template <>
struct EnumNames<reward::RewardKind> {
  static constexpr std::array names = {std::pair{reward::RewardKind::geneval, "geneval"},
                                       std::pair{reward::RewardKind::edit, "edit"},
                                       std::pair{reward::RewardKind::answer, "answer"},
                                       std::pair{reward::RewardKind::format, "format"},
                                       std::pair{reward::RewardKind::saturation, "saturation"},
                                       std::pair{reward::RewardKind::plugin, "plugin"}};
};
template <>
struct EnumNames<reward::GenevalMeasure> {
  static constexpr std::array names = {std::pair{reward::GenevalMeasure::strict, "strict"},
                                       std::pair{reward::GenevalMeasure::soft, "soft"},
                                       std::pair{reward::GenevalMeasure::mixed, "mixed"}};
};
template <>
struct EnumNames<reward::Isolation> {
  static constexpr std::array names = {std::pair{reward::Isolation::process, "process"},
                                       std::pair{reward::Isolation::none, "none"}};
};

}  // namespace unigrpo
