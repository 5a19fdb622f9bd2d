#include "io/checkpoint_layout.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

TEST(Layout, ReadsAManifestBackAndNoticesEveryChange) {
  const testing::TempFolder folder;
  const Manifest manifest{.step = 20,
                          .world_size = 1,
                          .recipe_sha256 = "ab",
                          .files = {{.name = "policy.safetensors", .size = 123, .sha256 = "cd"}}};
  const std::string text = write_manifest(manifest);
  const Manifest found = read_manifest(folder.write("manifest.json", text));
  EXPECT_EQ(found.step, 20);
  ASSERT_EQ(found.files.size(), 1);
  EXPECT_EQ(found.files[0].size, 123);
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      const auto path = folder.write("manifest.json", damaged);
      try {
        read_manifest(path);
        // Only white space at the end may change its kind unseen.
        EXPECT_EQ(i, text.size() - 1) << "byte " << i << ", bit " << bit;
      } catch (const BadInput& error) {
        EXPECT_TRUE(std::string(error.what()).starts_with(path.string()));
      }
    }
  }
}

}  // namespace
}  // namespace unigrpo::io
