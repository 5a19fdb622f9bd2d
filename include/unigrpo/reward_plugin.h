/* UniGRPO reward plugins: the C interface between a plugin (a shared library) and whoever loads it. Plain C99, no
 * dependency.
 *
 * C++ authors include reward.hpp instead, which is written on top of this. A plugin exports one object,
 * `unigrpo_reward_plugin_table`, and keeps to these rules:
 *
 *  - Text is UTF-8. A unigrpo_text has a size and need not end in a zero byte; a const char* ends in one.
 *  - What is passed to a call is valid until that call returns, the description of `create` until `destroy`.
 *  - Structs grow at their end only, and `struct_size` says how much of one is there; lists are lists of pointers. A
 * plugin built with an older header of the same ABI version therefore works; one built with a newer header, or for
 * another ABI version, is refused by name before any of its functions is called.
 *  - No exception leaves a function. `score` is called by at most `threads` threads at once.
 */
#ifndef UNIGRPO_REWARD_PLUGIN_H
#define UNIGRPO_REWARD_PLUGIN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UNIGRPO_REWARD_MAGIC UINT64_C(0x6472617765726775) /* "ugreward" */
#define UNIGRPO_REWARD_ABI_VERSION 1
#define UNIGRPO_SDK_VERSION "0.1.0"
#define UNIGRPO_EXPORT __attribute__((visibility("default")))

typedef struct unigrpo_text {
  const char* data;
  uint64_t size; /* bytes */
} unigrpo_text;

/* 8-bit RGB, rows from top to bottom; pixel (x, y) is at pixels + y * row_stride + 3 * x. */
typedef struct unigrpo_image {
  uint32_t struct_size;
  int32_t width;
  int32_t height;
  uint32_t reserved;
  int64_t row_stride; /* bytes from one row to the next, at least 3 * width */
  const uint8_t* pixels;
} unigrpo_image;

/* Kinds of segments. A plugin passes over kinds that it does not know: audio (3) and video (4) will come. */
enum { UNIGRPO_SEGMENT_TEXT = 1, UNIGRPO_SEGMENT_IMAGE = 2 };

/* One piece of an episode, in the order in which it was produced. */
typedef struct unigrpo_segment {
  uint32_t struct_size;
  uint32_t kind;
  unigrpo_text text;  /* text: without special tokens */
  int64_t num_tokens; /* text: sampled tokens, the end token included */
  uint32_t finished;  /* text: 0 where the length limit cut it, else 1 */
  uint32_t reserved;
  const unigrpo_image* image; /* image; else NULL */
} unigrpo_segment;

/* One finished episode. */
typedef struct unigrpo_sample {
  uint32_t struct_size;
  uint32_t reserved;
  unigrpo_text id; /* "<prompt id>/<number>", for logs */
  unigrpo_text prompt;
  unigrpo_text metadata_json; /* an object: what the prompt file says beside the prompt */
  int64_t group;              /* samples of one prompt that are compared with each other share it */
  uint64_t num_segments;
  const unigrpo_segment* const* segments;
  uint64_t num_images; /* images of the prompt itself */
  const unigrpo_image* const* images;
} unigrpo_sample;

/* Where scores go. A dimension of a sample that is neither set nor declared missing counts as missing. */
typedef struct unigrpo_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* context; /* first argument of the functions */
  void (*set_score)(void* context, uint64_t sample, uint32_t dimension, double value);
  void (*set_missing)(void* context, uint64_t sample, uint32_t dimension, const char* reason);
  void (*set_note)(void* context, uint64_t sample, const char* name, const char* text); /* for samples.jsonl */
} unigrpo_sink;

/* One of the numbers that a reward gives. A value outside of [min, max] is refused. */
typedef struct unigrpo_dimension {
  uint32_t struct_size;
  uint32_t reserved;
  const char* name;
  double min; /* -INFINITY: no bound */
  double max; /* INFINITY: no bound */
} unigrpo_dimension;

/* What a reward says of itself. `create` finds every field at its default. */
typedef struct unigrpo_reward_info {
  uint32_t struct_size;
  uint32_t batch_size;     /* default 1: samples a call, at most; with wants_groups whole groups, at least one */
  uint32_t threads;        /* default 1: calls that may run at once, in processes of their own where isolated */
  uint32_t wants_groups;   /* default 0; 1: every call holds whole groups */
  uint32_t num_dimensions; /* default 0: a single one, "score", without bounds */
  uint32_t reserved;
  const unigrpo_dimension* const* dimensions; /* the first one is the reward's main number */
} unigrpo_reward_info;

/* The exported object. Functions return 0, or anything else after writing a sentence into `error` (zero-terminated, at
 * most error_size bytes); a call that fails gives no sample of it a score. */
typedef struct unigrpo_reward_plugin {
  uint64_t magic;       /* UNIGRPO_REWARD_MAGIC */
  uint32_t abi_version; /* UNIGRPO_REWARD_ABI_VERSION */
  uint32_t struct_size; /* of this struct, and of the others, as this header has them: */
  uint32_t sample_size, segment_size, image_size, sink_size, info_size, dimension_size;
  const char* name;
  const char* sdk_version; /* UNIGRPO_SDK_VERSION */
  int32_t (*create)(unigrpo_text settings_json, void** reward, unigrpo_reward_info* info, char* error,
                    uint64_t error_size);
  int32_t (*score)(void* reward, const unigrpo_sample* const* samples, uint64_t num_samples, const unigrpo_sink* sink,
                   char* error, uint64_t error_size);
  void (*destroy)(void* reward);
} unigrpo_reward_plugin;

#define UNIGRPO_REWARD_PLUGIN_HEADER                                                                       \
  UNIGRPO_REWARD_MAGIC, UNIGRPO_REWARD_ABI_VERSION, sizeof(unigrpo_reward_plugin), sizeof(unigrpo_sample), \
      sizeof(unigrpo_segment), sizeof(unigrpo_image), sizeof(unigrpo_sink), sizeof(unigrpo_reward_info),   \
      sizeof(unigrpo_dimension)

UNIGRPO_EXPORT extern const unigrpo_reward_plugin unigrpo_reward_plugin_table;

#ifdef __cplusplus
}
#endif

#endif
