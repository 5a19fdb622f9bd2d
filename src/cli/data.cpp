#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"
#include "cli/commands.h"
#include "data/prompt_file.h"
#include "data/segment_json.h"
#include "data/tokenizer/sentencepiece_trainer.h"
#include "data/worlds/arithmetic.h"
#include "data/worlds/av_world.h"
#include "data/worlds/shapes_tasks.h"
#include "data/worlds/shapes_world.h"
#include "io/atomic_file.h"
#include "io/image_codec.h"
#include "media/wav.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;
namespace shapes = data::shapes;

struct ShapesOptions {
  std::string out;
  int64_t examples = 0, tasks = 0;
  uint64_t seed = 0;
};

struct ArithmeticOptions {
  std::string out;
  int64_t largest = 9;
  uint64_t seed = 0;
};

struct AvOptions {
  std::string out;
  int64_t rows = 2000, examples = 0;
  uint64_t seed = 0;
};

struct TokenizerOptions {
  std::vector<std::string> prompts;
  std::string out;
  int vocab_size = 400;
};

/// examples.jsonl in the format of SFT rows, and its images beside it: training prompts in order, without noise.
void write_examples(const ShapesOptions& options, const std::vector<shapes::WorldPrompt>& prompts) {
  const fs::path out = options.out;
  fs::create_directories(out / "examples");
  std::string rows;
  for (int64_t index = 0; index < options.examples; ++index) {
    const shapes::WorldPrompt& prompt = prompts[static_cast<size_t>(index) % prompts.size()];
    RandomStream stream(
        {.seed = options.seed, .sample = static_cast<uint64_t>(index), .purpose = Purpose::world_scene});
    const shapes::Example example = shapes::draw_example(prompt.json, {}, stream);
    const std::string image = fmt::format("examples/{:05}.png", index);
    io::write_png(out / image, shapes::render(example.scene));
    auto row = nlohmann::ordered_json::parse(prompt.json);
    row["target"] = {data::text_segment_json(example.plan), data::image_segment_json({{"path", image}})};
    rows += row.dump() + "\n";
  }
  io::write_file_atomic(out / "examples.jsonl", rows);
}

/// answer_<part>.jsonl and edit_<part>.jsonl: prompt rows about images, which lie beside them. The images of a part
/// show prompts of that part alone.
void write_tasks(const ShapesOptions& options, const std::string& part, const std::vector<shapes::WorldPrompt>& prompts,
                 int64_t count) {
  const fs::path out = options.out;
  fs::create_directories(out / "images");
  for (const std::string task : {"answer", "edit"}) {
    std::string rows;
    for (int64_t index = 0; index < count; ++index) {
      const std::string id = fmt::format("{}_{}_{:05}", task, part, index);
      RandomStream stream({.seed = options.seed,
                           .prompt = fnv1a64(task + part),
                           .sample = static_cast<uint64_t>(index),
                           .purpose = Purpose::world_scene});
      const std::string& line = prompts[static_cast<size_t>(stream.below(prompts.size()))].json;
      const shapes::TaskRow drawn =
          task == "answer" ? shapes::draw_answer_task(line, 0, stream) : shapes::draw_edit_task(line, 0, stream);
      const std::string image = "images/" + id + ".png";
      io::write_png(out / image, shapes::render(drawn.image));
      nlohmann::ordered_json row = {{"id", id}, {"tag", drawn.tag}, {"prompt", drawn.prompt}, {"images", {image}}};
      row.update(nlohmann::ordered_json::parse(drawn.fields_json));
      rows += row.dump() + "\n";
    }
    io::write_file_atomic(out / fmt::format("{}_{}.jsonl", task, part), rows);
  }
}

void make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw BadInput("{}: cannot make this folder: {}", folder, error.message());
}

int run_shapes(const ShapesOptions& options) {
  const shapes::WorldSplit split = shapes::make_split();
  make_folder(options.out);
  shapes::write_world(options.out, split);
  fmt::print("{}: {} training, {} validation and {} test prompts\n", options.out, split.train.size(),
             split.validation.size(), split.test.size());
  if (options.examples > 0) {
    write_examples(options, split.train);
    fmt::print("{}: {} examples\n", (fs::path(options.out) / "examples.jsonl").string(), options.examples);
  }
  if (options.tasks > 0) {
    write_tasks(options, "train", split.train, options.tasks);
    write_tasks(options, "test", split.test, std::max<int64_t>(options.tasks / 5, 1));
    fmt::print("{}: {} training and {} test rows of each task with an image\n", options.out, options.tasks,
               std::max<int64_t>(options.tasks / 5, 1));
  }
  return 0;
}

