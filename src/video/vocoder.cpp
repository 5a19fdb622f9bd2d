#include "video/vocoder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>

#include "io/class_config.h"
#include "tensor/shape.h"
#include "video/conv.h"

namespace unigrpo::video {
namespace {

/// The keys of one generator, `prefix` before each; the defaults are those of its class.
GeneratorConfig read_generator(io::ClassConfig& file, const std::string& prefix, GeneratorConfig c) {
  const auto key = [&](const char* name) { return prefix + name; };
  c.in_channels = file.integer(key("in_channels").c_str(), c.in_channels, 1 << 16);
  c.hidden_channels = file.integer(key("hidden_channels").c_str(), c.hidden_channels, 1 << 16);
  c.out_channels = file.integer(key("out_channels").c_str(), c.out_channels, 64);
  c.upsample_kernel_sizes = file.integers(key("upsample_kernel_sizes").c_str(), c.upsample_kernel_sizes);
  c.upsample_factors = file.integers(key("upsample_factors").c_str(), c.upsample_factors);
  c.resnet_kernel_sizes = file.integers(key("resnet_kernel_sizes").c_str(), c.resnet_kernel_sizes);
  c.resnet_dilations = file.integer_lists(key("resnet_dilations").c_str(), c.resnet_dilations);
  c.act_fn = file.choice(key("act_fn").c_str(), c.act_fn, {"leaky_relu", "snake", "snakebeta"});
  c.negative_slope = file.number(key("leaky_relu_negative_slope").c_str(), c.negative_slope);
  c.antialias = file.boolean(key("antialias").c_str(), c.antialias);
  c.antialias_ratio = file.integer(key("antialias_ratio").c_str(), c.antialias_ratio, 64);
  c.antialias_kernel_size = file.integer(key("antialias_kernel_size").c_str(), c.antialias_kernel_size, 4096);
  c.final_act_fn = file.choice_or_none(key("final_act_fn").c_str(), c.final_act_fn, {"tanh", "clamp"});
  c.final_bias = file.boolean(key("final_bias").c_str(), c.final_bias);

  if (c.upsample_factors.size() != c.upsample_kernel_sizes.size()) {
    file.refuse(key("upsample_factors").c_str(),
                fmt::format("must have {} entries, has {}", c.upsample_kernel_sizes.size(), c.upsample_factors.size()));
  }
  for (size_t i = 0; i < c.upsample_factors.size(); ++i) {
    if (c.upsample_kernel_sizes[i] < c.upsample_factors[i]) {
      file.refuse(key("upsample_kernel_sizes").c_str(),
                  fmt::format("{} is below its factor {}", c.upsample_kernel_sizes[i], c.upsample_factors[i]));
    }
  }
  if (c.resnet_dilations.size() != c.resnet_kernel_sizes.size()) {
    file.refuse(key("resnet_dilations").c_str(),
                fmt::format("must have {} entries, has {}", c.resnet_kernel_sizes.size(), c.resnet_dilations.size()));
  }
  if (c.antialias_kernel_size < 2 * c.antialias_ratio) {
    file.refuse(key("antialias_kernel_size").c_str(), fmt::format("must be at least {}", 2 * c.antialias_ratio));
  }
  if (c.act_fn == "leaky_relu" && c.antialias) {
    file.refuse(key("antialias").c_str(), "is true; with leaky_relu only false is supported");
  }
  if (c.hidden_channels >> c.upsample_factors.size() < 1) {
    file.refuse(key("hidden_channels").c_str(), "must be halved by each entry of upsample_factors");
  }
  return c;
}

/// y = x + sin(a x)^2 / b, with a = exp(alpha) and b = exp(beta) a channel (snake, arXiv 2006.08195; BigVGAN).
struct Snake {
  at::Tensor alpha, beta;  // [C]; beta undefined: alpha

  Snake(nn::Weights& w, const std::string& name, int64_t channels, bool with_beta)
      : alpha(w.take(name + ".alpha", {channels})) {
    if (with_beta) beta = w.take(name + ".beta", {channels});
  }
  at::Tensor operator()(const at::Tensor& x) const {
    const auto by_channel = [](const at::Tensor& t) { return t.exp().view({1, -1, 1}); };
    const at::Tensor frequency = by_channel(alpha);
    const at::Tensor amplitude = beta.defined() ? by_channel(beta) : frequency;
    return at::addcmul(x, (x * frequency).sin().square(), (amplitude + 1e-9).reciprocal());
  }
};

/// An activation at `ratio` times the rate, so that what it adds above the band is filtered out again.
struct AntiAliased {
  Snake act;
  at::Tensor up, down;  // low-pass filters [1, 1, kernel]
  int64_t ratio;

