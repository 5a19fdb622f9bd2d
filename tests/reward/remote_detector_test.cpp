#include <gtest/gtest.h>

#include "base/error.h"
#include "data/worlds/shapes_world.h"
#include "reward/builtin/geneval.h"
#include "reward/http/http_reward.h"
#include "support/server_process.h"

namespace unigrpo::reward {
namespace {

namespace shapes = data::shapes;
using ::unigrpo::testing::ServerProcess;

TermConfig term_of(const std::string& url) {
  TermConfig term;
  term.objects.detector = DetectorKind::http;
  term.http.url = url;
  term.http.batch_size = 2;
  return term;
}

TermConfig reference() {
  static const ServerProcess server("tools/detector_server.py", {"--port", "0"});
  return term_of(server.line());
}

std::string misbehaving(const std::string& mode) {
  static const ServerProcess server("tests/support/judge_server.py");
  return "http://127.0.0.1:" + server.line() + "/" + mode;
}

TEST(DetectorServer, FindsTheShapesOfTheWorld) {
  const auto detector = make_http_detector(reference());
  for (size_t shape = 0; shape < shapes::kShapeNames.size(); ++shape) {
    std::vector<Image> scenes;
    std::vector<const Image*> images;
    for (size_t color = 0; color < shapes::kColorNames.size(); ++color) {
      scenes.push_back(
          shapes::render({{static_cast<shapes::Shape>(shape), static_cast<shapes::Color>(color), 20.3, 40.6, 10}}));
    }
    for (const Image& scene : scenes) images.push_back(&scene);
    const auto found = detector->detect_all(images);
    ASSERT_EQ(found.size(), images.size());
    for (size_t color = 0; color < found.size(); ++color) {
      ASSERT_EQ(found[color].failure, "");
      ASSERT_EQ(found[color].objects.size(), 1u);
      const Detection& object = found[color].objects.front();
      EXPECT_EQ(object.class_name, shapes::kShapeNames[shape]);
      EXPECT_EQ(object.color, shapes::kColorNames[color]);
      const shapes::Box box = shapes::bounds({static_cast<shapes::Shape>(shape), shapes::Color::red, 20.3, 40.6, 10});
      EXPECT_NEAR(object.left, box.left, 2);  // tips that cover less than half a pixel are not seen
      EXPECT_NEAR(object.top, box.top, 2);
      EXPECT_NEAR(object.right, box.right, 2);
      EXPECT_NEAR(object.bottom, box.bottom, 2);
    }
  }
  EXPECT_TRUE(detector->detect(shapes::render({})).empty());
}

TEST(DetectorServer, ServesGenevalAsTheBuiltInDetectorDoes) {
  const auto reward = make_geneval_reward(GenevalMetric::strict, make_http_detector(reference()));
  data::Sample sample;
  sample.metadata_json = R"({"include": [{"class": "square", "count": 1, "color": "blue"},)"
                         R"({"class": "circle", "count": 2, "color": "red", "position": ["left of", 0]}]})";
  sample.segments.push_back({.kind = data::SegmentKind::image,
                             .text = "",
                             .image = shapes::render({{shapes::Shape::square, shapes::Color::blue, 48, 32, 10},
                                                      {shapes::Shape::circle, shapes::Color::red, 14, 16, 9},
                                                      {shapes::Shape::circle, shapes::Color::red, 14, 46, 9}})});
  data::Sample wrong = sample, blank = sample;
  wrong.segments[0].image = shapes::render({{shapes::Shape::square, shapes::Color::blue, 48, 32, 10}});
  blank.segments.clear();
  const auto scores = reward->score(std::vector{sample, wrong, blank});
  EXPECT_EQ(scores[0].value, 1.0) << scores[0].reason;
  EXPECT_EQ(scores[1].value, 0.0);
  EXPECT_FALSE(scores[2].value);
  EXPECT_EQ(scores[2].reason, "no image");
}

TEST(DetectorServer, ReadsPngAlone) {
  TermConfig term = reference();
  term.http.image_format = HttpImageFormat::jpeg;
  const Image image = shapes::render({});
  const Image* one = &image;
  const auto found = make_http_detector(term)->detect_all({&one, 1});
  EXPECT_EQ(found[0].failure,
            "the detector says: cannot read the image: no PNG; this server reads image_format = \"png\"");
}

TEST(RemoteDetector, FailuresAreReasonsAndNeverEmptyImages) {
  const Image image = shapes::render({});
  const std::vector<const Image*> images(3, &image);
  const auto failure = [&](const std::string& mode) {
    const auto found = make_http_detector(term_of(misbehaving(mode)))->detect_all(images);
    EXPECT_EQ(found.size(), images.size());
    for (const Detections& one : found) EXPECT_TRUE(one.objects.empty());
    return found.back().failure;
  };
  EXPECT_EQ(make_http_detector(term_of(misbehaving("good")))->detect(image).size(), 1u);
  EXPECT_EQ(failure("always_500"), "detector: status 500: 'out of order' (3 tries)");
  EXPECT_TRUE(failure("not_json").starts_with("detector: the answer: invalid JSON"));
  EXPECT_EQ(failure("no_choices"), "detector: the answer has no list 'detections'");
  EXPECT_EQ(failure("detections_count"), "detector: the answer has 0 entries for 1 images");
  EXPECT_EQ(failure("detections_box"), "the answer's entry 0: 'box' [0, 0, 1000, 1000] is not within the 64x64 image");
  EXPECT_EQ(failure("detections_inside_out"), "the answer's entry 0: 'box' [9, 9, 3, 3] is not within the 64x64 image");
  EXPECT_EQ(failure("detections_class"), "the answer's entry 0: 'class' is no text of at most 200 bytes");
  EXPECT_EQ(failure("detections_confidence"), "the answer's entry 0: 'confidence' is no number from 0 to 1");
  EXPECT_THROW(make_http_detector(term_of(misbehaving("not_json")))->detect(image), RuntimeFailure);
}

}  // namespace
}  // namespace unigrpo::reward
