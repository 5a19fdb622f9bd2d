#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "nn/attention.h"
#include "nn/row_exchange.h"
#include "policy/mot_transformer.h"
#include "policy/policy.h"

namespace unigrpo::policy {

struct LayerRanks;
struct ModelRanks;  // layer_split.h

/// Places the blocks of a batch in packed rows and says who sees whom. The rows, part by part:
/// [ understanding: text, boundaries, vision | noisy latents | clean latents ].
class Placement {
 public:
  /// image_start, image_end: ids of an image's boundary tokens. `batch` must outlive the placement.
  Placement(const TrainBatch& batch, int64_t image_start, int64_t image_end);

  /// A number for each row, of its sequence and its place in it, not of the batch. [num_rows] Of the sequence count its
  /// tokens and the times of its noisy states; latents do not, which rounding may change.
  std::vector<int64_t> row_numbers() const;

  /// For MotTransformer::forward without a cache; on the host still. options: of the transformer. `ranks`: those that
  /// share the rows, or null; then num_und and positions are of this rank's rows.
  PackedTokens packed(const at::TensorOptions& options, const ModelRanks* ranks) const;

  std::vector<int64_t> und_ids;      // [num_und]; rows of vision tokens hold any id
  std::vector<int64_t> vision_rows;  // rows whose embeddings come from the vision tower
  std::vector<int64_t> text_rows;    // rows of the sequences' own text, in order
  std::vector<const NoisyBlock*> noisy;
  std::vector<const LatentBlock*> clean;
  std::vector<const VisionBlock*> vision;
  int64_t num_und = 0, num_noisy = 0, num_rows = 0;
  std::vector<std::vector<ContextDigest>> digests;  // of each sequence, once each block was placed

 private:
  /// What a sequence has read so far.
  struct Reader {
    std::vector<int64_t> visible;
    int64_t position = 0;
    ContextDigest digest;
  };
  /// Blocks of alike shape form a padded batch: those of prefixes or of sequences, of one depth and kind
  /// (Block's index).
  using Group = std::tuple<int, size_t, size_t>;

  /// What a row belongs to: a prefix, or a sequence after its prefix.
  struct Owner {
    int64_t prefix = -1;                                 // of a sequence
    ContextDigest digest = {};                           // once all of it was placed
    std::vector<const NoisyBlock*> drawn = {};           // which digests leave out
    std::vector<std::pair<int64_t, int64_t>> rows = {};  // part and index
  };
  /// Rows that a set of ranks works on: all, or those of some sequences and their prefixes.
  struct Rows {
    std::vector<int64_t> ids = {};  // which of all, in their order
    int64_t num_und = 0;
    std::vector<nn::QueryBlock> blocks = {};  // by their places among these
    std::vector<int64_t> part_sizes = {};
  };
  /// Of each of `sets` sets of ranks, so that none has much more than others; a prefix belongs to all that have
  /// sequences of it.
  std::vector<Rows> deal(int64_t sets) const;
  Rows rows_of(const std::vector<bool>& owners) const;
  static nn::RowHolders holders(const std::vector<Rows>& sets, int64_t ranks_each);
  std::shared_ptr<LayerSplit> split_for(const LayerRanks& ranks, int64_t rank, const Rows& rows,
                                        const at::TensorOptions& options) const;
  int64_t add(int64_t part, int64_t position);
  int64_t add_und(int64_t id, int64_t position);
  int64_t resolve(int64_t row) const;
  void place(const TextBlock& text, Reader& reader, const Group& group);
  void place(const LatentBlock& image, Reader& reader, const Group& group);
  void place(const VisionBlock& image, Reader& reader, const Group& group);
  void place(const NoisyBlock& states, Reader& reader, const Group& group);
  void place(const EncodedBlock& text, Reader& reader, const Group& group);
  void place(const NoisyClip& states, Reader& reader, const Group& group);
  void place(const Block& block, Reader& reader, const Group& group) {
    std::visit([&](const auto& kind) { place(kind, reader, group); }, block);
  }
  void read(nn::QueryBlock block, Reader& reader, const Group& group);

  int64_t image_start_, image_end_;
  bool detach_context_;
  std::vector<int64_t> positions_[3];
  std::vector<Owner> owners_;  // prefixes first; the last one is being placed
  std::map<Group, std::vector<nn::QueryBlock>> groups_;
  std::vector<nn::QueryBlock> blocks_;
  std::vector<int64_t> part_sizes_, position_ids_;
};

}  // namespace unigrpo::policy