  AntiAliased(nn::Weights& w, const std::string& name, int64_t channels, bool with_beta, const GeneratorConfig& c)
      : act(w, name + ".act", channels, with_beta),
        up(w.take(name + ".upsample.filter", {1, 1, c.antialias_kernel_size})),
        down(w.take(name + ".downsample.filter", {1, 1, c.antialias_kernel_size})),
        ratio(c.antialias_ratio) {}

  at::Tensor operator()(const at::Tensor& x) const {
    const int64_t b = x.size(0), channels = x.size(1), kernel = up.size(2);
    // One filter for all channels, which become samples.
    const int64_t pad = kernel / ratio - 1;
    const at::Tensor rows = at::replication_pad1d(x.reshape({b * channels, 1, -1}), {pad, pad});
    const at::Tensor raised = at::conv_transpose1d(rows, up * ratio, std::nullopt, ratio);
    const int64_t left = pad * ratio + (kernel - ratio) / 2, right = pad * ratio + (kernel - ratio + 1) / 2;
    const at::Tensor fine = raised.narrow(2, left, raised.size(2) - left - right).view({b, channels, -1});
    const at::Tensor active = act(fine).view({b * channels, 1, -1});
    const at::Tensor padded = at::replication_pad1d(active, {kernel / 2 + kernel % 2 - 1, kernel / 2});
    return at::conv1d(padded, down, std::nullopt, ratio).view({b, channels, -1});
  }
};

/// An activation of one kind.
struct Activation {
  std::optional<AntiAliased> anti_aliased = {};
  std::optional<Snake> snake = {};
  double negative_slope = 0;

  at::Tensor operator()(const at::Tensor& x) const {
    if (anti_aliased) return (*anti_aliased)(x);
    return snake ? (*snake)(x) : at::leaky_relu(x, negative_slope);
  }
};

Activation take_activation(nn::Weights& w, const std::string& name, int64_t channels, const GeneratorConfig& c) {
  Activation act{.negative_slope = c.negative_slope};
  const bool with_beta = c.act_fn == "snakebeta";
  if (c.act_fn == "leaky_relu") return act;
  if (c.antialias) {
    act.anti_aliased.emplace(w, name, channels, with_beta, c);
  } else {
    act.snake.emplace(w, name, channels, with_beta);
  }
  return act;
}

struct ResBlock {
  struct Step {
    Activation act1;
    Conv conv1;
    Activation act2;
    Conv conv2;
  };
  std::vector<Step> steps;
  int64_t kernel;
  std::vector<int64_t> dilations;

