#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo::planner {

/// Pieces of waves that want ranks: contiguous ones, near what they exchange data with, within the ranks' memory.
struct PlacementProblem {
  struct Flow {
    size_t from = 0;  // piece of an earlier wave
    double mb = 0;
  };
  struct Piece {
    std::string name;
    size_t op = 0;
    int64_t ranks = 1;
    std::vector<Flow> inputs;
  };
  int64_t ranks = 1, island = 1;  // an island: a node
  double intra_ms_per_mb = 0, inter_ms_per_mb = 0;
  double memory_mb = 0;
  std::vector<double> weight_mb;  // of each op: whole on every rank that ever runs it
  std::vector<Piece> pieces;
  std::vector<std::vector<size_t>> waves;  // pieces of each
};

struct Placement {
  std::vector<int64_t> start;  // first rank of each piece
  double cost_ms = 0;
};

/// Price of a flow of `mb` from n1 equal parts at s1 on to n2 equal parts at s2 on: every byte not on its rank yet is
/// carried once,
///
///   mb sum_ij max(0, min((i+1)/n1, (j+1)/n2) - max(i/n1, j/n2)) c(s1 + i, s2 + j)
///
/// c(x, x) = 0, within an island intra, else inter. A volume price, not a time.
double flow_ms(const PlacementProblem& problem, double mb, int64_t n1, int64_t s1, int64_t n2, int64_t s2);

double placement_ms(const PlacementProblem& problem, const std::vector<int64_t>& start);
/// Of the fullest rank.
double placement_mb(const PlacementProblem& problem, const std::vector<int64_t>& start);
/// Each wave's pieces in the given order from rank 0 on, no gaps.
std::vector<int64_t> naive_placement(const PlacementProblem& problem);

/// The cheapest found: exact for a few pieces, else annealed from several starts. Nothing where none that fits was
/// found. A function of its input alone. Throws BadInput where a wave needs more ranks than there are, or a flow does
/// not come from an earlier wave.
std::optional<Placement> place_waves(const PlacementProblem& problem);

/// Least found over placements of the fullest rank; exact for a few pieces.
double least_placement_mb(const PlacementProblem& problem);

}  // namespace unigrpo::planner
