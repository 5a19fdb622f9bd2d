#include "policy/paired/paired.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"
#include "parallel/groups.h"
#include "policy/patterns.h"

namespace unigrpo::policy {
namespace {

namespace fs = std::filesystem;

std::string read_half(const io::JsonSection& section, const fs::path& folder, const char* key, const char* what) {
  if (!section.has(key))
    throw BadInput("{}: '{}' is missing (the folder of {} beside this file)", section.where(), key, what);
  std::string name = section.text(key, "");
  if (name.ends_with('/')) name.pop_back();
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) {
    throw BadInput("{}: '{}' must be the name of a folder beside this file, got \"{}\"", section.where(), key,
                   section.text(key, ""));
  }
  if (!fs::is_directory(folder / name)) {
    throw BadInput("{}: '{}' is \"{}\", and there is no such folder (expected {})", section.where(), key, name, what);
  }
  return name;
}

/// Both models read the same ids, so an id must be one token to both.
void require_same_tokenizer(const data::Tokenizer& text, const data::Tokenizer& image, const std::string& folder) {
  auto differ = [&](const std::string& what, const auto& ours, const auto& theirs) {
    throw BadInput(
        "{}: the halves' tokenizers differ, and both read the same ids: {} to the text model {}, to the image model {}",
        folder, what, ours, theirs);
  };
  for (const auto& [ours, theirs] : {std::pair(&text, &image), std::pair(&image, &text)}) {
    for (const auto& [token, id] : ours->special_tokens()) {
      auto id_to = [&](const data::Tokenizer& tokenizer) {
        const auto found = tokenizer.special_tokens().find(token);
        return found == tokenizer.special_tokens().end() ? std::string("no special token")
                                                         : std::to_string(found->second);
      };
      if (id_to(*theirs) != std::to_string(id)) differ("'" + token + "' is", id_to(text), id_to(image));
    }
  }
  if (text.vocab_size() != image.vocab_size()) differ("the number of ids is", text.vocab_size(), image.vocab_size());
  for (int64_t id = 0; id < text.vocab_size(); ++id) {
    const std::string ours = text.decode({id}), theirs = image.decode({id});
    if (ours != theirs) differ(fmt::format("id {} is", id), in_quotes(ours), in_quotes(theirs));
    auto cut = [&](const data::Tokenizer& tokenizer) {
      return fmt::format("[{}]", fmt::join(tokenizer.encode(ours), ", "));
    };
    if (text.encode(ours) != image.encode(ours)) differ(in_quotes(ours) + " is", cut(text), cut(image));
  }
}

/// The names that a pattern fits, with the half's prefix or without it.
std::vector<std::string> select(const std::vector<std::string>& patterns, const std::string& prefix,
                                const NamedTensors& shapes) {
  std::vector<std::string> names;
  for (const NamedTensor& weight : shapes) {
    const bool fits = std::ranges::any_of(patterns, [&](const std::string& pattern) {
      return matches_pattern(prefix + weight.name, pattern) || matches_pattern(weight.name, pattern);
    });
    if (fits) names.push_back(weight.name);
  }
  return names;
}

NamedTensors linears_of(const MotConfig& llm, const NamedTensors& shapes) {
  NamedTensors linears;
  std::ranges::copy_if(shapes, std::back_inserter(linears), [&](const NamedTensor& weight) {
    return weight.name.starts_with(llm.prefix + "model.layers.") && weight.tensor.dim() == 2;
  });
  return linears;
}

/// What a half is loaded with: the pair's patterns as names of its own.
PolicyConfig config_of(const PolicyConfig& pair, const fs::path& folder, const std::string& prefix,
                       const MotConfig& llm, const NamedTensors& shapes) {
  PolicyConfig config = pair;
  config.model = folder.string();
  config.freeze = select(pair.freeze, prefix, shapes);
  if (pair.train == TrainMode::full) return config;
  config.lora.targets = select(pair.lora.targets, prefix, linears_of(llm, shapes));
  if (config.lora.targets.empty()) {
    config.train = TrainMode::full;
    config.freeze = {"*"};
  }
  return config;
}

/// FNV-1a begins with an exclusive or: of two raw numbers that change alike it would see nothing.
uint64_t both(uint64_t text, uint64_t image) { return fnv1a64(text, fnv1a64(image, kFnvStart)); }

ContextDigest both_read(const ContextDigest& text, const ContextDigest& image) {
  return {.token_ids = both(text.token_ids, image.token_ids),
          .position_ids = both(text.position_ids, image.position_ids),
          .mask = both(text.mask, image.mask),
          .latents = image.latents,
          .pixels = image.pixels};
}

NamedTensors joined(const NamedTensors& text, const NamedTensors& image) {
  NamedTensors all;
  for (const NamedTensor& one : text) all.push_back({kTextPrefix + one.name, one.tensor});
  for (const NamedTensor& one : image) all.push_back({kImagePrefix + one.name, one.tensor});
  return all;
}

/// As the text model reads a batch: images leave an empty block, so that blocks keep their places.
TrainBatch texts_of(const TrainBatch& batch) {
  auto texts = [](const std::vector<Block>& blocks) {
    std::vector<Block> read;
    for (const Block& block : blocks) read.push_back(std::holds_alternative<TextBlock>(block) ? block : TextBlock{});
    return read;
  };
  TrainBatch result;
  result.update = batch.update;
  for (const auto& prefix : batch.prefixes) result.prefixes.push_back(texts(prefix));
  for (const TrainSequence& sequence : batch.sequences) {
    result.sequences.push_back({.prefix = sequence.prefix, .blocks = texts(sequence.blocks)});
  }
  return result;
}

}  // namespace

