// What crosses to a device crosses together, and what comes back is waited for once.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/pretend_device.h"
#include "tensor/device.h"

namespace unigrpo::tensor {
namespace {

using testing::device_copies;
using testing::pretend_device;

TEST(SendTogether, TensorsOfAllTypesTakeOneCopy) {
  at::Tensor ids = at::arange(5), mask = at::arange(7).gt(3).view({7, 1}), x = at::randn({3, 5, 2}).transpose(0, 1),
             flags = at::full({1}, 3, at::kInt), none, empty = at::empty({0, 4});
  const std::vector<at::Tensor> before = {ids, mask, x, flags};
  const testing::DeviceCopies copies = device_copies();
  send_together({&ids, &none, &mask, &x, &empty, &flags}, pretend_device());
  EXPECT_EQ(device_copies().to_device - copies.to_device, 1);
  EXPECT_EQ(device_copies().to_host, copies.to_host);
  EXPECT_FALSE(none.defined());
  EXPECT_EQ(empty.sizes(), (std::vector<int64_t>{0, 4}));
  const at::Tensor* after[] = {&ids, &mask, &x, &flags};
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(after[i]->device(), pretend_device());
    EXPECT_EQ(after[i]->scalar_type(), before[i].scalar_type());
    EXPECT_TRUE(at::equal(after[i]->cpu(), before[i])) << i;
  }
}

TEST(SendTogether, WhatIsThereStaysAndTheCpuNeedsNothing) {
  at::Tensor there = at::ones({2}, at::TensorOptions(at::kFloat).device(pretend_device())), here = at::ones({3});
  const void* memory = there.data_ptr();
  send_together({&there, &here}, pretend_device());
  EXPECT_EQ(there.data_ptr(), memory);
  at::Tensor stays = at::ones({3});
  const at::Tensor same = stays;
  send_together({&stays}, at::kCPU);
  EXPECT_TRUE(stays.is_same(same));
}

TEST(Readings, AreReadInOneCopyInTheirOrder) {
  const at::Tensor numbers = at::tensor({0.5F, 1.0F / 3}).to(pretend_device());
  Readings readings;
  readings.add("b", numbers[0]);
  readings.add("a", numbers[1]);
  readings.add("b", numbers.sum().to(at::kDouble));
  const int64_t before = device_copies().to_host;
  const auto read = readings.read();
  EXPECT_EQ(device_copies().to_host - before, 1);
  ASSERT_EQ(read.size(), 3U);
  EXPECT_EQ(read[0], std::pair(std::string("b"), 0.5));
  EXPECT_EQ(read[1], std::pair(std::string("a"), static_cast<double>(1.0F / 3)));
  EXPECT_EQ(read[2].first, "b");
  EXPECT_TRUE(readings.read().empty());
}

}  // namespace
}  // namespace unigrpo::tensor
