#include "reward/plugin/library.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <deque>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "unigrpo/reward_plugin.h"

namespace unigrpo::reward::plugin {
namespace {

namespace fs = std::filesystem;

using ErrorText = std::array<char, 4096>;

/// The sentence that a plugin has written, made fit for one line of a log.
std::string sentence(const ErrorText& error) {
  const std::string_view text(error.data(), strnlen(error.data(), error.size()));
  return text.empty() ? "failed without saying why" : valid_utf8(text, error.size());
}

/// Bytes of the object that a name stands for, by the library's own symbol table.
size_t symbol_size(const void* symbol) {
  Dl_info info{};
  void* entry = nullptr;
  if (dladdr1(symbol, &info, &entry, RTLD_DL_SYMENT) == 0 || entry == nullptr || info.dli_saddr != symbol) return 0;
  return static_cast<const ElfW(Sym)*>(entry)->st_size;
}

/// Throws BadInput unless the table is one that this program understands. Reads no further than each check allows.
void check_table(const unigrpo_reward_plugin& table, const std::string& path) {
  const size_t size = symbol_size(&table);
  if (size < offsetof(unigrpo_reward_plugin, sample_size) || table.magic != UNIGRPO_REWARD_MAGIC) {
    throw BadInput("{}: not a UniGRPO reward plugin (unigrpo_reward_plugin_table has the wrong magic number)", path);
  }
  if (table.abi_version != UNIGRPO_REWARD_ABI_VERSION) {
    throw BadInput(
        "{}: built for plugin ABI version {}, this program has {}; build it again with this program's headers", path,
        table.abi_version, UNIGRPO_REWARD_ABI_VERSION);
  }
  if (size < sizeof table || table.struct_size < sizeof table || table.struct_size > size) {
    throw BadInput("{}: the plugin's table says {} bytes and has {}, expected {}", path, table.struct_size, size,
                   sizeof table);
  }
  const std::pair<uint32_t, size_t> sizes[] = {
      {table.sample_size, sizeof(unigrpo_sample)},    {table.segment_size, sizeof(unigrpo_segment)},
      {table.image_size, sizeof(unigrpo_image)},      {table.sink_size, sizeof(unigrpo_sink)},
      {table.info_size, sizeof(unigrpo_reward_info)}, {table.dimension_size, sizeof(unigrpo_dimension)}};
  bool newer = table.struct_size > sizeof table;
  for (const auto& [theirs, ours] : sizes) newer = newer || theirs > ours;
  if (newer) {
    throw BadInput("{}: built with a newer SDK ({}) than this program's ({})", path,
                   table.sdk_version == nullptr ? "?" : valid_utf8(table.sdk_version, 100), UNIGRPO_SDK_VERSION);
  }
  for (const auto& [theirs, ours] : sizes) {  // version 1 begins with these; a later header reads shorter ones, too
    if (theirs < ours)
      throw BadInput("{}: the plugin's table has a struct of {} bytes, expected {}", path, theirs, ours);
  }
  if (table.create == nullptr || table.score == nullptr || table.destroy == nullptr) {
    throw BadInput("{}: the plugin's table lacks create, score or destroy", path);
  }
}

/// The library's handle. A copy's descriptor stays open as long as the library does, to the end of the process: under
/// its number the dynamic linker knows it.
void* open_library(const fs::path& path, int copy) {
  if (copy >= 0) {
    const std::string bytes = fmt::format("/proc/self/fd/{}", fcntl(copy, F_DUPFD_CLOEXEC, 0));
    if (void* library = dlopen(bytes.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const std::string why = valid_utf8(dlerror());
    // Libraries beside it are found by its own path alone ($ORIGIN).
    if (!fs::exists(path) || sha256_of_file(path) != sha256_of_file(bytes)) {
      throw BadInput("{}: cannot be loaded: {}", path.string(), why);
    }
  }
  if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  throw BadInput("{}: cannot be loaded: {}", path.string(), valid_utf8(dlerror()));
}

const unigrpo_reward_plugin& load_table(const fs::path& path, int copy) {
  void* library = open_library(path, copy);
  const void* symbol = dlsym(library, "unigrpo_reward_plugin_table");
  if (symbol == nullptr) {
    throw BadInput("{}: not a UniGRPO reward plugin (it exports no unigrpo_reward_plugin_table)", path.string());
  }
  const auto& table = *static_cast<const unigrpo_reward_plugin*>(symbol);
  check_table(table, path.string());
  return table;
}

/// Reads no further than each struct says that it goes. Throws BadInput for a description that cannot be read.
Dimension dimension_of(const unigrpo_dimension* dimension, uint32_t index) {
  if (dimension == nullptr) throw BadInput("it declares NULL as dimension {}", index);
  if (dimension->struct_size < sizeof(unigrpo_dimension)) {
    throw BadInput("it declares a dimension {} of {} bytes, expected {}", index, dimension->struct_size,
                   sizeof(unigrpo_dimension));
  }
  if (dimension->name == nullptr) throw BadInput("it declares the dimension {} without a name", index);
  return {dimension->name, dimension->min, dimension->max};
}

Description describe(const unigrpo_reward_plugin& table, const unigrpo_reward_info& info) {
  Description out;
  out.name = table.name == nullptr ? "" : valid_utf8(table.name, 200);
  out.batch_size = info.batch_size;
  out.threads = info.threads;
  out.wants_groups = info.wants_groups != 0;
  if (info.num_dimensions == 0) return out;
  if (info.num_dimensions > kMaxDimensions || info.dimensions == nullptr) {
    throw BadInput("it declares number of dimensions = {}{}, expected 1 to {} and a list of them", info.num_dimensions,
                   info.dimensions == nullptr ? " and no list" : "", kMaxDimensions);
  }
  out.dimensions.clear();
  for (uint32_t i = 0; i < info.num_dimensions; ++i) out.dimensions.push_back(dimension_of(info.dimensions[i], i));
  return out;
}

unigrpo_text text_of(const std::string& text) { return {text.data(), text.size()}; }

/// Samples in the C interface's form; points into the views.
class CSamples {
 public:
  explicit CSamples(std::span<const SampleView> samples) {
    for (const SampleView& sample : samples) add(sample);
  }
  const unigrpo_sample* const* data() const { return pointers_.data(); }

 private:
  const unigrpo_image* image(const ImageView& view) {
    return &images_.emplace_back(unigrpo_image{.struct_size = sizeof(unigrpo_image),
                                               .width = view.width,
                                               .height = view.height,
                                               .reserved = 0,
                                               .row_stride = view.row_stride,
                                               .pixels = view.pixels});
  }

  const unigrpo_segment* segment(const SegmentView& view) {
    const bool is_image = view.kind == SegmentView::Kind::image;
    return &segments_.emplace_back(unigrpo_segment{.struct_size = sizeof(unigrpo_segment),
                                                   .kind = is_image ? UNIGRPO_SEGMENT_IMAGE : UNIGRPO_SEGMENT_TEXT,
                                                   .text = text_of(view.text),
                                                   .num_tokens = view.num_tokens,
                                                   .finished = view.finished ? 1U : 0U,
                                                   .reserved = 0,
                                                   .image = is_image ? image(view.image) : nullptr});
  }

  void add(const SampleView& sample) {
    auto& segments = segment_lists_.emplace_back();
    for (const SegmentView& view : sample.segments) segments.push_back(segment(view));
    auto& images = image_lists_.emplace_back();
    for (const ImageView& view : sample.images) images.push_back(image(view));
    pointers_.push_back(&samples_.emplace_back(unigrpo_sample{.struct_size = sizeof(unigrpo_sample),
                                                              .reserved = 0,
                                                              .id = text_of(sample.id),
                                                              .prompt = text_of(sample.prompt),
                                                              .metadata_json = text_of(sample.metadata_json),
                                                              .group = sample.group,
                                                              .num_segments = segments.size(),
                                                              .segments = segments.data(),
                                                              .num_images = images.size(),
                                                              .images = images.data()}));
  }

  // Deques: what they hold does not move.
  std::deque<unigrpo_image> images_;
  std::deque<unigrpo_segment> segments_;
  std::deque<unigrpo_sample> samples_;
  std::deque<std::vector<const unigrpo_segment*>> segment_lists_;
  std::deque<std::vector<const unigrpo_image*>> image_lists_;
  std::vector<const unigrpo_sample*> pointers_;
};

/// What a plugin reports during one call. Reports on samples or dimensions that there are not make the call fail. No
/// exception of ours may pass through the plugin's frames, which may be those of C.
class Reports {
 public:
  Reports(const Description& description, size_t num_samples)
      : description_(description), verdicts_(num_samples, open_verdict(description)) {}

  unigrpo_sink sink() noexcept {
    return {.struct_size = sizeof(unigrpo_sink),
            .reserved = 0,
            .context = this,
            .set_score =
                [](void* self, uint64_t sample, uint32_t dimension, double value) noexcept {
                  static_cast<Reports*>(self)->enter(sample, dimension, [&](Reports& reports, Verdict& verdict) {
                    enter_value(verdict, reports.description_, dimension, value);
                  });
                },
            .set_missing =
                [](void* self, uint64_t sample, uint32_t dimension, const char* reason) noexcept {
                  static_cast<Reports*>(self)->enter(sample, dimension, [&](Reports&, Verdict& verdict) {
                    enter_missing(verdict, dimension, reason == nullptr ? "" : reason);
                  });
                },
            .set_note =
                [](void* self, uint64_t sample, const char* name, const char* text) noexcept {
                  static_cast<Reports*>(self)->enter(sample, 0, [&](Reports&, Verdict& verdict) {
                    if (name != nullptr && text != nullptr) enter_note(verdict, name, text);
                  });
                }};
  }
  const std::string& trouble() const { return trouble_; }
  std::vector<Verdict> take() { return std::move(verdicts_); }

 private:
  template <typename Enter>
  void enter(uint64_t sample, uint32_t dimension, const Enter& enter_in) noexcept {
    try {
      if (sample < verdicts_.size() && dimension < description_.dimensions.size()) {
        return enter_in(*this, verdicts_[sample]);
      }
      trouble_ = fmt::format("scored dimension {} of sample {}, where there are {} and {}", dimension, sample,
                             description_.dimensions.size(), verdicts_.size());
    } catch (...) {
      trouble_ = "out of memory";  // short enough to need none
    }
  }

  const Description& description_;
  std::vector<Verdict> verdicts_;
  std::string trouble_;
};

/// A call of the plugin's that gives 0, or a sentence. Whatever it throws ends here: not every plugin is written over
/// reward.hpp.
template <typename Call>
std::string complaint_about(const char* function, const Call& call) {
  ErrorText error{};
  try {
    return call(error.data(), error.size()) == 0 ? std::string() : sentence(error);
  } catch (const std::exception& cause) {
    return fmt::format("an exception left the plugin's {} function: {}", function, valid_utf8(cause.what(), 1000));
  } catch (...) {
    return fmt::format("an exception left the plugin's {} function", function);
  }
}

void destroy(const unigrpo_reward_plugin& table, void* reward) noexcept {
  try {
    table.destroy(reward);
  } catch (...) {  // it goes either way
  }
}

}  // namespace

void check_plugin_file(const fs::path& path) {
  struct stat file {
  }, folder{};
  if (stat(path.c_str(), &file) != 0) {
    throw BadInput("{}: {}", path.string(), std::generic_category().message(errno));
  }
  if (!S_ISREG(file.st_mode)) throw BadInput("{}: expected a plugin, this is no regular file", path.string());
  const fs::path real = fs::canonical(path);
  if ((file.st_mode & S_IWOTH) != 0) {
    throw BadInput("{}: everyone may write to this file, so it is not run; chmod o-w it", path.string());
  }
  const bool readable = stat(real.parent_path().c_str(), &folder) == 0;
  if (!readable || ((folder.st_mode & S_IWOTH) != 0 && (folder.st_mode & S_ISVTX) == 0)) {
    throw BadInput("{}: everyone may replace this file, so it is not run; chmod o-w {}", path.string(),
                   real.parent_path().string());
  }
}

Library::Library(const fs::path& path, const std::string& settings_json, int copy) : table_(&load_table(path, copy)) {
  unigrpo_reward_info info = {.struct_size = sizeof info,
                              .batch_size = 1,
                              .threads = 1,
                              .wants_groups = 0,
                              .num_dimensions = 0,
                              .reserved = 0,
                              .dimensions = nullptr};
  const std::string complaint = complaint_about("create", [&](char* error, uint64_t size) {
    return table_->create(text_of(settings_json), &reward_, &info, error, size);
  });
  if (!complaint.empty()) throw BadInput("{}: {}", path.string(), complaint);
  try {
    description_ = describe(*table_, info);
    check_description(description_);
  } catch (const BadInput& cause) {
    destroy(*table_, reward_);
    throw BadInput("{}: {}", path.string(), cause.what());
  }
}

Library::~Library() { destroy(*table_, reward_); }

Answer Library::score(std::span<const SampleView> samples) {
  const CSamples list(samples);
  Reports reports(description_, samples.size());
  const unigrpo_sink sink = reports.sink();
  std::string complaint = complaint_about("score", [&](char* error, uint64_t size) {
    return table_->score(reward_, list.data(), samples.size(), &sink, error, size);
  });
  if (complaint.empty()) complaint = reports.trouble();
  if (!complaint.empty()) return failed_call(std::move(complaint));
  return {.succeeded = true, .error = "", .verdicts = reports.take()};
}

}  // namespace unigrpo::reward::plugin
