// SPDX-License-Identifier: Apache-2.0
// Event files: the bytes that TensorFlow's writer would put there. (e2e.reports reads one with TensorBoard itself.)
#include "catch.hpp"
#include "kto/io/event_file.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_event_file {

using kto::detail::ProtoMessage;

TEST_CASE("the masked CRC-32C of TFRecords") {
  // CRC-32C("123456789") is 0xE3069283 (RFC 3720's check value); masked: rotated right by 15 and 0xA282EAD8 added.
  const std::uint32_t crc = 0xE3069283U;
  CHECK(kto::detail::masked_crc("123456789") == ((crc >> 15U) | (crc << 17U)) + 0xA282EAD8U);
}

TEST_CASE("protobuf fields are on the wire as the specification has them") {
  CHECK(ProtoMessage().integer(1, 150).bytes() == std::string("\x08\x96\x01", 3));
  CHECK(ProtoMessage().text(2, "testing").bytes() == "\x12\x07testing");
  CHECK(ProtoMessage().number(2, 1.0F).bytes() == std::string("\x15\x00\x00\x80\x3f", 5));
  CHECK(ProtoMessage().number(1, 1.0).bytes() == std::string("\x09\x00\x00\x00\x00\x00\x00\xf0\x3f", 9));
}

TEST_CASE("an event file is a chain of records whose lengths and checksums hold") {
  const kto_test::TemporaryFolder folder;
  kto::EventFile events(folder.path() / "new");
  events.add_scalar("train/loss", 0.5, 3);
  events.add_text("args", "hello", 0);
  const std::string bytes = kto::read_file(events.path());
  std::size_t at = 0, records = 0;
  for (; at < bytes.size(); ++records) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    REQUIRE(at + length + 16 <= bytes.size());
    const auto sum = [&](std::size_t place) {
      std::uint32_t value = 0;
      std::memcpy(&value, bytes.data() + place, 4);
      return value;
    };
    CHECK(sum(at + 8) == kto::detail::masked_crc(std::string_view(bytes).substr(at, 8)));
    CHECK(sum(at + 12 + length) == kto::detail::masked_crc(std::string_view(bytes).substr(at + 12, length)));
    at += length + 16;
  }
  CHECK(records == 3);
  CHECK(at == bytes.size());
  CHECK_THAT(bytes, KTO_CONTAINS("brain.Event:2") && KTO_CONTAINS("train/loss") && KTO_CONTAINS("args/text_summary"));
  CHECK(kto::EventFile(folder.path() / "new").path() != events.path());
}

}  // namespace test_event_file
