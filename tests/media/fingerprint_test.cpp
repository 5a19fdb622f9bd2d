#include "media/detect/fingerprint.h"

#include <bit>

#include "media/clips.h"

namespace unigrpo::media::detect {
namespace {

TEST(HashPictures, AreThoseOfTheSamePictureAtAnotherBrightness) {
  Clip clip = moving_disc({});
  const auto before = hash_pictures(clip.frames);
  for (uint8_t& value : clip.frames.pixels) value = static_cast<uint8_t>(value * 0.9);
  const auto after = hash_pictures(clip.frames), other = hash_pictures(moving_disc({}, 9).frames);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_LE(std::popcount(before[i] ^ after[i]), 4);
    EXPECT_GT(std::popcount(before[i] ^ other[i]), 10);
  }
}

TEST(SoundDistance, TellsOneToneFromAnother) {
  const auto one = hash_sound(moving_disc({.count = 32}).sound),
             other = hash_sound(moving_disc({.count = 32}, 9).sound);
  Sound soft = moving_disc({.count = 32}).sound;
  for (float& sample : soft.samples) sample *= 0.5F;
  EXPECT_LE(sound_distance(one, hash_sound(soft)), 0.02);
  EXPECT_GT(sound_distance(one, other), 0.3);
}

TEST(SoundDistance, SilenceIsLikeSilenceAlone) {
  Sound silence = moving_disc({.count = 32}).sound;
  silence.samples.assign(silence.samples.size(), 0);
  const auto one = hash_sound(moving_disc({.count = 32}).sound), none = hash_sound(silence);
  EXPECT_EQ(sound_distance(none, none), 0);
  EXPECT_EQ(sound_distance(one, none), 1);
  EXPECT_EQ(sound_distance({}, {}), 0);
}

}  // namespace
}  // namespace unigrpo::media::detect