int run_arithmetic(const ArithmeticOptions& options) {
  make_folder(options.out);
  const data::ArithmeticRows rows = data::make_sums(options.largest, options.seed);
  io::write_file_atomic(fs::path(options.out) / "train.jsonl", fmt::format("{}\n", fmt::join(rows.train, "\n")));
  io::write_file_atomic(fs::path(options.out) / "test.jsonl", fmt::format("{}\n", fmt::join(rows.test, "\n")));
  fmt::print("{}: {} training and {} test prompts\n", options.out, rows.train.size(), rows.test.size());
  return 0;
}

/// A clip as a sheet of its frames and a WAV file.
void write_av_example(const fs::path& path, const data::av::Scene& scene) {
  const media::Clip clip = data::av::render(scene);
  std::vector<Image> frames;
  for (int64_t k = 0; k < clip.frames.count; ++k) {
    const uint8_t* pixels = clip.frames.frame(k);
    frames.push_back({clip.frames.width, clip.frames.height, {pixels, pixels + clip.frames.frame_bytes()}});
  }
  io::write_png(path.string() + ".png", io::tile_images(frames, static_cast<int>(frames.size()), 2, 2));
  media::write_wav(path.string() + ".wav", clip.sound);
}

int run_av(const AvOptions& options) {
  make_folder(options.out);
  const fs::path out = options.out;
  constexpr std::array kParts = {"train", "validation", "test"};
  const std::array<int64_t, 3> counts = {options.rows, std::max<int64_t>(options.rows / 20, 1),
                                         std::max<int64_t>(options.rows / 4, 1)};
  const auto draw = [&](uint64_t part, int64_t index) {
    return data::av::Draw{.seed = options.seed, .part = part, .index = static_cast<uint64_t>(index)};
  };
  for (uint64_t part = 0; part < kParts.size(); ++part) {
    std::string rows;
    for (int64_t index = 0; index < counts[part]; ++index) {
      const data::av::Draw from = draw(part, index);
      rows += data::av::row_of(data::av::scene_of(from), fmt::format("{}_{:05}", kParts[part], index), from) + "\n";
    }
    io::write_file_atomic(out / fmt::format("{}.jsonl", kParts[part]), rows);
  }
  fmt::print("{}: {} training, {} validation and {} test prompts\n", options.out, counts[0], counts[1], counts[2]);
  if (options.examples > 0) make_folder((out / "examples").string());
  for (int64_t index = 0; index < options.examples; ++index) {
    write_av_example(out / "examples" / fmt::format("{:05}", index), data::av::scene_of(draw(0, index)));
  }
  return 0;
}

/// The sentences of SFT with these prompts: of the world of clips the prompts alone; else each prompt, its plan, a plan
/// with a mistake, and the tasks with images, so that every word that can come up is among them.
std::vector<std::string> sentences_of(const std::vector<data::Prompt>& prompts) {
  std::vector<std::string> sentences;
  for (const data::Prompt& prompt : prompts) {
    sentences.push_back(prompt.text);
    if (nlohmann::json::parse(prompt.metadata_json).contains("/metadata/av"_json_pointer)) continue;
    const std::string line = shapes::world_line(prompt);
    for (const double plan_noise : {0.0, 1.0}) {
      RandomStream stream({.prompt = static_cast<uint64_t>(prompt.index),
                           .sample = static_cast<uint64_t>(plan_noise),
                           .purpose = Purpose::world_plan});
      sentences.push_back(shapes::draw_example(line, {.plan_noise = plan_noise}, stream).plan);
    }
    RandomStream stream({.prompt = static_cast<uint64_t>(prompt.index), .purpose = Purpose::sft_task});
    const shapes::TaskRow question = shapes::draw_answer_task(line, 0, stream);
    const shapes::TaskRow change = shapes::draw_edit_task(line, 0, stream);
    const shapes::SelfCorrectExample self_correct =
        shapes::draw_self_correct_example(line, {.scene_noise = 0.5}, stream);
    sentences.insert(sentences.end(),
                     {question.prompt, question.text, change.prompt, change.text, self_correct.verdict});
  }
  return sentences;
}

