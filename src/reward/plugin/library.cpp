#include "reward/plugin/library.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <deque>
#include <fstream>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "base/text.h"
#include "unigrpo/reward_plugin.h"

namespace unigrpo::reward::plugin {
namespace {

namespace fs = std::filesystem;

using ErrorText = std::array<char, 4096>;

/// The sentence that a plugin has written, made fit for one line of a log.
std::string sentence(const ErrorText& error) {
  const std::string_view text(error.data(), strnlen(error.data(), error.size()));
  return text.empty() ? "failed without saying why" : std::string(text.substr(0, valid_utf8_prefix(text)));
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
                   table.sdk_version == nullptr ? "?" : table.sdk_version, UNIGRPO_SDK_VERSION);
  }
}

const unigrpo_reward_plugin& load_table(const fs::path& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw BadInput("{}: cannot be loaded: {}", path.string(), dlerror());
  const void* symbol = dlsym(library, "unigrpo_reward_plugin_table");
  if (symbol == nullptr) {
    throw BadInput("{}: not a UniGRPO reward plugin (it exports no unigrpo_reward_plugin_table)", path.string());
  }
  const auto& table = *static_cast<const unigrpo_reward_plugin*>(symbol);
  check_table(table, path.string());
  return table;
}

Description describe(const unigrpo_reward_plugin& table, const unigrpo_reward_info& info) {
  Description out;
  out.name = table.name == nullptr ? "" : table.name;
  out.batch_size = info.batch_size;
  out.threads = info.threads;
  out.wants_groups = info.wants_groups != 0;
  if (info.num_dimensions > 0) out.dimensions.clear();
  for (uint32_t i = 0; i < info.num_dimensions; ++i) {
    const unigrpo_dimension& dimension = *info.dimensions[i];
    out.dimensions.push_back({dimension.name, dimension.min, dimension.max});
  }
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

/// What a plugin reports during one call. Reports on samples or dimensions that there are not make the call fail.
class Reports {
 public:
  Reports(const Description& description, size_t num_samples)
      : description_(description), verdicts_(num_samples, open_verdict(description)) {}

  unigrpo_sink sink() {
    return {
        .struct_size = sizeof(unigrpo_sink),
        .reserved = 0,
        .context = this,
        .set_score = [](void* self, uint64_t sample, uint32_t dimension,
                        double value) { static_cast<Reports*>(self)->set_score(sample, dimension, value); },
        .set_missing = [](void* self, uint64_t sample, uint32_t dimension,
                          const char* reason) { static_cast<Reports*>(self)->set_missing(sample, dimension, reason); },
        .set_note = [](void* self, uint64_t sample, const char* name,
                       const char* text) { static_cast<Reports*>(self)->set_note(sample, name, text); }};
  }
  const std::string& trouble() const { return trouble_; }
  std::vector<Verdict> take() { return std::move(verdicts_); }

 private:
  bool there_is(uint64_t sample, uint32_t dimension) {
    if (sample < verdicts_.size() && dimension < description_.dimensions.size()) return true;
    trouble_ = fmt::format("scored dimension {} of sample {}, where there are {} and {}", dimension, sample,
                           description_.dimensions.size(), verdicts_.size());
    return false;
  }
  void set_score(uint64_t sample, uint32_t dimension, double value) {
    if (there_is(sample, dimension)) enter_value(verdicts_[sample], description_, dimension, value);
  }
  void set_missing(uint64_t sample, uint32_t dimension, const char* reason) {
    if (!there_is(sample, dimension)) return;
    verdicts_[sample].values[dimension].reset();
    verdicts_[sample].reasons[dimension] = reason == nullptr || *reason == '\0' ? "no reason given" : reason;
  }
  void set_note(uint64_t sample, const char* name, const char* text) {
    if (there_is(sample, 0) && name != nullptr && text != nullptr) enter_note(verdicts_[sample], name, text);
  }

  const Description& description_;
  std::vector<Verdict> verdicts_;
  std::string trouble_;
};

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

std::string file_sha256(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw BadInput("{}: cannot be read", path.string());
  Sha256 digest;
  std::vector<char> block(size_t{1} << 16);
  do {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    digest.update(std::string_view(block.data(), static_cast<size_t>(file.gcount())));
  } while (file);
  return digest.hex();
}

Library::Library(const fs::path& path, const std::string& settings_json) : table_(&load_table(path)) {
  ErrorText error{};
  unigrpo_reward_info info = {.struct_size = sizeof info,
                              .batch_size = 1,
                              .threads = 1,
                              .wants_groups = 0,
                              .num_dimensions = 0,
                              .reserved = 0,
                              .dimensions = nullptr};
  if (table_->create(text_of(settings_json), &reward_, &info, error.data(), error.size()) != 0) {
    throw BadInput("{}: {}", path.string(), sentence(error));
  }
  try {
    description_ = describe(*table_, info);
    check_description(description_);
  } catch (const BadInput& cause) {
    table_->destroy(reward_);
    throw BadInput("{}: {}", path.string(), cause.what());
  }
}

Library::~Library() { table_->destroy(reward_); }

Answer Library::score(std::span<const SampleView> samples) {
  const CSamples list(samples);
  Reports reports(description_, samples.size());
  const unigrpo_sink sink = reports.sink();
  ErrorText error{};
  try {
    if (table_->score(reward_, list.data(), samples.size(), &sink, error.data(), error.size()) != 0) {
      return {.error = sentence(error), .verdicts = {}};
    }
  } catch (...) {  // a plugin that is not written over reward.hpp
    return {.error = "an exception left the plugin's score function", .verdicts = {}};
  }
  if (!reports.trouble().empty()) return {.error = reports.trouble(), .verdicts = {}};
  return {.error = "", .verdicts = reports.take()};
}

}  // namespace unigrpo::reward::plugin
