// BAGEL's packed forward over whole sequences: what training differentiates.
#include <map>
#include <tuple>
#include <utility>

#include <ATen/ATen.h>

#include "policy/bagel.h"
#include "tensor/convert.h"

namespace unigrpo::policy {
namespace {

using tensor::index_tensor;

/// Packed rows: [ understanding: text, boundaries, vision | noisy latents | clean latents ]. While blocks are being placed the
/// sizes of the parts are not known yet, so a row is (part, index), written as part * kPart + index.
constexpr int64_t kPart = int64_t{1} << 40;
constexpr int64_t kNoisy = 1, kClean = 2;

/// Places the blocks of a batch in packed rows and says who sees whom.
class Placement {
 public:
  Placement(const TrainBatch& batch, int64_t image_start, int64_t image_end)
      : image_start_(image_start), image_end_(image_end) {
    std::vector<Reader> prefixes;
    for (const auto& prefix : batch.prefixes) {
      Reader reader;
      for (size_t k = 0; k < prefix.size(); ++k) place(prefix[k], reader, {0, k, prefix[k].kind});
      prefixes.push_back(std::move(reader));
    }
    for (const TrainSequence& sequence : batch.sequences) {
      Reader reader = prefixes.at(sequence.prefix);
      auto& read = digests.emplace_back();
      for (size_t k = 0; k < sequence.blocks.size(); ++k) {
        const Block& block = sequence.blocks[k];
        const size_t first = und_ids.size();
        place(block, reader, {1, k, block.kind});
        read.push_back(reader.digest);
        if (block.kind != Block::Kind::text) continue;
        for (size_t row = first; row < und_ids.size(); ++row) text_rows.push_back(static_cast<int64_t>(row));
      }
    }
    num_und = static_cast<int64_t>(und_ids.size());
    num_noisy = static_cast<int64_t>(positions_[kNoisy].size());
    num_rows = num_und + num_noisy + static_cast<int64_t>(positions_[kClean].size());
    const int64_t shift = batch.detach_context ? num_rows : 0;  // detached copies stand behind the rows
    for (auto& [group, members] : groups_) {
      const bool drawn = std::get<2>(group) == Block::Kind::noisy_image;
      part_sizes.push_back(static_cast<int64_t>(members.size()));
      for (nn::QueryBlock& block : members) {
        const size_t context = block.keys.size() - block.queries.size();
        for (int64_t& row : block.queries) row = resolve(row);
        for (int64_t& row : block.keys) row = resolve(row);
        if (drawn) {
          for (size_t k = 0; k < context; ++k) block.keys[k] += shift;
        }
        blocks.push_back(std::move(block));
      }
    }
    for (const auto& part : positions_) position_ids.insert(position_ids.end(), part.begin(), part.end());
  }

  std::vector<int64_t> und_ids;      // [num_und]; rows of vision tokens hold any id
  std::vector<int64_t> vision_rows;  // rows whose embeddings come from the vision tower
  std::vector<int64_t> text_rows;    // rows of the sequences' own text, in order
  std::vector<const Block*> noisy, clean, vision;
  std::vector<nn::QueryBlock> blocks;
  std::vector<int64_t> part_sizes, position_ids;
  int64_t num_und = 0, num_noisy = 0, num_rows = 0;
  std::vector<std::vector<ContextDigest>> digests;  // of each sequence, once each block was placed

 private:
  /// What a sequence has read so far.
  struct Reader {
    std::vector<int64_t> visible;
    int64_t position = 0;
    ContextDigest digest;
  };
  /// Blocks of alike shape form a padded batch: those of prefixes or of sequences, of one depth and kind.
  using Group = std::tuple<int, size_t, Block::Kind>;

  int64_t add(int64_t part, int64_t position) {
    positions_[part].push_back(position);
    return part * kPart + static_cast<int64_t>(positions_[part].size()) - 1;
  }
  int64_t add_und(int64_t id, int64_t position) {
    und_ids.push_back(id);
    return add(0, position);
  }
  int64_t resolve(int64_t row) const {
    const int64_t part = row / kPart, index = row % kPart;
    return index + (part == 0 ? 0 : num_und) + (part == kClean ? num_noisy : 0);
  }

