#include "io/image_codec.h"

#include <dlfcn.h>

#include <algorithm>
#include <fstream>
#include <mutex>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <utility>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/image_size.h"

namespace unigrpo::io {
namespace {

constexpr uint64_t kMaxPixels = uint64_t{64} << 20;
constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr int kLossyQuality = 95;

/// OpenCV's codecs, loaded when an image is first read or written: linked, they would bring 120 libraries (GDAL and
/// what that needs) into every start of every program, 0.1 s. The symbols are those of the declarations in
/// imgcodecs.hpp.
struct Codecs {
  decltype(static_cast<cv::Mat (*)(cv::InputArray, int)>(&cv::imdecode)) decode;
  decltype(&cv::imencode) encode;
};

const Codecs& codecs() {
  static const Codecs loaded = [] {
    void* library = dlopen(UNIGRPO_OPENCV_IMGCODECS, RTLD_NOW | RTLD_LOCAL);
    const auto symbol = [&](const char* name) {
      void* address = library == nullptr ? nullptr : dlsym(library, name);
      if (address == nullptr) throw RuntimeFailure("cannot load OpenCV's image codecs: {}", dlerror());
      return address;
    };
    // A decoder's own warnings would break the rule of one error line.
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    return Codecs{reinterpret_cast<decltype(Codecs::decode)>(symbol("_ZN2cv8imdecodeERKNS_11_InputArrayEi")),
                  reinterpret_cast<decltype(Codecs::encode)>(
                      symbol("_ZN2cv8imencodeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEERKNS_11_InputArray"
                             "ERSt6vectorIhSaIhEERKSB_IiSaIiEE"))};
  }();
  return loaded;
}

// libjpeg fills up a file that was cut short with grey and carries on; the end marker tells.
bool is_whole(std::span<const uint8_t> bytes, ImageFormat format) {
  static constexpr std::array<uint8_t, 2> kEndOfImage = {0xFF, 0xD9};
  return format != ImageFormat::jpeg ||
         std::find_end(bytes.begin(), bytes.end(), kEndOfImage.begin(), kEndOfImage.end()) != bytes.end();
}

// OpenCV applies the EXIF orientation only where it also drops transparency, which JPEG lacks.
cv::Mat decode(std::span<const uint8_t> bytes, ImageFormat format, const std::string& where) {
  const cv::Mat raw(1, static_cast<int>(bytes.size()), CV_8UC1, const_cast<uint8_t*>(bytes.data()));
  try {
    return codecs().decode(raw, format == ImageFormat::jpeg ? cv::IMREAD_COLOR : cv::IMREAD_UNCHANGED);
  } catch (const cv::Exception& cause) {
    throw BadInput("{}: cannot decode: {}", where, cause.err);
  }
}

uint8_t over_white(uint32_t value, uint32_t alpha) {
  return static_cast<uint8_t>((value * alpha + 255 * (255 - alpha) + 127) / 255);
}

// 8-bit grey, BGR or BGRA to RGB.
Image to_image(const cv::Mat& decoded, const std::string& where) {
  const int channels = decoded.channels();
  if (decoded.depth() != CV_8U || (channels != 1 && channels != 3 && channels != 4)) {
    throw BadInput("{}: unsupported pixel type with {} channels", where, channels);
  }
  Image image{.width = decoded.cols, .height = decoded.rows, .pixels = {}};
  image.pixels.resize(size_t{3} * decoded.rows * decoded.cols);
  uint8_t* out = image.pixels.data();
  for (int y = 0; y < decoded.rows; ++y) {
    const uint8_t* in = decoded.ptr<uint8_t>(y);
    for (int x = 0; x < decoded.cols; ++x, in += channels, out += 3) {
      for (int c = 0; c < 3; ++c) {
        const uint8_t value = channels == 1 ? in[0] : in[2 - c];
        out[c] = channels == 4 ? over_white(value, in[3]) : value;
      }
    }
  }
  return image;
}

ImageHeader checked_header(std::span<const uint8_t> bytes, const std::string& where) {
  const auto header = read_image_header(bytes);
  if (!header) throw BadInput("{}: not a PNG, JPEG or WebP image", where);
  if (header->width == 0 || header->height == 0 || header->width > kMaxPixels / header->height) {
    throw BadInput("{}: image of {}x{} pixels, 1 to {} in all are read", where, header->width, header->height,
                   kMaxPixels);
  }
  return *header;
}

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

void check_pixels(const Image& image) {
  if (image.width < 1 || image.height < 1 || image.pixels.size() != size_t{3} * image.width * image.height) {
    throw RuntimeFailure("image of {}x{} holds {} bytes of pixels", image.width, image.height, image.pixels.size());
  }
}

}  // namespace

std::vector<uint8_t> encode_png(const Image& image) { return encode_image(image, ImageFormat::png); }

std::vector<uint8_t> encode_image(const Image& image, ImageFormat format) {
  check_pixels(image);
  struct Encoder {
    const char* name;
    const char* extension;
    std::vector<int> parameters;
  };
  Encoder encoder = {"PNG", ".png", {}};
  if (format == ImageFormat::jpeg) encoder = {"JPEG", ".jpg", {cv::IMWRITE_JPEG_QUALITY, kLossyQuality}};
  if (format == ImageFormat::webp) encoder = {"WebP", ".webp", {cv::IMWRITE_WEBP_QUALITY, kLossyQuality}};
  const cv::Mat rgb(image.height, image.width, CV_8UC3, const_cast<uint8_t*>(image.pixels.data()));
  std::vector<uint8_t> bytes;
  try {
    cv::Mat bgr;
    cv::cvtColor(rgb, bgr, cv::COLOR_RGB2BGR);
    static std::mutex one_at_a_time;  // OpenCV sets its codecs up at first use, without a lock of its own
    const std::lock_guard lock(one_at_a_time);
    if (!codecs().encode(encoder.extension, bgr, bytes, encoder.parameters)) {
      throw RuntimeFailure("the {} encoder refused an image", encoder.name);
    }
  } catch (const cv::Exception& cause) {
    throw RuntimeFailure("the {} encoder refused an image: {}", encoder.name, cause.err);
  }
  return bytes;
}

ImageHeader read_image_header(const std::filesystem::path& path) {
  std::vector<uint8_t> head(size_t{64} << 10);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(head.data()), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<size_t>(file.gcount()));
  if (read_image_header(head)) return checked_header(head, path.string());
  return checked_header(bytes_of(read_text_file(path, kMaxFileBytes)),
                        path.string());  // thumbnails may stand before it
}