  ResBlock(nn::Weights& w, const std::string& name, int64_t channels, int64_t kernel_,
           const std::vector<int64_t>& dilations_, const GeneratorConfig& c)
      : kernel(kernel_), dilations(dilations_) {
    for (size_t i = 0; i < dilations.size(); ++i) {
      const auto conv = [&](const char* part, int64_t dilation) {
        return take_conv(w, fmt::format("{}.{}.{}", name, part, i),
                         {.out = channels, .in = channels, .kernel = {kernel}, .dilation = {dilation}});
      };
      steps.push_back({.act1 = take_activation(w, fmt::format("{}.acts1.{}", name, i), channels, c),
                       .conv1 = conv("convs1", dilations[i]),
                       .act2 = take_activation(w, fmt::format("{}.acts2.{}", name, i), channels, c),
                       .conv2 = conv("convs2", 1)});
    }
  }
  /// As long as x; an even kernel has its odd sample of padding on the right.
  static at::Tensor same(const Conv& conv, const at::Tensor& x) {
    const int64_t extra = conv.dilation[0] * (conv.weight.size(2) - 1);
    if (extra % 2 != 0) return conv(at::constant_pad_nd(x, {extra / 2, extra - extra / 2}, 0));
    return at::conv1d(x, conv.weight, conv.bias, 1, extra / 2, conv.dilation[0]);
  }
  at::Tensor operator()(at::Tensor x) const {
    for (const Step& step : steps) x = x + same(step.conv2, step.act2(same(step.conv1, step.act1(x))));
    return x;
  }
};

/// Hann-windowed sinc, what a resampler by a whole ratio filters with: [1, 1, kernel].
at::Tensor resampling_filter(int64_t ratio, int64_t half_width) {
  constexpr double kRolloff = 0.99, kWidth = 6;
  const int64_t size = 2 * half_width * ratio + 1;
  const at::Tensor time =
      (at::arange(size, at::kFloat) / static_cast<double>(ratio) - static_cast<double>(half_width)) * kRolloff;
  const at::Tensor window = (time.clamp(-kWidth, kWidth) * std::numbers::pi / kWidth / 2).cos().square();
  return (at::sinc(time) * window * kRolloff / static_cast<double>(ratio)).view({1, 1, -1});
}

}  // namespace

VocoderConfig read_vocoder_config(const std::filesystem::path& path) {
  auto file = io::ClassConfig::open(path, {"LTX2Vocoder", "LTX2VocoderWithBWE"});
  const bool extends = file.class_name() == "LTX2VocoderWithBWE";
  const std::vector<std::vector<int64_t>> dilations(3, {1, 3, 5});
  VocoderConfig c;
  GeneratorConfig first{.upsample_kernel_sizes = {16, 15, 8, 4, 4},
                        .upsample_factors = {6, 5, 2, 2, 2},
                        .resnet_kernel_sizes = {3, 7, 11},
                        .resnet_dilations = dilations,
                        .final_act_fn = "tanh"};
  if (extends) {
    first.hidden_channels = 1536;
    first.upsample_kernel_sizes = {11, 4, 4, 4, 4, 4};
    first.upsample_factors = {5, 2, 2, 2, 2, 2};
    first.act_fn = "snakebeta";
    first.antialias = true;
    first.final_act_fn = "";
    first.final_bias = false;
  }
  c.generator = read_generator(file, "", first);
  c.output_rate = file.integer("output_sampling_rate", extends ? 48000 : 24000, 1'000'000);
  if (extends) {
    GeneratorConfig second = first;
    second.hidden_channels = 512;
    second.upsample_kernel_sizes = {12, 11, 4, 4, 4};
    second.upsample_factors = {6, 5, 2, 2, 2};
    BandwidthExtensionConfig& e = c.extension.emplace();
    e.generator = read_generator(file, "bwe_", second);
    e.filter_length = file.integer("filter_length", 512, 1 << 16);
    e.hop_length = file.integer("hop_length", 80, 1 << 16);
    e.window_length = file.integer("window_length", 512, 1 << 16);
    e.num_mel_channels = file.integer("num_mel_channels", 64, 4096);
    e.input_rate = file.integer("input_sampling_rate", 16000, 1'000'000);
    if (c.output_rate % e.input_rate != 0) {
      file.refuse("output_sampling_rate", fmt::format("must be a multiple of input_sampling_rate {}", e.input_rate));
    }
  }
  file.finish();
  return c;
}

struct Vocoder::Generator {
  GeneratorConfig config;
  Conv conv_in;
  std::vector<Conv> upsamplers;
  std::vector<std::vector<ResBlock>> resnets;  // in parallel behind each upsampler
  std::optional<AntiAliased> act_out;          // else a leaky ReLU of PyTorch's own slope
  Conv conv_out;

  Generator(const GeneratorConfig& c, nn::Weights& w, const std::string& prefix)
      : config(c),
        conv_in(take_conv(w, prefix + "conv_in",
                          {.out = c.hidden_channels, .in = c.in_channels, .kernel = {7}, .padding = {3}})) {
    int64_t channels = c.hidden_channels;
    for (size_t i = 0; i < c.upsample_factors.size(); ++i) {
      const int64_t in = channels, kernel = c.upsample_kernel_sizes[i], factor = c.upsample_factors[i];
      channels /= 2;
      upsamplers.push_back(take_conv(w, fmt::format("{}upsamplers.{}", prefix, i),
                                     {.out = channels,
                                      .in = in,
                                      .kernel = {kernel},
                                      .stride = {factor},
                                      .padding = {(kernel - factor) / 2},
                                      .transposed = true}));
      std::vector<ResBlock>& level = resnets.emplace_back();
      for (size_t j = 0; j < c.resnet_kernel_sizes.size(); ++j) {
        level.emplace_back(w, fmt::format("{}resnets.{}", prefix, i * c.resnet_kernel_sizes.size() + j), channels,
                           c.resnet_kernel_sizes[j], c.resnet_dilations[j], c);
      }
    }
    if (c.act_fn != "leaky_relu") act_out.emplace(w, prefix + "act_out", channels, /*with_beta=*/true, c);
    conv_out = take_conv(w, prefix + "conv_out",
                         {.out = c.out_channels, .in = channels, .kernel = {7}, .padding = {3}, .bias = c.final_bias});
  }