  void place(const Block& source, Reader& reader, const Group& group) {
    const int64_t tokens = source.grid.num_tokens();
    switch (source.kind) {
      case Block::Kind::text: {
        if (source.ids.empty()) return;
        nn::QueryBlock block;
        for (const int64_t id : source.ids) {
          block.queries.push_back(add_und(id, reader.position));
          reader.digest.add_token(id, reader.position++, static_cast<int64_t>(reader.visible.size() + block.queries.size()));
        }
        read(std::move(block), reader, group);
        return;
      }
      case Block::Kind::latents:
      case Block::Kind::vision: {
        const bool latents = source.kind == Block::Kind::latents;
        (latents ? clean : vision).push_back(&source);
        nn::QueryBlock block;
        block.causal = false;
        const int64_t start = add_und(image_start_, reader.position);
        const int64_t end = latents ? add_und(image_end_, reader.position) : -1;
        block.queries.push_back(start);
        for (int64_t i = 0; i < tokens; ++i) {
          if (latents) {
            block.queries.push_back(add(kClean, reader.position));
          } else {
            vision_rows.push_back(add_und(image_start_, reader.position));
            block.queries.push_back(vision_rows.back());
          }
        }
        block.queries.push_back(latents ? end : add_und(image_end_, reader.position));
        reader.digest.add_image(source, reader.position++,
                                static_cast<int64_t>(reader.visible.size() + block.queries.size()));
        read(std::move(block), reader, group);
        return;
      }
      case Block::Kind::noisy_image: {
        noisy.push_back(&source);
        const int64_t states = source.latents.size(0);
        std::vector<int64_t> boundary;
        for (int64_t s = 0; s < states; ++s) {
          boundary.push_back(add_und(image_start_, reader.position));
          boundary.push_back(add_und(image_end_, reader.position));
        }
        for (int64_t s = 0; s < states; ++s) {
          nn::QueryBlock block;
          block.causal = false;
          block.queries.push_back(boundary[2 * s]);
          for (int64_t i = 0; i < tokens; ++i) block.queries.push_back(add(kNoisy, reader.position));
          block.queries.push_back(boundary[2 * s + 1]);
          block.keys = reader.visible;
          block.keys.insert(block.keys.end(), block.queries.begin(), block.queries.end());
          groups_[group].push_back(std::move(block));
        }
        return;
      }
    }
  }

  void read(nn::QueryBlock block, Reader& reader, const Group& group) {
    reader.visible.insert(reader.visible.end(), block.queries.begin(), block.queries.end());
    block.keys = reader.visible;
    groups_[group].push_back(std::move(block));
  }

  int64_t image_start_, image_end_;
  std::vector<int64_t> positions_[3];
  std::map<Group, std::vector<nn::QueryBlock>> groups_;
};

}  // namespace

TrainOutput Bagel::forward_train(const TrainBatch& batch) {
  const Placement placed(batch, image_start_, image_end_);
  const auto layout = std::make_shared<const nn::AttentionLayout>(placed.blocks, placed.part_sizes, placed.num_rows, device());
  const PackedTokens tokens{.num_und = placed.num_und,
                            .position_ids = index_tensor(placed.position_ids, device()),
                            .layout = layout,
                            .cache_slots = {},
                            .detached_copy = batch.detach_context};
  at::Tensor und = llm_->embed(index_tensor(placed.und_ids, device()));
  if (!placed.vision.empty()) {
    const at::Tensor seen = embed_vision(placed.vision).to(und.scalar_type());
    und = und.index_copy(0, index_tensor(placed.vision_rows, device()), seen);
  }
  std::vector<at::Tensor> embeds = {und};
  at::Tensor noisy;  // [sum of S, L, C]
  if (!placed.noisy.empty()) {
    std::vector<at::Tensor> latents, times;
    for (const Block* block : placed.noisy) {
      latents.push_back(block->latents);
      times.push_back(block->t);
    }
    noisy = at::cat(latents, 0);
    embeds.push_back(embed_latents(noisy, at::cat(times, 0), placed.noisy.front()->grid));
  }
  if (!placed.clean.empty()) embeds.push_back(embed_clean_latents(placed.clean));
  const at::Tensor hidden = llm_->forward(embeds.size() == 1 ? und : at::cat(embeds, 0), tokens, nullptr);
  TrainOutput output;
  output.digests = placed.digests;
  if (!placed.text_rows.empty()) {
    output.text_hidden = hidden.index_select(0, index_tensor(placed.text_rows, device()));
  }
  if (noisy.defined()) {
    output.velocity =
        llm2vae_(hidden.narrow(0, placed.num_und, placed.num_noisy)).to(at::kFloat).view(noisy.sizes());
  }
  return output;
}

}  // namespace unigrpo::policy
