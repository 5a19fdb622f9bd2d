#pragma once

#include <string>

#include "base/enum_names.h"

namespace unigrpo::reward {

UNIGRPO_ENUM(Isolation, process, none);

struct PluginConfig {                      // kind plugin
  std::string path = {};                   // the library, or the program that is its worker
  Isolation isolate = Isolation::process;  // where it runs
  double max_memory_gib = 8;               // in a process: of its data
  std::string settings = "{}";             // its own table, as JSON
  double timeout_s = 60;                   // of one call

  bool operator==(const PluginConfig&) const = default;
};

}  // namespace unigrpo::reward
