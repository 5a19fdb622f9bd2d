#include "checkpoint/deal.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

/// Elements that a rank holds of a tensor that is spread.
struct Held {
  std::string part, name;
  io::DType dtype = io::DType::f32;
  std::vector<int64_t> shape;
  int64_t first = 0, count = 0;
};
template <typename Bytes, SameAs<Held> T>
void fields(Bytes& bytes, T& held) {
  bytes(held.part, held.name, held.dtype, held.shape, held.first, held.count);
}

/// What a rank says of its state.
struct Claim {
  std::map<std::string, std::string> counters;
  std::string whole;  // SHA-256 of the list of whole tensors
  std::vector<Held> pieces;
};
template <typename Bytes, SameAs<Claim> T>
void fields(Bytes& bytes, T& claim) {
  bytes(claim.counters, claim.whole, claim.pieces);
}

/// Elements of a part that the same ranks hold, and that are dealt among them.
struct Run {
  std::string name;
  int64_t first = 0, count = 0;
  int64_t element = 0;  // bytes
};
using Runs = std::map<std::pair<std::string, std::vector<int64_t>>, std::vector<Run>>;  // by part and holders
using Stored = std::map<std::string, io::StoredTensors>;

Claim claim_of(const Snapshot& snapshot) {
  Claim claim{.counters = snapshot.counters, .whole = {}, .pieces = {}};
  ByteWriter whole;
  for (const auto& [part, tensors] : snapshot.parts) {
    for (const NamedTensor& each : tensors) {
      const io::DType dtype = tensor::to_dtype(each.tensor.scalar_type());
      if (!each.piece) {
        whole(part, each.name, dtype, each.shape());
        continue;
      }
      claim.pieces.push_back({.part = part,
                              .name = each.name,
                              .dtype = dtype,
                              .shape = each.piece->shape,
                              .first = each.piece->first,
                              .count = each.tensor.numel()});
    }
  }
  claim.whole = sha256_hex(whole.take());
  return claim;
}

std::optional<std::string> value_of(const std::map<std::string, std::string>& counters, const std::string& key) {
  const auto found = counters.find(key);
  return found == counters.end() ? std::nullopt : std::optional(found->second);
}

std::string shown(const std::optional<std::string>& value) { return value ? in_quotes(*value, 40) : "absent"; }

/// What one rank alone would write for all must be what each of them has.
void require_alike(const std::vector<Claim>& claims) {
  for (size_t rank = 1; rank < claims.size(); ++rank) {
    if (claims[rank].whole != claims[0].whole) {
      throw RuntimeFailure("the states of the ranks differ: rank {} has other tensors than rank 0", rank);
    }
    const auto &own = claims[0].counters, &other = claims[rank].counters;
    if (own == other) continue;
    std::set<std::string> keys;
    for (const auto* counters : {&own, &other}) {
      for (const auto& entry : *counters) keys.insert(entry.first);
    }
    for (const std::string& key : keys) {
      const auto here = value_of(own, key), there = value_of(other, key);
      if (here == there) continue;
      throw RuntimeFailure("the states of the ranks differ: '{}' is {} on rank 0, {} on rank {}", key, shown(here),
                           shown(there), rank);
    }
  }
}

void add_whole_tensors(const Snapshot& snapshot, size_t num_ranks, Stored& stored, Runs& runs) {
  std::vector<int64_t> all;
  for (size_t rank = 0; rank < num_ranks; ++rank) all.push_back(static_cast<int64_t>(rank));
  for (const auto& [part, tensors] : snapshot.parts) {
    for (const NamedTensor& each : tensors) {
      if (each.piece) continue;
      const at::Tensor& tensor = each.tensor;
      stored[part][each.name] = {.dtype = tensor::to_dtype(tensor.scalar_type()), .shape = tensor.sizes().vec()};
      runs[{part, all}].push_back(
          {.name = each.name, .count = tensor.numel(), .element = static_cast<int64_t>(tensor.element_size())});
    }
  }
}

/// Where a rank begins or ceases to hold elements of a tensor.
struct Edge {
  int64_t at = 0;
  bool begins = false;
  int64_t rank = 0;
};

