#include "parallel/stage_links.h"

#include <utility>

#include "parallel/groups.h"

namespace unigrpo::parallel {

StageLinks::StageLinks(const Groups& groups)
    : forward_{.ranks = groups.pipeline.get(), .purpose = "activations"},
      back_{.ranks = groups.pipeline_back.get(), .purpose = "gradients of activations"} {}

int64_t StageLinks::stage() const { return forward_.ranks->rank(); }
int64_t StageLinks::stages() const { return forward_.ranks->size(); }

void StageLinks::Link::expect(const at::Tensor& into, int64_t from) {
  coming.push_back({into, ranks->start_receive(into, from, purpose)});
}

at::Tensor StageLinks::Link::take() {
  const Coming first = std::move(coming.front());
  coming.pop_front();
  ranks->finish(*first.message);
  return first.tensor;
}

void StageLinks::Link::send(const at::Tensor& tensor, int64_t to) {
  finish();
  going = ranks->start_send(tensor, to, purpose);
}

void StageLinks::Link::finish() {
  if (going) ranks->finish(*std::exchange(going, nullptr));
}

void StageLinks::expect_from_previous(const at::Tensor& into) { forward_.expect(into, stage() - 1); }
void StageLinks::expect_from_next(const at::Tensor& into) { back_.expect(into, stage() + 1); }
at::Tensor StageLinks::from_previous() { return forward_.take(); }
at::Tensor StageLinks::from_next() { return back_.take(); }
void StageLinks::to_next(const at::Tensor& tensor) { forward_.send(tensor, stage() + 1); }
void StageLinks::to_previous(const at::Tensor& tensor) { back_.send(tensor, stage() - 1); }

void StageLinks::finish() {
  forward_.finish();
  back_.finish();
}

}  // namespace unigrpo::parallel
