// A plugin over the C interface alone, that breaks the interface's rules as its settings say: {"do": ...}. Built again
// with BARE_TABLE for tables that are wrong themselves.
#include <unigrpo/reward_plugin.h>

#include <cstring>
#include <stdexcept>
#include <string>

namespace {

std::string harm;

unigrpo_dimension whole = {sizeof(unigrpo_dimension), 0, "first", 0, 10};
unigrpo_dimension second = {sizeof(unigrpo_dimension), 0, "second", 0, 10};
unigrpo_dimension nameless = {sizeof(unigrpo_dimension), 0, nullptr, 0, 10};
unigrpo_dimension cut = {8, 0, "cut", 0, 10};
unigrpo_dimension no_utf8 = {sizeof(unigrpo_dimension), 0, "\xe9t\xe9", 0, 10};
const unigrpo_dimension* dimensions[] = {&whole, &second};

bool does(const char* what) { return harm.find(std::string("\"") + what + "\"") != std::string::npos; }

int32_t create(unigrpo_text settings, void**, unigrpo_reward_info* info, char* error, uint64_t error_size) {
  harm.assign(settings.data, settings.size);
  if (does("throw in create")) throw std::runtime_error("caf\xe9");
  if (does("throw an int in create")) throw 42;
  if (does("fail to create in silence")) return 1;
  if (does("fill the error")) {
    std::memset(error, 0xE9, error_size);
    return 1;
  }
  info->num_dimensions = 2;
  info->dimensions = dimensions;
  if (does("no list")) info->dimensions = nullptr;
  if (does("NULL dimension")) dimensions[1] = nullptr;
  if (does("NULL name")) dimensions[1] = &nameless;
  if (does("short dimension")) dimensions[1] = &cut;
  if (does("no UTF-8 name")) dimensions[1] = &no_utf8;
  if (does("endless list")) info->num_dimensions = 0xFFFFFFFF;
  return 0;
}

int32_t score(void*, const unigrpo_sample* const* samples, uint64_t num_samples, const unigrpo_sink* sink, char*,
              uint64_t) {
  void* context = sink->context;
  for (uint64_t n = 0; n < num_samples; ++n) {
    const bool struck = std::string(samples[n]->id.data, samples[n]->id.size) == "1/1";
    sink->set_score(context, n, 0, 1);
    if (!struck || !does("lack the second")) sink->set_score(context, n, 1, 2);
    if (!struck) continue;
    if (does("throw in score"))
      throw std::runtime_error(
          "\xe9"
          "chec");
    if (does("fail in silence")) return 1;
    if (does("score another sample")) sink->set_score(context, uint64_t{1} << 60, 0, 1);
    if (does("score another dimension")) sink->set_missing(context, n, 0xFFFFFFFF, nullptr);
    if (does("note what is no text")) sink->set_note(context, n, "\xe9", nullptr);
    if (does("note no UTF-8")) sink->set_note(context, n, "n\xe9", "caf\xe9 noir");
    if (does("miss without UTF-8"))
      sink->set_missing(context, n, 0,
                        "\xe9"
                        "chec");
    if (does("miss in silence")) sink->set_missing(context, n, 0, "");
  }
  return 0;
}

void destroy(void*) {
  if (does("throw in destroy")) throw std::runtime_error("too late");
}

}  // namespace

extern "C" const unigrpo_reward_plugin unigrpo_reward_plugin_table = {UNIGRPO_REWARD_MAGIC,
                                                                      UNIGRPO_REWARD_ABI_VERSION,
                                                                      sizeof(unigrpo_reward_plugin),
                                                                      sizeof(unigrpo_sample),
                                                                      sizeof(unigrpo_segment),
                                                                      sizeof(unigrpo_image),
                                                                      sizeof(unigrpo_sink),
                                                                      sizeof(unigrpo_reward_info),
#if BARE_TABLE == 1
                                                                      4,
#else
                                                                      sizeof(unigrpo_dimension),
#endif
                                                                      nullptr,
                                                                      nullptr,
                                                                      &create,
#if BARE_TABLE == 2
                                                                      nullptr,
#else
                                                                      &score,
#endif
                                                                      &destroy};
