#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/atomic_file.h"
#include "monitor/monitor.h"
#include "monitor/report_data.h"

extern const char* const unigrpo_report_template;  // report_template.html, embedded at build

namespace unigrpo::monitor {
namespace {

constexpr std::string_view kPlaceholder = "@DATA@";

// JSON that may stand inside a script element: no "<", so that no text in it can close the element
// or open a comment.
std::string script_json(const nlohmann::json& data) {
  const std::string plain = data.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string text;
  text.reserve(plain.size());
  for (const char c : plain) {
    if (c == '<') {
      text += "\\u003c";
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace

void write_report(const std::filesystem::path& run_dir) {
  const std::string data = script_json(report_data(run_dir));
  const std::string_view page = unigrpo_report_template;
  const size_t place = page.find(kPlaceholder);
  if (place == std::string_view::npos) throw RuntimeFailure("report_template.html has no {}", kPlaceholder);
  std::string report(page.substr(0, place));
  report.append(data).append(page.substr(place + kPlaceholder.size()));
  io::write_file_atomic(run_dir / "report.html", std::string_view(report));
}

}  // namespace unigrpo::monitor
