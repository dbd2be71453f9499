// SPDX-License-Identifier: Apache-2.0
// Reads tokenizer.model, a model of SentencePiece (sentencepiece_model.proto).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/tokenizer/special_tokens.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

/// The fields of a protocol buffer message, one after the other.
class ProtoFields {
 public:
  ProtoFields(std::string_view message, std::string_view where) : rest_(message), where_(where) {}

  /// Goes to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t tag = varint();
    number_ = tag >> 3U;
    switch (tag & 7U) {
      case 0:
        value_ = varint();
        break;
      case 1:
        bytes_ = take(8);
        break;
      case 2:
        bytes_ = take(varint());
        break;
      case 5:
        bytes_ = take(4);
        break;
      default:
        refuse();
    }
    wire_ = tag & 7U;
    return true;
  }

  std::uint64_t number() const { return number_; }
  std::int32_t integer() const {
    expect(0);
    return static_cast<std::int32_t>(value_);
  }
  std::string_view bytes() const {
    expect(2);
    return bytes_;
  }
  std::string text() const {
    if (find_invalid_utf8(bytes()) != std::string_view::npos) refuse();
    return std::string(bytes_);
  }
  /// Throws Error if it is not finite.
  float number_32() const {
    expect(5);
    std::uint32_t bits = 0;
    for (std::size_t i = 4; i-- > 0;) bits = bits << 8U | static_cast<unsigned char>(bytes_[i]);
    const auto value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) refuse();
    return value;
  }

 private:
  [[noreturn]] void refuse() const {
    fail(where_, ": not a model of SentencePiece; is the file complete? If it is of another kind (tiktoken), convert ",
         "it in Python: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)");
  }
  void expect(std::uint64_t wire) const {
    if (wire_ != wire) refuse();
  }
  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) refuse();
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
      if (byte < 0x80) return value;
    }
    refuse();
  }

  std::string_view rest_, bytes_, where_;
  std::uint64_t number_ = 0, wire_ = 0, value_ = 0;
};

struct SentencePieceModel {
  enum PieceType { normal = 1, control = 3, user_defined = 4 };
  struct Piece {
    std::string text;
    float score = 0;
    std::int32_t type = normal;
  };

  std::vector<Piece> pieces;
  bool is_unigram = true, byte_fallback = false;
  std::int32_t unk_id = 0, bos_id = 1, eos_id = 2;
  std::string unk_piece = "<unk>", bos_piece = "<s>", eos_piece = "</s>";
  std::string charsmap;  ///< as for the normalizer "Precompiled"
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;

  /// The tokens that the folder's special tokens get from it, for a class of its own or for the plain one.
  PieceTokens tokens(bool is_plain) const {
    PieceTokens out{Json::array()};
    for (const Piece& piece : pieces)
      if (piece.type == control || (piece.type == user_defined && !is_plain))
        out.extra.push_back({{"content", piece.text}, {"normalized", false}, {"special", piece.type == control}});
    if (!is_plain) return out;
    if (bos_id >= 0) out.named.emplace_back("bos_token", bos_piece.empty() ? "<s>" : bos_piece);
    if (eos_id >= 0) out.named.emplace_back("eos_token", eos_piece.empty() ? "</s>" : eos_piece);
    if (unk_id >= 0) out.named.emplace_back("unk_token", unk_piece.empty() ? "<unk>" : unk_piece);
    return out;
  }
};

/// Reads a file. Throws Error naming the path if it is something else.
inline SentencePieceModel read_sentence_piece(const fs::path& path) {
  const std::string where = path.string(), file = read_file(path);
  SentencePieceModel model;
  const auto read_piece = [&](std::string_view message) {
    SentencePieceModel::Piece piece;
    for (ProtoFields field(message, where); field.next();) {
      if (field.number() == 1) piece.text = field.text();
      if (field.number() == 2) piece.score = field.number_32();
      if (field.number() == 3) piece.type = field.integer();
    }
    // Splitting a piece into two takes time quadratic in its length; SentencePiece trains at most 512 characters.
    check(piece.text.size() <= 4096, where, ": piece ", model.pieces.size(), " has ", piece.text.size(),
          " bytes; at most 4096 are supported");
    model.pieces.push_back(std::move(piece));
  };
  const auto read_trainer = [&](std::string_view message) {
    for (ProtoFields field(message, where); field.next();) {
      if (field.number() == 3) model.is_unigram = field.integer() == 1;
      if (field.number() == 35) model.byte_fallback = field.integer() != 0;
      if (field.number() == 40) model.unk_id = field.integer();
      if (field.number() == 41) model.bos_id = field.integer();
      if (field.number() == 42) model.eos_id = field.integer();
      if (field.number() == 45) model.unk_piece = field.text();
      if (field.number() == 46) model.bos_piece = field.text();
      if (field.number() == 47) model.eos_piece = field.text();
    }
  };
  const auto read_normalizer = [&](std::string_view message) {
    for (ProtoFields field(message, where); field.next();) {
      if (field.number() == 2) model.charsmap = field.bytes();
      if (field.number() == 3) model.add_dummy_prefix = field.integer() != 0;
      if (field.number() == 4) model.remove_extra_whitespaces = field.integer() != 0;
      if (field.number() == 5) model.escape_whitespaces = field.integer() != 0;
    }
  };
  for (ProtoFields field(file, where); field.next();) {
    if (field.number() == 1) read_piece(field.bytes());
    if (field.number() == 2) read_trainer(field.bytes());
    if (field.number() == 3) read_normalizer(field.bytes());
  }
  check(!model.pieces.empty(), where, ": has no pieces; is it a model of SentencePiece?");
  check(model.pieces.size() <= static_cast<std::size_t>(max_token_id), where, ": more than ", max_token_id, " pieces");
  return model;
}

}  // namespace kto::tok
