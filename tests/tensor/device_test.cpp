#include "tensor/device.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace unigrpo::tensor {
namespace {

std::string complaint(const std::string& text) {
  try {
    device_of(text, "policy.device");
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

TEST(DeviceOf, TheCpuIsAlwaysThere) { EXPECT_TRUE(device_of("cpu", "policy.device").is_cpu()); }

TEST(DeviceOf, OtherTextsAreRefusedByTheirKey) {
  for (const char* text : {"", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:0x", "cuda:1 ", "cuda0", "cuda:999"}) {
    EXPECT_EQ(complaint(text),
              "policy.device: expected \"cpu\", \"cuda\" or \"cuda:N\", got \"" + std::string(text) + "\"");
  }
}

TEST(DeviceOf, ADeviceThatIsNotHereIsRefused) {
  if (!at::globalContext().hasCUDA()) {
    EXPECT_NE(complaint("cuda").find("policy.device: \"cuda\" needs a build with CUDA"), std::string::npos);
  }
  EXPECT_NE(complaint("cuda:127"), "");
}

TEST(Precision, NothingIsRoundedBehindOnesBack) {
  set_precision(/*deterministic=*/true);
  const at::Context& context = at::globalContext();
  EXPECT_FALSE(context.allowTF32CuBLAS());
  EXPECT_FALSE(context.allowTF32CuDNN());
  EXPECT_EQ(context.allowBF16ReductionCuBLAS(), at::CuBLASReductionOption::DisallowReducedPrecisionAllowSplitK);
  EXPECT_TRUE(context.deterministicAlgorithms());
  at::globalContext().setDeterministicAlgorithms(false, false);
}

}  // namespace
}  // namespace unigrpo::tensor