Image read_image(const std::filesystem::path& path) {
  const std::string where = path.string();
  const std::string text = read_text_file(path, kMaxFileBytes);
  const std::span bytes = bytes_of(text);
  const ImageHeader header = checked_header(bytes, where);
  if (!is_whole(bytes, header.format)) throw BadInput("{}: JPEG without end, truncated?", where);
  cv::Mat decoded = decode(bytes, header.format, where);
  if (decoded.empty()) throw BadInput("{}: damaged image, cannot decode it", where);
  const auto width = static_cast<uint64_t>(decoded.cols);
  const auto height = static_cast<uint64_t>(decoded.rows);
  if (std::minmax(width, height) != std::minmax(header.width, header.height)) {
    throw BadInput("{}: header says {}x{} pixels, {}x{} came out", where, header.width, header.height, width, height);
  }
  if (decoded.depth() == CV_16U) decoded.convertTo(decoded, CV_8U, 1.0 / 257);  // 65535 -> 255
  return to_image(decoded, where);
}

void write_png(const std::filesystem::path& path, const Image& image) {
  write_file_atomic(path, std::as_bytes(std::span<const uint8_t>(encode_png(image))));
}

Image tile_images(std::span<const Image> images, int columns, int gap, int zoom) {
  if (images.empty() || columns < 1 || zoom < 1 || gap < 0) {
    throw RuntimeFailure("cannot tile {} images in {} columns, gap {}, zoom {}", images.size(), columns, gap, zoom);
  }
  const int width = images.front().width * zoom;
  const int height = images.front().height * zoom;
  const int num_images = static_cast<int>(images.size());
  const int num_columns = std::min(columns, num_images);
  const int num_rows = (num_images + num_columns - 1) / num_columns;
  Image grid{.width = num_columns * (width + gap) - gap, .height = num_rows * (height + gap) - gap, .pixels = {}};
  grid.pixels.assign(size_t{3} * grid.width * grid.height, 255);
  for (int i = 0; i < num_images; ++i) {
    const Image& image = images[static_cast<size_t>(i)];
    check_pixels(image);
    if (image.width * zoom != width || image.height * zoom != height) {
      throw RuntimeFailure("cannot tile images of {}x{} and {}x{} together", image.width, image.height,
                           images.front().width, images.front().height);
    }
    const int left = i % num_columns * (width + gap);
    const int top = i / num_columns * (height + gap);
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        std::copy_n(image.at(x / zoom, y / zoom), 3, grid.at(left + x, top + y));
      }
    }
  }
  return grid;
}

}  // namespace unigrpo::io