PairFolders read_pair_config(const fs::path& folder) {
  require_family(folder, "unigrpo_pair");
  const auto section = io::JsonSection::open(folder / "config.json");
  return {.text = read_half(section, folder, "text", "a Qwen2.5 model"),
          .image = read_half(section, folder, "image", "a BAGEL model")};
}

ModelSizes Paired::read_sizes(const fs::path& folder) {
  const PairFolders halves = read_pair_config(folder);
  throw BadInput("{}: a pair of models; ask about its halves, {} and {}, one by one", folder.string(), halves.text,
                 halves.image);
}

SamplingDefaults Paired::sampling_defaults(const fs::path& folder) {
  SamplingDefaults defaults = Bagel::sampling_defaults(folder / read_pair_config(folder).image);
  defaults.plan_prompt = "";
  return defaults;
}

std::unique_ptr<Paired> Paired::load(const PolicyConfig& config, const Runtime& runtime) {
  const fs::path folder = config.model;
  const PairFolders folders = read_pair_config(folder);
  const MotConfig writer = read_qwen2_config(folder / folders.text);
  const BagelConfig painter = read_bagel_config(folder / folders.image);
  if (runtime.groups && !runtime.groups->shape.layers.empty()) {
    throw BadInput("{}: a plan of one model's layers; {} is a pair of models", runtime.groups->shape.plan_file,
                   folder.string());
  }
  require_same_tokenizer(*data::open_tokenizer(folder / folders.text), *data::open_tokenizer(folder / folders.image),
                         folder.string());
  if (writer.vocab_size > painter.llm.vocab_size) {
    throw BadInput("{}: the text model may write any of {} ids (vocab_size), the image model reads {}", folder.string(),
                   writer.vocab_size, painter.llm.vocab_size);
  }
  const NamedTensors text_shapes = Qwen2::shapes(writer), image_shapes = Bagel::shapes(painter);
  if (config.train == TrainMode::lora) {
    check_targets(config, joined(linears_of(writer, text_shapes), linears_of(painter.llm, image_shapes)));
  }
  PolicyConfig text = config_of(config, folder / folders.text, kTextPrefix, writer, text_shapes);
  PolicyConfig image = config_of(config, folder / folders.image, kImagePrefix, painter.llm, image_shapes);
  image.freeze.push_back(painter.llm.prefix + "lm_head.weight");  // weight decay alone would move it
  return std::unique_ptr<Paired>(new Paired(Qwen2::load(text, runtime), Bagel::load(image, runtime), folder.string()));
}

Paired::Paired(std::unique_ptr<Qwen2> text, std::unique_ptr<Bagel> image, std::string folder)
    : text_(std::move(text)), image_(std::move(image)), folder_(std::move(folder)) {}

int64_t Paired::max_positions() const { return std::min(text_->max_positions(), image_->max_positions()); }

Paired::Halves& Paired::halves(Context& context) {
  if (context.blocks.empty()) {
    if (free_.empty()) {
      free_.push_back(static_cast<int64_t>(entries_.size()));
      entries_.emplace_back();
    }
    context.blocks.push_back(free_.back());
    free_.pop_back();
  }
  return entries_[context.blocks.front()];
}

const Paired::Halves& Paired::closed(const Context& context) const {
  static const Halves kNothing;
  const Halves& read = context.blocks.empty() ? kNothing : entries_[context.blocks.front()];
  if (!read.unread.empty()) throw std::invalid_argument("an image within a text block: the block has no end token yet");
  return read;
}

void Paired::show(Context& context, const Halves& halves) {
  context.slots = halves.image.slots;
  context.position = halves.image.position;
  context.digest = both_read(halves.text.digest, halves.image.digest);
}

Context Paired::fork(const Context& parent) {
  Context child;
  Halves& own = halves(child);
  if (!parent.blocks.empty()) {
    const Halves& read = entries_[parent.blocks.front()];
    own = {.text = text_->fork(read.text), .image = image_->fork(read.image), .unread = read.unread};
  }
  show(child, own);
  return child;
}

