#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "io/image.h"

/// What can be measured of images and texts without judging them; monitor/drift_monitor.h watches it. Images have at
/// least one pixel. A pixel's luma is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded to 0..255. Words are what
/// white space separates; an n-gram is n of them in a row, the white space between them as it stands.
namespace unigrpo::data {

/// Mean luma / 255, in [0, 1].
double brightness(const Image& image);

/// Mean over pixels of (max - min) of the channels / 255, in [0, 1]: 0 for grey, whatever its brightness.
double chroma(const Image& image);

/// Share of pixels with a luma below 64, in [0, 1].
double dark_share(const Image& image);

/// Share of pixels, in [0, 1], with an HSV saturation (max - min) / max of at least 1/4 and a brightest channel of at
/// least 64, below which saturation is mostly noise.
double saturated_share(const Image& image);

/// Share of pixels, in [0, 1], where the luma changes by at least 8 levels a pixel: the length of the 3x3 Sobel
/// gradient / 8, the border's pixels repeated outwards.
double edge_density(const Image& image);

/// Shannon entropy in bits of the image's histogram over 8x8x8 colours (a channel's three highest bits): 0 for one
/// colour, at most 9.
double color_entropy(const Image& image);

/// How far a group's images are apart, in [0, 1]: root of the mean squared difference over all pairs, pixels and
/// channels of the images brought to 8x8 by the means over areas, channels in [0, 1]. Nothing for fewer than two.
std::optional<double> image_diversity(std::span<const Image* const> images);

/// Share of a text's 3-grams, in [0, 1), that stood in it before; 0 for a text without any.
double text_repetition(std::string_view text);

/// Distinct-2 (Li et al., arXiv 1510.03055): different 2-grams of a group's texts over all of them, in (0, 1]; small
/// where the texts are alike. Comparable between groups of one size. Nothing where there is no 2-gram.
std::optional<double> text_diversity(std::span<const std::string_view> texts);

}  // namespace unigrpo::data