  /// [B, channels, frames, bins] -> [B, out_channels, samples].
  at::Tensor operator()(const at::Tensor& log_mel) const {
    at::Tensor x = conv_in(log_mel.transpose(2, 3).flatten(1, 2));
    for (size_t i = 0; i < upsamplers.size(); ++i) {
      if (config.act_fn == "leaky_relu") x = at::leaky_relu(x, config.negative_slope);
      const at::Tensor raised = upsamplers[i](x);
      at::Tensor sum;
      for (const ResBlock& block : resnets[i]) sum = sum.defined() ? sum + block(raised) : block(raised);
      x = sum / static_cast<double>(resnets[i].size());
    }
    x = conv_out(act_out ? (*act_out)(x) : at::leaky_relu(x, 0.01));
    if (config.final_act_fn == "tanh") return x.tanh();
    return config.final_act_fn == "clamp" ? x.clamp(-1, 1) : x;
  }
};

struct Vocoder::Extension {
  BandwidthExtensionConfig config;
  int64_t ratio;
  Generator generator;
  at::Tensor basis;      // [2 n_freqs, 1, filter_length]: windowed cosines, then sines
  at::Tensor mel_basis;  // [mel, n_freqs]

  Extension(const BandwidthExtensionConfig& c, int64_t ratio_, nn::Weights& w)
      : config(c), ratio(ratio_), generator(c.generator, w, "bwe_generator.") {
    const int64_t num_freqs = c.filter_length / 2 + 1;
    basis = w.take("mel_stft.stft_fn.forward_basis", {2 * num_freqs, 1, c.filter_length});
    w.take("mel_stft.stft_fn.inverse_basis", {2 * num_freqs, 1, c.filter_length});  // of the layout, not used
    mel_basis = w.take("mel_stft.mel_basis", {c.num_mel_channels, num_freqs});
  }

  /// Causal log-mel spectrogram: [B, channels, samples] -> [B, channels, frames, mel].
  at::Tensor log_mel(const at::Tensor& wave) const {
    const int64_t left = std::max<int64_t>(0, config.window_length - config.hop_length);
    const at::Tensor rows = at::constant_pad_nd(wave.reshape({-1, 1, wave.size(2)}), {left, 0}, 0);
    const at::Tensor spectrum = at::conv1d(rows, basis, std::nullopt, config.hop_length);
    const auto parts = spectrum.chunk(2, 1);
    const at::Tensor magnitude = (parts[0].square() + parts[1].square()).sqrt();
    const at::Tensor mel = at::matmul(mel_basis.to(magnitude.scalar_type()), magnitude).clamp_min(1e-5).log();
    return mel.view({wave.size(0), wave.size(1), mel.size(1), mel.size(2)}).transpose(2, 3);
  }

  at::Tensor resample(const at::Tensor& wave) const {
    const int64_t half_width = 7;  // lobes of the filter: 6 / 0.99, rounded up
    const at::Tensor filter = resampling_filter(ratio, half_width).to(wave.options());
    const at::Tensor rows = at::replication_pad1d(wave.reshape({-1, 1, wave.size(2)}), {half_width, half_width});
    const at::Tensor raised = at::conv_transpose1d(rows, filter * ratio, std::nullopt, ratio);
    const int64_t left = 2 * half_width * ratio, right = filter.size(2) - ratio;
    return raised.narrow(2, left, raised.size(2) - left - right).view({wave.size(0), wave.size(1), -1});
  }

  at::Tensor operator()(const at::Tensor& wave) const {
    const int64_t samples = wave.size(2), rest = samples % config.hop_length;
    const at::Tensor whole = rest == 0 ? wave : at::constant_pad_nd(wave, {0, config.hop_length - rest}, 0);
    const at::Tensor added = generator(log_mel(whole));
    return (added + resample(whole)).clamp(-1, 1).narrow(2, 0, samples * ratio);
  }
};

Vocoder::Vocoder(const VocoderConfig& config, nn::Weights& weights)
    : config_(config),
      generator_(std::make_unique<Generator>(config.generator, weights, config.extension ? "vocoder." : "")) {
  if (config.extension) {
    extension_ =
        std::make_unique<Extension>(*config.extension, config.output_rate / config.extension->input_rate, weights);
  }
}
Vocoder::~Vocoder() = default;
Vocoder::Vocoder(Vocoder&&) noexcept = default;
Vocoder& Vocoder::operator=(Vocoder&&) noexcept = default;

at::Tensor Vocoder::operator()(const at::Tensor& log_mel) const {
  tensor::check_shape(log_mel, {-1, -1, -1, -1}, "log_mel [B, channels, frames, bins]");
  const at::Tensor wave = (*generator_)(log_mel);
  return extension_ ? (*extension_)(wave) : wave;
}

}  // namespace unigrpo::video
