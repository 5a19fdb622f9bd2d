// Chains and orders of a graph of operators.
#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "base/text.h"
#include "planner/waves.h"

namespace unigrpo::planner {
namespace {

/// Depth first; throws with the path of a cycle.
std::vector<size_t> sorted(const std::vector<std::vector<size_t>>& deps,
                           const std::function<const std::string&(size_t)>& name) {
  enum class Mark { fresh, open, done };
  std::vector<Mark> marks(deps.size(), Mark::fresh);
  std::vector<size_t> out;
  struct Frame {
    size_t node, next;
  };
  for (size_t root = 0; root < deps.size(); ++root) {
    if (marks[root] != Mark::fresh) continue;
    std::vector<Frame> stack = {{root, 0}};
    marks[root] = Mark::open;
    while (!stack.empty()) {
      Frame& top = stack.back();
      if (top.next == deps[top.node].size()) {
        marks[top.node] = Mark::done;
        out.push_back(top.node);
        stack.pop_back();
        continue;
      }
      const size_t dep = deps[top.node][top.next++];
      if (marks[dep] == Mark::open) {
        std::vector<std::string> path;
        const auto start = std::ranges::find(stack, dep, &Frame::node);
        for (auto frame = start; frame != stack.end(); ++frame) path.push_back(in_quotes(name(frame->node)));
        path.push_back(in_quotes(name(dep)));
        throw BadInput("the graph is cyclic: {}", join(path, " needs "));
      }
      if (marks[dep] == Mark::fresh) {
        marks[dep] = Mark::open;
        stack.push_back({dep, 0});
      }
    }
  }
  return out;
}

}  // namespace

std::vector<size_t> order_of(const std::vector<MetaOp>& ops) {
  std::vector<std::vector<size_t>> deps;
  for (const MetaOp& op : ops) deps.push_back(op.deps);
  return sorted(deps, [&](size_t i) -> const std::string& { return ops[i].name; });
}

std::vector<Chain> contract(const std::vector<GraphNode>& nodes) {
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!index.emplace(nodes[i].name, i).second) throw BadInput("node {} stands twice", in_quotes(nodes[i].name));
  }
  std::vector<std::vector<size_t>> deps(nodes.size()), users(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const std::string& name : nodes[i].deps) {
      const auto found = index.find(name);
      if (found == index.end()) {
        throw BadInput("node {} needs {}, which is not there", in_quotes(nodes[i].name), in_quotes(name));
      }
      if (std::ranges::find(deps[i], found->second) == deps[i].end()) {
        deps[i].push_back(found->second);
        users[found->second].push_back(i);
      }
    }
  }
  std::vector<size_t> chain_of(nodes.size());
  std::vector<Chain> chains;
  for (const size_t i : sorted(deps, [&](size_t n) -> const std::string& { return nodes[n].name; })) {
    const bool joins =
        deps[i].size() == 1 && users[deps[i][0]].size() == 1 && nodes[deps[i][0]].signature == nodes[i].signature;
    if (joins) {
      chain_of[i] = chain_of[deps[i][0]];
    } else {
      chain_of[i] = chains.size();
      Chain& chain = chains.emplace_back();
      for (const size_t dep : deps[i]) {
        chain.deps.push_back(chain_of[dep]);
        chain.level = std::max(chain.level, chains[chain_of[dep]].level + 1);
      }
    }
    chains[chain_of[i]].members.push_back(nodes[i].name);
  }
  std::vector<size_t> order(chains.size()), place(chains.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::sort(order, {}, [&](size_t i) { return chains[i].members; });
  for (size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
  std::vector<Chain> out;
  for (const size_t i : order) {
    out.push_back(std::move(chains[i]));
    for (size_t& dep : out.back().deps) dep = place[dep];
  }
  return out;
}

}  // namespace unigrpo::planner