void Paired::release(Context& context) {
  if (!context.blocks.empty()) {
    Halves& read = entries_[context.blocks.front()];
    text_->release(read.text);
    image_->release(read.image);
    read.unread.clear();
    free_.push_back(context.blocks.front());
  }
  context = Context{};
}

void Paired::reserve(int64_t tokens) {
  text_->reserve(tokens);
  image_->reserve(tokens);
}

void Paired::use_graphs(const tensor::MakeGraph& make) {
  text_->use_graphs(make);
  image_->use_graphs(make);
}

at::Tensor Paired::append_text(std::span<Context* const> rows, std::span<const std::vector<int64_t>> ids) {
  std::vector<Context*> writers, readers;
  std::vector<std::vector<int64_t>> blocks;  // closed, for the image model
  for (size_t i = 0; i < rows.size(); ++i) {
    Halves& read = halves(*rows[i]);
    writers.push_back(&read.text);
    auto& unread = read.unread;
    unread.insert(unread.end(), ids[i].begin(), ids[i].end());
    const auto end = std::find(unread.rbegin(), unread.rend(), eos_id()).base();
    if (end == unread.begin()) continue;
    readers.push_back(&read.image);
    blocks.emplace_back(unread.begin(), end);
    unread.erase(unread.begin(), end);
  }
  const at::Tensor logits = text_->append_text(writers, ids);
  if (!readers.empty()) image_->append_text(readers, blocks);
  for (Context* row : rows) show(*row, halves(*row));
  return logits;
}

std::vector<std::vector<Block>> Paired::read_images(std::span<const Image> images, bool with_latents) {
  if (!with_latents && !images.empty()) {
    throw BadInput("{}: the text model of a pair sees no images; a prompt with one needs an episode with an image",
                   folder_);
  }
  return image_->read_images(images, with_latents);
}

void Paired::append_images(std::span<Context* const> rows, std::span<const Block> blocks) {
  std::vector<Context*> readers;
  for (Context* row : rows) {
    closed(*row);
    readers.push_back(&halves(*row).image);
  }
  image_->append_images(readers, blocks);
  for (Context* row : rows) show(*row, halves(*row));
}

std::unique_ptr<Denoiser> Paired::denoise(std::span<const Context* const> rows, LatentGrid grid) {
  std::vector<const Context*> readers;
  for (const Context* row : rows) readers.push_back(&closed(*row).image);
  return image_->denoise(readers, grid);
}

TrainOutput Paired::forward_train(const TrainBatch& batch) {
  TrainOutput text = text_->forward_train(texts_of(batch)), output = image_->forward_train(batch);
  output.text_hidden = std::move(text.text_hidden);
  for (size_t s = 0; s < output.digests.size(); ++s) {
    std::ranges::transform(text.digests[s], output.digests[s], output.digests[s].begin(), both_read);
  }
  return output;
}

NamedTensors Paired::parameters() const { return joined(text_->parameters(), image_->parameters()); }

NamedTensors Paired::merged() const { return joined(text_->merged(), image_->merged()); }

std::vector<NamedTensors> Paired::units(bool with_adapters) const {
  const std::vector<NamedTensors> text = text_->units(with_adapters), image = image_->units(with_adapters);
  std::vector<NamedTensors> units = {joined(text.front(), image.front())};
  for (size_t i = 1; i < text.size(); ++i) units.push_back(joined(text[i], {}));
  for (size_t i = 1; i < image.size(); ++i) units.push_back(joined({}, image[i]));
  return units;
}

std::map<std::string, int64_t> Paired::sliced_dimensions() const {
  std::map<std::string, int64_t> dimensions;
  for (const auto& [name, dim] : text_->sliced_dimensions()) dimensions[kTextPrefix + name] = dim;
  for (const auto& [name, dim] : image_->sliced_dimensions()) dimensions[kImagePrefix + name] = dim;
  return dimensions;
}

void Paired::set_sharded(const std::shared_ptr<parallel::ShardedModel>& model, size_t first) {
  text_->set_sharded(model, first);
  image_->set_sharded(model, first + text_->units(/*with_adapters=*/false).size() - 1);
}

std::vector<int64_t> Paired::sequence_degrees() const {
  std::vector<int64_t> degrees = text_->sequence_degrees();
  const std::vector<int64_t> others = image_->sequence_degrees();
  std::erase_if(degrees, [&](int64_t degree) { return std::ranges::find(others, degree) == others.end(); });
  return degrees;
}

void Paired::share_sequences(int64_t degree) {
  text_->share_sequences(degree);
  image_->share_sequences(degree);
}

void Paired::enable_adapters(bool on) {
  text_->enable_adapters(on);
  image_->enable_adapters(on);
}

uint64_t Paired::adapter_state() const { return both(text_->adapter_state(), image_->adapter_state()); }

uint64_t Paired::weights_version() const { return both(text_->weights_version(), image_->weights_version()); }

}  // namespace unigrpo::policy
