#pragma once

#include <filesystem>
#include <span>
#include <string>

namespace unigrpo::data {

/// Trains a unigram SentencePiece model and writes it whole or not at all. The same sentences in
/// the same order give the same bytes. Pieces: <unk> = 0; control "<|im_start|>", "<|im_end|>",
/// "<|vision_start|>",
/// "<|vision_end|>", "<|endoftext|>"; user-defined "<think>", "</think>"; every printable ASCII
/// character; then the words, at most `vocab_size` in all. Text is not normalized but for runs of
/// spaces. Throws BadInput where the library refuses (no sentences, vocab_size too small),
/// RuntimeFailure where the file cannot be written.
void train_sentencepiece(std::span<const std::string> sentences, int vocab_size,
                         const std::filesystem::path& model_path);

}  // namespace unigrpo::data
