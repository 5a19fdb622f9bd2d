#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace unigrpo::parallel {

/// A sum of tensors that come in the order of their places, 0, 1, 2, ..., some of which may be left out: by twos, then
/// those sums by twos, and so on. What is added to what depends on the places alone, so that it makes no difference to
/// the bits whether a power of two of neighbours is brought in together. It keeps one tensor for each power of two.
class PairwiseSum {
 public:
  /// `place`: beyond all before. Takes the tensor over, and may write to it.
  void add(int64_t place, at::Tensor term);
  /// Undefined where nothing was added. The sum begins anew.
  at::Tensor take();

 private:
  /// The sum of the places place x 2^level up to the next multiple.
  struct Node {
    int64_t level = 0, place = 0;
    at::Tensor sum = {};
  };
  bool has_pair() const;
  void widen_last();

  std::vector<Node> nodes_;  // the larger ones first
};

}  // namespace unigrpo::parallel
