#include "policy/placement.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>

#include "base/hash.h"
#include "policy/layer_split.h"
#include "tensor/convert.h"

namespace unigrpo::policy {
namespace {

/// While blocks are being placed the sizes of the parts are not known yet, so a row is (part, index), written as
/// part * kPart + index.
constexpr int64_t kPart = int64_t{1} << 40;
constexpr int64_t kNoisy = 1, kClean = 2;
const size_t kNoisyKind = Block(NoisyBlock{}).index();

template <typename Moved>
void renumber(nn::QueryBlock& block, const Moved& moved) {
  std::ranges::transform(block.queries, block.queries.begin(), moved);
  std::ranges::transform(block.keys, block.keys.begin(), moved);
}

}  // namespace

Placement::Placement(const TrainBatch& batch, int64_t image_start, int64_t image_end)
    : image_start_(image_start), image_end_(image_end), detach_context_(batch.detach_context) {
  std::vector<Reader> prefixes;
  for (const auto& prefix : batch.prefixes) {
    Reader reader;
    owners_.emplace_back();
    for (size_t k = 0; k < prefix.size(); ++k) place(prefix[k], reader, {0, k, prefix[k].index()});
    owners_.back().digest = reader.digest;
    prefixes.push_back(std::move(reader));
  }
  for (const TrainSequence& sequence : batch.sequences) {
    Reader reader = prefixes.at(sequence.prefix);
    auto& read = digests.emplace_back();
    owners_.push_back({.prefix = static_cast<int64_t>(sequence.prefix)});
    for (size_t k = 0; k < sequence.blocks.size(); ++k) {
      const Block& block = sequence.blocks[k];
      const size_t first = und_ids.size();
      place(block, reader, {1, k, block.index()});
      read.push_back(reader.digest);
      if (!std::holds_alternative<TextBlock>(block)) continue;
      for (size_t row = first; row < und_ids.size(); ++row) text_rows.push_back(static_cast<int64_t>(row));
    }
    owners_.back().digest = reader.digest;
  }
  num_und = static_cast<int64_t>(und_ids.size());
  num_noisy = static_cast<int64_t>(positions_[kNoisy].size());
  num_rows = num_und + num_noisy + static_cast<int64_t>(positions_[kClean].size());
  const int64_t shift = detach_context_ ? num_rows : 0;  // detached copies stand behind the rows
  for (auto& [group, members] : groups_) {
    const bool drawn = std::get<2>(group) == kNoisyKind;
    part_sizes_.push_back(static_cast<int64_t>(members.size()));
    for (nn::QueryBlock& block : members) {
      const size_t context = block.keys.size() - block.queries.size();
      for (int64_t& row : block.queries) row = resolve(row);
      for (int64_t& row : block.keys) row = resolve(row);
      if (drawn) {
        for (size_t k = 0; k < context; ++k) block.keys[k] += shift;
      }
      blocks_.push_back(std::move(block));
    }
  }
  for (const auto& part : positions_) position_ids_.insert(position_ids_.end(), part.begin(), part.end());
}

std::vector<int64_t> Placement::row_numbers() const {
  std::vector<int64_t> numbers(static_cast<size_t>(num_rows));
  for (const Owner& owner : owners_) {
    uint64_t content = owner.digest.token_ids;
    for (const NoisyBlock* states : owner.drawn) content = hash_tensor(states->t, content);
    for (size_t place = 0; place < owner.rows.size(); ++place) {
      const auto [part, index] = owner.rows[place];
      numbers[static_cast<size_t>(resolve(part * kPart + index))] = std::bit_cast<int64_t>(fnv1a64(place, content));
    }
  }
  return numbers;
}

PackedTokens Placement::packed(const at::TensorOptions& options, const ModelRanks* ranks) const {
  PackedTokens tokens{.num_und = num_und,
                      .position_ids = tensor::index_tensor(position_ids_),
                      .layout = nullptr,
                      .cache_slots = {},
                      .detached_copy = detach_context_};
  if (!ranks) {
    tokens.layout = std::make_shared<nn::AttentionLayout>(blocks_, part_sizes_, num_rows, options);
    return tokens;
  }
  const auto share = std::make_shared<nn::SequenceShare>(ranks->all, num_und, num_rows);
  const int64_t rank = ranks->all->rank(), size = ranks->all->size();
  const auto between = [&](const nn::RowHolders& from, const nn::RowHolders& to) {
    return from == to ? nullptr : std::make_shared<nn::RowExchange>(ranks->all, from, to);
  };
  std::map<int64_t, std::vector<Rows>> dealt;  // by dp
  const auto sets_of = [&](int64_t dp) -> const std::vector<Rows>& {
    const auto [found, is_new] = dealt.try_emplace(dp);
    if (is_new) found->second = deal(dp);
    return found->second;
  };
  const nn::RowHolders even = holders(sets_of(1), size);
  nn::RowHolders before = even;
  for (const LayerRanks& layer : ranks->layers) {
    if (!tokens.splits.empty() && tokens.splits.back()->ranks.alike(layer)) {
      tokens.splits.push_back(tokens.splits.back());
      continue;
    }
    const int64_t each = size / layer.dp;
    const std::vector<Rows>& sets = sets_of(layer.dp);
    const auto split = split_for(layer, rank % each, sets[static_cast<size_t>(rank / each)], options);
    nn::RowHolders here = holders(sets, each);
    split->enter = between(before, here);
    split->begin = between(even, here);
    split->end = between(here, even);
    before = std::move(here);
    tokens.splits.push_back(split);
  }
  tokens.num_und = share->num_und();
  tokens.position_ids = tokens.position_ids.index_select(0, tensor::index_tensor(share->rows()));
  tokens.share = share;
  return tokens;
}

std::vector<Placement::Rows> Placement::deal(int64_t sets) const {
  std::vector<std::vector<bool>> owns(static_cast<size_t>(sets), std::vector<bool>(owners_.size(), sets == 1));
  std::vector<size_t> sequences, loads(static_cast<size_t>(sets), 0);
  for (size_t i = 0; sets > 1 && i < owners_.size(); ++i) {
    if (owners_[i].prefix >= 0) sequences.push_back(i);
  }
  const auto size = [&](size_t owner) { return owners_[owner].rows.size(); };
  std::ranges::stable_sort(sequences, std::greater(), size);
  for (const size_t sequence : sequences) {
    const auto prefix = static_cast<size_t>(owners_[sequence].prefix);
    const auto after = [&](size_t set) { return loads[set] + size(sequence) + (owns[set][prefix] ? 0 : size(prefix)); };
    size_t best = 0;
    for (size_t set = 1; set < owns.size(); ++set) {
      if (after(set) < after(best)) best = set;
    }
    loads[best] = after(best);
    owns[best][sequence] = owns[best][prefix] = true;
  }
  for (size_t i = 0; i < owners_.size(); ++i) {  // a prefix that nobody reads on
    if (std::ranges::none_of(owns, [&](const auto& set) { return set[i]; })) owns.front()[i] = true;
  }
  std::vector<Rows> rows;
  for (const std::vector<bool>& owners : owns) rows.push_back(rows_of(owners));
  return rows;
}

Placement::Rows Placement::rows_of(const std::vector<bool>& owners) const {
  Rows rows;
  for (size_t i = 0; i < owners_.size(); ++i) {
    if (!owners[i]) continue;
    for (const auto& [part, index] : owners_[i].rows) rows.ids.push_back(resolve(part * kPart + index));
  }
  std::ranges::sort(rows.ids);
  rows.num_und = std::ranges::lower_bound(rows.ids, num_und) - rows.ids.begin();
  std::vector<int64_t> place(static_cast<size_t>(num_rows), -1);
  for (size_t i = 0; i < rows.ids.size(); ++i) place[static_cast<size_t>(rows.ids[i])] = static_cast<int64_t>(i);
  const auto moved = [&](int64_t row) {
    return row < num_rows ? place[static_cast<size_t>(row)]
                          : std::ssize(rows.ids) + place[static_cast<size_t>(row - num_rows)];
  };
  auto block = blocks_.begin();
  for (const int64_t size : part_sizes_) {
    const size_t kept = rows.blocks.size();
    for (int64_t i = 0; i < size; ++i, ++block) {
      if (moved(block->queries.front()) < 0) continue;
      renumber(rows.blocks.emplace_back(*block), moved);
    }
    if (rows.blocks.size() > kept) rows.part_sizes.push_back(static_cast<int64_t>(rows.blocks.size() - kept));
  }
  return rows;
}

nn::RowHolders Placement::holders(const std::vector<Rows>& sets, int64_t ranks_each) {
  nn::RowHolders holders;
  for (const Rows& rows : sets) {
    const int64_t num_gen = std::ssize(rows.ids) - rows.num_und;
    for (int64_t r = 0; r < ranks_each; ++r) {
      std::vector<int64_t>& own = holders.emplace_back();
      const auto add = [&](int64_t first, int64_t count) {
        const auto begin = rows.ids.begin() + first + nn::share_begin(count, r, ranks_each);
        own.insert(own.end(), begin, rows.ids.begin() + first + nn::share_begin(count, r + 1, ranks_each));
      };
      add(0, rows.num_und);
      add(rows.num_und, num_gen);
    }
  }
  return holders;
}

/// rank: among those of the rows.
std::shared_ptr<LayerSplit> Placement::split_for(const LayerRanks& ranks, int64_t rank, const Rows& rows,
                                                 const at::TensorOptions& options) const {
  auto split = std::make_shared<LayerSplit>();
  split->ranks = ranks;
  const int64_t all = ranks.tp * ranks.sp, total = std::ssize(rows.ids), num_gen = total - rows.num_und;
  const int64_t first = rank - rank % ranks.tp;
  for (int64_t r = first; r < first + ranks.tp; ++r) {
    split->und_counts.push_back(nn::share_begin(rows.num_und, r + 1, all) - nn::share_begin(rows.num_und, r, all));
    split->gen_counts.push_back(nn::share_begin(num_gen, r + 1, all) - nn::share_begin(num_gen, r, all));
  }
  split->num_und = split->und_counts[static_cast<size_t>(rank - first)];
  const auto finish = [&](const std::vector<nn::QueryBlock>& blocks, const std::vector<int64_t>& held) {
    split->layout = std::make_shared<nn::AttentionLayout>(blocks, rows.part_sizes, total, options);
    split->rows = tensor::index_tensor(held);
    split->position_ids = tensor::index_tensor(position_ids_).index_select(0, split->rows);
    return split;
  };
  if (!ranks.sequence) return finish(rows.blocks, rows.ids);
  // Neighbours' shares among all are together one among the sets.
  const auto heads = std::make_shared<nn::SequenceShare>(ranks.sequence, rows.num_und, total);
  const auto moved = [&](int64_t row) { return row < total ? heads->place(row) : total + heads->place(row - total); };
  std::vector<nn::QueryBlock> blocks = rows.blocks;
  for (nn::QueryBlock& block : blocks) renumber(block, moved);
  std::vector<int64_t> held = heads->rows();
  for (int64_t& row : held) row = rows.ids[static_cast<size_t>(row)];
  split->heads = heads;
  return finish(blocks, held);
}

int64_t Placement::add(int64_t part, int64_t position) {
  positions_[part].push_back(position);
  const int64_t index = static_cast<int64_t>(positions_[part].size()) - 1;
  owners_.back().rows.emplace_back(part, index);
  return part * kPart + index;
}

int64_t Placement::add_und(int64_t id, int64_t position) {
  und_ids.push_back(id);
  return add(0, position);
}

int64_t Placement::resolve(int64_t row) const {
  const int64_t part = row / kPart, index = row % kPart;
  return index + (part == 0 ? 0 : num_und) + (part == kClean ? num_noisy : 0);
}

void Placement::place(const TextBlock& text, Reader& reader, const Group& group) {
  if (text.ids.empty()) return;
  nn::QueryBlock block;
  for (const int64_t id : text.ids) {
    block.queries.push_back(add_und(id, reader.position));
    reader.digest.add_token(id, reader.position++, static_cast<int64_t>(reader.visible.size() + block.queries.size()));
  }
  read(std::move(block), reader, group);
}

void Placement::place(const LatentBlock& image, Reader& reader, const Group& group) {
  clean.push_back(&image);
  nn::QueryBlock block;
  block.causal = false;
  block.queries.push_back(add_und(image_start_, reader.position));
  const int64_t end = add_und(image_end_, reader.position);
  for (int64_t i = 0; i < image.grid.num_tokens(); ++i) block.queries.push_back(add(kClean, reader.position));
  block.queries.push_back(end);
  reader.digest.add_image(image, reader.position++, static_cast<int64_t>(reader.visible.size() + block.queries.size()));
  read(std::move(block), reader, group);
}

void Placement::place(const VisionBlock& image, Reader& reader, const Group& group) {
  vision.push_back(&image);
  nn::QueryBlock block;
  block.causal = false;
  block.queries.push_back(add_und(image_start_, reader.position));
  for (int64_t i = 0; i < image.grid.num_tokens(); ++i) {
    vision_rows.push_back(add_und(image_start_, reader.position));
    block.queries.push_back(vision_rows.back());
  }
  block.queries.push_back(add_und(image_end_, reader.position));
  reader.digest.add_image(image, reader.position++, static_cast<int64_t>(reader.visible.size() + block.queries.size()));
  read(std::move(block), reader, group);
}

void Placement::place(const NoisyBlock& states, Reader& reader, const Group& group) {
  noisy.push_back(&states);
  owners_.back().drawn.push_back(&states);
  const int64_t count = states.latents.size(0);
  std::vector<int64_t> boundary;
  for (int64_t s = 0; s < count; ++s) {
    boundary.push_back(add_und(image_start_, reader.position));
    boundary.push_back(add_und(image_end_, reader.position));
  }
  for (int64_t s = 0; s < count; ++s) {
    nn::QueryBlock block;
    block.causal = false;
    block.queries.push_back(boundary[2 * s]);
    for (int64_t i = 0; i < states.grid.num_tokens(); ++i) block.queries.push_back(add(kNoisy, reader.position));
    block.queries.push_back(boundary[2 * s + 1]);
    block.keys = reader.visible;
    block.keys.insert(block.keys.end(), block.queries.begin(), block.queries.end());
    groups_[group].push_back(std::move(block));
  }
}

void Placement::place(const EncodedBlock& /*text*/, Reader& /*reader*/, const Group& /*group*/) {
  throw std::invalid_argument("an encoded text among tokens");
}

void Placement::place(const NoisyClip& /*states*/, Reader& /*reader*/, const Group& /*group*/) {
  throw std::invalid_argument("a clip among tokens");
}

void Placement::read(nn::QueryBlock block, Reader& reader, const Group& group) {
  reader.visible.insert(reader.visible.end(), block.queries.begin(), block.queries.end());
  block.keys = reader.visible;
  groups_[group].push_back(std::move(block));
}

}  // namespace unigrpo::policy
