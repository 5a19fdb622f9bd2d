#include "checkpoint/export_ltx2.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "io/model_folder.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "support/tiny_ltx2.h"

namespace unigrpo::checkpoint {
namespace {

using testing::TinyLtx2;

TEST(ExportLtx2, ShardsWithTheirIndexHoldTheSameBytes) {
  const testing::TempFolder scratch;
  const TinyLtx2 tiny("v23");
  export_ltx2(*tiny.model, scratch.path() / "out", {.shard_bytes = 200'000});
  const auto part = scratch.path() / "out" / "transformer";
  EXPECT_TRUE(std::filesystem::exists(part / "diffusion_pytorch_model.safetensors.index.json"));
  EXPECT_TRUE(std::filesystem::exists(part / "diffusion_pytorch_model-00002-of-00003.safetensors"));
  const auto before = io::Checkpoint::open(tiny.folder / "transformer"), after = io::Checkpoint::open(part);
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const io::TensorView* view : before.tensors()) {
    const io::TensorView* other = after.find(view->name);
    ASSERT_NE(other, nullptr) << view->name;
    EXPECT_TRUE(view->dtype == other->dtype && std::ranges::equal(view->bytes, other->bytes)) << view->name;
  }
  policy::ltx2::Model::load(scratch.path() / "out");  // what was written is read
}

TEST(ExportLtx2, AChangedWeightIsWrittenAndANarrowerTypeStaysNarrow) {
  const testing::TempFolder scratch;
  {
    const TinyLtx2 tiny("v20");
    const at::NoGradGuard no_grad;
    for (const NamedTensor& weight : tiny.model->part("transformer")) at::Tensor(weight.tensor).mul_(2);
    export_ltx2(*tiny.model, scratch.path() / "twice");
    const auto twice = policy::ltx2::Model::load(scratch.path() / "twice");
    EXPECT_TRUE(at::equal(twice->part("transformer").front().tensor, tiny.model->part("transformer").front().tensor));
    EXPECT_TRUE(at::equal(twice->part("vae").front().tensor, tiny.model->part("vae").front().tensor));
  }
  const TinyLtx2 half("v20", {.dtype = at::kBFloat16});
  export_ltx2(*half.model, scratch.path() / "half");
  EXPECT_EQ(io::Checkpoint::open(scratch.path() / "half" / "transformer").tensors().front()->dtype, io::DType::bf16);
  EXPECT_EQ(io::Checkpoint::open(scratch.path() / "half" / "vae").tensors().front()->dtype, io::DType::f32);
  // A bf16 folder opened in float32 comes back as it was.
  const auto wide = policy::ltx2::Model::load(scratch.path() / "half");
  export_ltx2(*wide, scratch.path() / "again");
  const auto before = io::Checkpoint::open(scratch.path() / "half" / "transformer"),
             after = io::Checkpoint::open(scratch.path() / "again" / "transformer");
  for (const io::TensorView* view : before.tensors()) {
    EXPECT_TRUE(std::ranges::equal(view->bytes, after.find(view->name)->bytes)) << view->name;
  }
}

TEST(ExportLtx2, AFolderInUseIsRefused) {
  const testing::TempFolder scratch;
  scratch.write("out/note.txt", "mine");
  const TinyLtx2 tiny("v20");
  const std::string out = (scratch.path() / "out").string();
  EXPECT_EQ(testing::message_of<BadInput>([&] { export_ltx2(*tiny.model, out); }),
            out + ": exists and is not an empty folder; give a new name");
}

}  // namespace
}  // namespace unigrpo::checkpoint
