#include "monitor/failures_file.h"

#include <nlohmann/json.hpp>

#include "io/atomic_file.h"

namespace unigrpo::monitor {

void write_failures(const std::filesystem::path& file, std::span<const Failure> failures) {
  std::string text;
  for (const Failure& failure : failures) {
    const nlohmann::ordered_json row = {{"step", failure.step},
                                        {"reward", failure.reward},
                                        {"sample", failure.sample},
                                        {"prompt", failure.prompt},
                                        {"reason", failure.reason}};
    text += row.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  }
  std::filesystem::create_directories(file.parent_path());
  io::write_file_atomic(file, std::string_view(text));
}

}  // namespace unigrpo::monitor