int run_tokenizer(const TokenizerOptions& options) {
  const fs::path folder = fs::absolute(options.out).parent_path();
  if (!fs::is_directory(folder)) throw BadInput("{}: there is no folder {}", options.out, folder.string());
  std::vector<std::string> sentences;
  for (const std::string& file : options.prompts) {
    const auto more = sentences_of(data::read_prompt_file(file));
    sentences.insert(sentences.end(), more.begin(), more.end());
  }
  data::train_sentencepiece(sentences, options.vocab_size, options.out);
  fmt::print("{}: trained on {} sentences\n", options.out, sentences.size());
  return 0;
}

}  // namespace

Run declare_data(CLI::App& app) {
  app.require_subcommand(1);
  const auto shapes_options = std::make_shared<ShapesOptions>();
  CLI::App* shapes_app = app.add_subcommand("shapes", "Write the world's prompt files, and examples with images");
  shapes_app->add_option("--out", shapes_options->out, "Folder to write to")->required();
  shapes_app->add_option("--examples", shapes_options->examples, "Rendered examples with their plans (default 0)")
      ->check(CLI::Range(int64_t{0}, int64_t{100000}));
  shapes_app
      ->add_option("--tasks", shapes_options->tasks,
                   "Rows that ask about an image and rows that change one, a fifth as many for testing (default 0)")
      ->check(CLI::Range(int64_t{0}, int64_t{100000}));
  shapes_app->add_option("--seed", shapes_options->seed, "Of the examples (default 0)");

  const auto arithmetic_options = std::make_shared<ArithmeticOptions>();
  CLI::App* arithmetic_app =
      app.add_subcommand("arithmetic", "Write sums as prompts, for text alone and the reward `answer`");
  arithmetic_app->add_option("--out", arithmetic_options->out, "Folder for train.jsonl and test.jsonl")->required();
  arithmetic_app->add_option("--largest", arithmetic_options->largest, "Numbers from 0 to this one are added")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{999}));
  arithmetic_app->add_option("--seed", arithmetic_options->seed, "Of what is for testing (default 0)");

  const auto av_options = std::make_shared<AvOptions>();
  CLI::App* av_app =
      app.add_subcommand("av", "Write prompts of the world of pictures with sound, with their exact truth");
  av_app->add_option("--out", av_options->out, "Folder for train.jsonl, validation.jsonl and test.jsonl")->required();
  av_app->add_option("--rows", av_options->rows, "Training prompts; a twentieth and a quarter as many of the others")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}));
  av_app
      ->add_option("--examples", av_options->examples,
                   "Rendered clips of the first training prompts, each a sheet of frames and a WAV file (default 0)")
      ->check(CLI::Range(int64_t{0}, int64_t{100000}));
  av_app->add_option("--seed", av_options->seed, "Of the prompts and clips (default 0)");

  const auto tokenizer_options = std::make_shared<TokenizerOptions>();
  CLI::App* tokenizer_app = app.add_subcommand("tokenizer", "Train a SentencePiece model on the world's sentences");
  tokenizer_app->add_option("--prompts", tokenizer_options->prompts, "Prompt file of the world; may be given again")
      ->required()
      ->allow_extra_args(false);
  tokenizer_app->add_option("--out", tokenizer_options->out, "tokenizer.model to write")->required();
  tokenizer_app->add_option("--vocab-size", tokenizer_options->vocab_size, "Pieces at most")
      ->capture_default_str()
      ->check(CLI::Range(128, 32000));

  CLI::App* ingest_app = app.add_subcommand("ingest", "Make a set of clips out of a folder of media files");
  const Run run_ingest = declare_ingest(*ingest_app);
  CLI::App* draw_app = app.add_subcommand("draw", "Print the clips of a set that a step of its curriculum takes");
  const Run run_draw = declare_draw(*draw_app);
  return [=] {
    if (ingest_app->parsed()) return run_ingest();
    if (draw_app->parsed()) return run_draw();
    if (av_app->parsed()) return run_av(*av_options);
    if (arithmetic_app->parsed()) return run_arithmetic(*arithmetic_options);
    return shapes_app->parsed() ? run_shapes(*shapes_options) : run_tokenizer(*tokenizer_options);
  };
}

}  // namespace unigrpo::cli