void add_pieces(const std::vector<Claim>& claims, Stored& stored, Runs& runs) {
  std::map<std::pair<std::string, std::string>, std::vector<Edge>> edges;
  for (size_t rank = 0; rank < claims.size(); ++rank) {
    for (const Held& held : claims[rank].pieces) {
      const auto [tensor, is_new] =
          stored[held.part].emplace(held.name, io::StoredTensor{.dtype = held.dtype, .shape = held.shape});
      const int64_t size = c10::multiply_integers(held.shape);
      if (tensor->second.dtype != held.dtype || tensor->second.shape != held.shape || held.first < 0 ||
          held.count > size - held.first) {
        throw RuntimeFailure("the states of the ranks differ: rank {} holds another '{}' of {}", rank, held.name,
                             held.part);
      }
      std::vector<Edge>& own = edges[{held.part, held.name}];
      if (held.count == 0) continue;
      own.push_back({.at = held.first, .begins = true, .rank = static_cast<int64_t>(rank)});
      own.push_back({.at = held.first + held.count, .begins = false, .rank = static_cast<int64_t>(rank)});
    }
  }
  for (auto& [key, list] : edges) {
    const std::string &part = key.first, &name = key.second;
    const io::StoredTensor& tensor = stored[part].find(name)->second;
    std::ranges::sort(list, {}, [](const Edge& edge) { return std::tuple(edge.at, edge.begins, edge.rank); });
    std::set<int64_t> holders;
    int64_t from = 0;
    const auto close = [&](int64_t to) {
      if (to == from) return;
      if (holders.empty()) {
        throw RuntimeFailure("no rank holds the elements {} to {} of '{}' of {}", from, to - 1, name, part);
      }
      runs[{part, {holders.begin(), holders.end()}}].push_back(
          {.name = name,
           .first = from,
           .count = to - from,
           .element = static_cast<int64_t>(io::dtype_size(tensor.dtype))});
      from = to;
    };
    for (const Edge& edge : list) {
      close(edge.at);
      if (edge.begins) {
        holders.insert(edge.rank);
      } else {
        holders.erase(edge.rank);
      }
    }
    close(c10::multiply_integers(tensor.shape));
  }
}

/// Of each part the k-th of K holders writes the bytes from k / K to (k + 1) / K of what they hold, cut between
/// elements.
void deal_runs(const Runs& runs, int64_t num_ranks, Stored& stored) {
  for (const auto& [key, list] : runs) {
    const auto& [part, holders] = key;
    const auto num_holders = static_cast<int64_t>(holders.size());
    int64_t total = 0, before = 0;
    for (const Run& run : list) total += run.count * run.element;
    for (const Run& run : list) {
      int64_t from = 0;
      for (int64_t k = 0; k < num_holders && from < run.count; ++k) {
        const int64_t end = (total * (k + 1) / num_holders - before) / run.element;
        const int64_t to = k + 1 == num_holders ? run.count : std::clamp(end, from, run.count);
        if (to == from) continue;
        stored[part].find(run.name)->second.pieces.push_back(
            {.file = io::part_file_name(part, holders[static_cast<size_t>(k)], num_ranks),
             .first = run.first + from,
             .count = to - from});
        from = to;
      }
      before += run.count * run.element;
    }
  }
  for (auto& [part, tensors] : stored) {
    for (auto& [name, tensor] : tensors) std::ranges::sort(tensor.pieces, {}, &io::StoredPiece::first);
  }
}

}  // namespace

Stored deal(const Snapshot& snapshot, const Runtime& runtime) {
  const std::vector<Claim> claims = gather(runtime, claim_of(snapshot), "checkpoint");
  require_alike(claims);
  Stored stored;
  Runs runs;
  add_whole_tensors(snapshot, claims.size(), stored, runs);
  add_pieces(claims, stored, runs);
  deal_runs(runs, static_cast<int64_t>(claims.size()), stored);
  return stored;
}

std::map<std::string, NamedTensors> own_pieces(const Snapshot& snapshot, const Stored& dealt, const Runtime& runtime) {
  std::map<std::string, NamedTensors> own;
  for (const auto& [part, tensors] : dealt) {
    std::map<std::string_view, std::vector<const NamedTensor*>> held;
    if (const auto found = snapshot.parts.find(part); found != snapshot.parts.end()) {
      for (const NamedTensor& each : found->second) held[each.name].push_back(&each);
    }
    const std::string file = io::part_file_name(part, runtime.mesh.rank, runtime.mesh.world_size);
    for (const auto& [name, tensor] : tensors) {
      for (const io::StoredPiece& piece : tensor.pieces) {
        if (piece.file != file) continue;
        const auto begin_of = [](const NamedTensor& each) { return each.piece ? each.piece->first : 0; };
        const auto holds = [&](const NamedTensor* each) {
          return begin_of(*each) <= piece.first && piece.first < begin_of(*each) + each->tensor.numel();
        };
        const NamedTensor& from = **std::ranges::find_if(held.at(name), holds);
        const int64_t begin = begin_of(from);
        own[part].push_back({io::piece_name(name, piece.first),
                             from.tensor.detach().reshape({-1}).narrow(0, piece.first - begin, piece.count)});
      }
    }
  }
  return own;
}

std::map<std::string, NamedTensors> whole_tensors(const Snapshot& snapshot) {
  std::map<std::string, NamedTensors> whole;
  for (const auto& [part, tensors] : snapshot.parts) {
    for (const NamedTensor& each : tensors) {
      whole[part].push_back({each.name, each.tensor.detach().view(each.shape())});
    }
  }
  return whole;
}

}  // namespace unigrpo::checkpoint
