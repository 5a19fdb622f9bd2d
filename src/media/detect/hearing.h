#pragma once

#include <optional>
#include <string>
#include <vector>

#include "media/clip.h"

/// What is heard in a wave, by its samples alone. Times are seconds from the first sample.
namespace unigrpo::media::detect {

/// Times at which the energy steps up: the first step of its logarithm over 5 ms, made precise within it.
std::vector<double> find_onsets(const Sound& sound);

/// The fundamental in Hz over 150 ms from a time on: the highest peak of the autocorrelation, parabolic. Empty where
/// nothing is periodic there.
std::optional<double> find_pitch(const Sound& sound, double from_s);
/// Semitones from middle C on, not rounded: class round(x) mod 12.
double semitones_of(double frequency);
/// Distance of two pitch classes in semitones, 0..6.
double class_distance(double semitones, int pitch);

/// The centre of the power spectrum in Hz over 60 ms from a time on, on 40 places up to half the rate.
double spectral_center(const Sound& sound, double from_s);

/// Decibels by which the right channel is louder; 0 where both are silent.
double right_level(const Sound& sound);

/// Root mean square of the first differences' band (about 300 to 3,000 Hz), a value every 4 ms.
std::vector<double> envelope(const Sound& sound);
inline constexpr double kEnvelopeHop_s = 0.004;
/// Times of the highest places of an envelope's bursts.
std::vector<double> find_bursts(const std::vector<double>& envelope);

/// Root mean square of all samples.
double loudness(const Sound& sound);

}  // namespace unigrpo::media::detect
