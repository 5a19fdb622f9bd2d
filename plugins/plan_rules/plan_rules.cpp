// Rules for the reasoning text before an image. The plan must name what the prompt asks for: its words, or where the
// prompt file has GenEval's `include`, the classes and colours there. It must not repeat itself.
//
//   rules = mentioned * (1 - repeated)      the main number
//   mentioned: share of the wanted words that the plan has
//   repeated: share of its word pairs that stand in it before
//
// Settings: `ignore`, words of the prompt that need not be in the plan.
#include <cctype>
#include <set>
#include <string>
#include <string_view>
#include <unigrpo/json.hpp>
#include <unigrpo/reward.hpp>
#include <utility>
#include <vector>

namespace {

/// Runs of letters and digits in lower case.
std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  bool inside = false;
  for (const char c : text) {
    const bool part = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (part && !inside) words.emplace_back();
    if (part) words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    inside = part;
  }
  return words;
}

class PlanRules : public unigrpo::Reward {
 public:
  explicit PlanRules(const unigrpo::Settings& settings) {
    const unigrpo::Json& ignore = settings.json("ignore");
    if (ignore.is_null()) {
      ignore_ = {"a", "an", "the", "of", "and", "with", "photo"};
    } else {
      for (const unigrpo::Json& word : ignore.array()) ignore_.insert(word.string());
    }
  }

  unigrpo::Options options() const override {
    unigrpo::Options options;
    options.batch_size = 64;
    options.dimensions = {{"rules", 0, 1}, {"mentioned", 0, 1}, {"repeated", 0, 1}};
    return options;
  }

  std::vector<unigrpo::Score> score(const unigrpo::Samples& samples) override {
    std::vector<unigrpo::Score> scores;
    for (const unigrpo::Sample& sample : samples) scores.push_back(score_one(sample));
    return scores;
  }

 private:
  unigrpo::Score score_one(const unigrpo::Sample& sample) const {
    const std::vector<std::string> plan = words_of(sample.text());
    if (plan.empty()) return unigrpo::Score::missing("no reasoning text");
    const std::set<std::string> wanted = wanted_words(sample);
    if (wanted.empty()) return unigrpo::Score::missing("nothing to look for in the plan");

    const std::set<std::string> said(plan.begin(), plan.end());
    std::string forgotten;
    size_t found = 0;
    for (const std::string& word : wanted) {
      if (said.count(word) != 0) {
        ++found;
      } else {
        forgotten += (forgotten.empty() ? "" : " ") + word;
      }
    }
    const double mentioned = static_cast<double>(found) / static_cast<double>(wanted.size());
    const double again = repeated(plan);
    unigrpo::Score score(mentioned * (1 - again));
    score.set("mentioned", mentioned).set("repeated", again);
    if (!forgotten.empty()) score.note("forgotten", forgotten);
    return score;
  }

  std::set<std::string> wanted_words(const unigrpo::Sample& sample) const {
    std::set<std::string> wanted;
    const unigrpo::Json metadata = unigrpo::Json::parse(sample.metadata_json);
    if (!metadata["include"].is_null()) {
      for (const unigrpo::Json& object : metadata["include"].array()) {
        for (const char* key : {"class", "color"}) {
          if (object[key].is_null()) continue;
          for (std::string& word : words_of(object[key].string())) wanted.insert(std::move(word));
        }
      }
      return wanted;
    }
    for (std::string& word : words_of(sample.prompt)) {
      if (ignore_.count(word) == 0) wanted.insert(std::move(word));
    }
    return wanted;
  }

  static double repeated(const std::vector<std::string>& plan) {
    if (plan.size() < 2) return 0;
    std::set<std::pair<std::string, std::string>> seen;
    for (size_t i = 1; i < plan.size(); ++i) seen.emplace(plan[i - 1], plan[i]);
    return 1 - static_cast<double>(seen.size()) / static_cast<double>(plan.size() - 1);
  }

  std::set<std::string> ignore_;
};

}  // namespace

UNIGRPO_REWARD_PLUGIN(PlanRules, "plan_rules")
