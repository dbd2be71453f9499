// SPDX-License-Identifier: Apache-2.0
// Bytes of the log files of other programs: checksums, and protobuf's wire format, field by field.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace kto::detail {

/// The 32-bit CRC with the (reflected) polynomial, of `bytes` after those that gave `before`.
template <std::uint32_t polynomial>
std::uint32_t crc(std::string_view bytes, std::uint32_t before = 0) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> out{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1U) ^ ((value & 1U) != 0 ? polynomial : 0U);
      out[i] = value;
    }
    return out;
  }();
  std::uint32_t value = ~before;
  for (const char c : bytes) value = table[(value ^ static_cast<unsigned char>(c)) & 0xFFU] ^ (value >> 8U);
  return ~value;
}

/// zlib's CRC-32.
inline std::uint32_t crc32(std::string_view bytes, std::uint32_t before = 0) { return crc<0xEDB88320U>(bytes, before); }

/// CRC-32C (Castagnoli), masked as TFRecord stores it.
inline std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t value = crc<0x82F63B78U>(bytes);
  return ((value >> 15U) | (value << 17U)) + 0xA282EAD8U;
}

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);  // little-endian, as x86 and ARM are
  return bytes;
}

/// The inverse, at the start of `bytes`, which has at least that many.
template <class T>
T from_little_endian(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

/// A protobuf message that is being written.
class ProtoMessage {
 public:
  ProtoMessage& number(unsigned field, double value) { return add(field, 1, little_endian(value)); }
  ProtoMessage& number(unsigned field, float value) { return add(field, 5, little_endian(value)); }
  ProtoMessage& integer(unsigned field, std::int64_t value) {
    return add(field, 0, varint(static_cast<std::uint64_t>(value)));
  }
  ProtoMessage& text(unsigned field, std::string_view value) {
    return add(field, 2, varint(value.size()).append(value));
  }
  ProtoMessage& message(unsigned field, const ProtoMessage& value) { return text(field, value.bytes()); }
  const std::string& bytes() const { return bytes_; }

 private:
  static std::string varint(std::uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7U) out += static_cast<char>((value & 0x7FU) | 0x80U);
    return out + static_cast<char>(value);
  }
  ProtoMessage& add(unsigned field, unsigned wire_type, std::string_view payload) {
    bytes_.append(varint(field << 3U | wire_type)).append(payload);
    return *this;
  }
  std::string bytes_;
};

/// A field of a protobuf message: its number if it is one, or its bytes.
struct ProtoField {
  std::uint64_t number = 0;
  std::string_view bytes = {};
};

/// The first field `wanted` of `message`; nothing if there is none, or the bytes are no message.
inline std::optional<ProtoField> proto_field(std::string_view message, unsigned wanted) {
  const auto varint = [&]() -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !message.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(message.front());
      message.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  };
  while (!message.empty()) {
    const auto tag = varint();
    if (!tag) return std::nullopt;
    ProtoField field;
    const std::uint64_t wire_type = *tag & 7U;
    std::optional<std::uint64_t> size = 0;
    if (wire_type == 0 || wire_type == 2) size = varint();
    if (!size) return std::nullopt;
    if (wire_type == 0) field.number = *size;
    const std::uint64_t length = wire_type == 0 ? 0 : wire_type == 1 ? 8 : wire_type == 5 ? 4 : *size;
    if (wire_type > 5 || wire_type == 3 || wire_type == 4 || length > message.size()) return std::nullopt;
    field.bytes = message.substr(0, length);
    message.remove_prefix(length);
    if (*tag >> 3U == wanted) return field;
  }
  return std::nullopt;
}

}  // namespace kto::detail
