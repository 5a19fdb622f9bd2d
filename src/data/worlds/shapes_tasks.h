#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/worlds/shapes_world.h"

/// Tasks of the embedded world that start from an image: answering a question about it, and changing it. Rows are
/// prompt rows (docs/FORMATS.md) whose `images` the caller writes; rewards `answer` and `edit` judge them.
namespace unigrpo::data::shapes {

/// A row with the scenes of its images and what a good policy says and draws.
struct TaskRow {
  std::string tag;     // count, color; recolor, remove
  std::string prompt;  // "how many red circles are there?", "make the square green"
  Scene image;         // the image that the prompt is about
  /// answer: {"metadata": {"answer": "two"}}; edit: {"include": [...], "metadata": {"changed": "square"}}, what must be
  /// in the new image and the class of the objects that the prompt speaks of.
  std::string fields_json;
  std::string text;            // the answer, or the change as a plan has it; made wrong with probability `wrong`
  std::optional<Scene> drawn;  // edit: the changed image, everything else where it was
};

/// A question about a scene that fits a prompt line of the world (`json` of a WorldPrompt): how many objects of a
/// colour and class there are (none, too), or which colour those of a class have. With probability `wrong`, `text` is
/// another answer. Throws BadInput for a line outside this world.
TaskRow draw_answer_task(std::string_view prompt_json, double wrong, RandomStream& stream);

/// A change to such a scene: all objects of a class get another colour or, where there are two classes, go. `text`
/// tells the changed objects alone, "<think> two green squares </think>" or "<think> zero squares </think>": all else
/// is in the image. With probability `wrong`, `text` and `drawn` have another colour or lack another class; what must
/// be in the new image stays right.
TaskRow draw_edit_task(std::string_view prompt_json, double wrong, RandomStream& stream);

/// What is in such an image: the densest lesson in seeing that a row can give. Not a task with a reward.
TaskRow draw_describe_task(std::string_view prompt_json, RandomStream& stream);

/// Two turns: a plan, an image, what the policy says on looking at it, and the right image.
struct SelfCorrectExample {
  std::string prompt;      // the line's own
  std::string plan;        // before the first image; wrong with probability `plan_noise`
  Scene first;             // fits the plan or, with probability `scene_noise`, departs from it in one object
  bool first_fits = true;  // whether it fits the plan
  std::string verdict;     // "<think> right </think>", or "<think> wrong; " and the content of the right plan
  Scene second;            // fits the right plan; `first` itself where that was right
};

SelfCorrectExample draw_self_correct_example(std::string_view prompt_json, const NoiseConfig& noise,
                                             RandomStream& stream);

}  // namespace unigrpo::data::shapes
