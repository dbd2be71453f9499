// SPDX-License-Identifier: Apache-2.0
// What headers of safetensors files take.
#include <memory>

#include "growth.hpp"
#include "kto/io/safetensors.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_growth {
namespace {

using growth::listed;
using growth::Work;

/// What opens a file with this header, whose tensors are empty.
Work opening(std::string header) {
  const auto folder = std::make_shared<kto_test::TemporaryFolder>();
  const std::uint64_t size = header.size();
  std::string content(reinterpret_cast<const char*>(&size), sizeof size);
  const auto file = folder->write("model.safetensors", content + header);
  return [folder, file] { kto::SafetensorsFile{file}; };
}
std::string tensor(const std::string& name) {
  return '"' + name + R"(": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})";
}

const growth::Parser parsers[] = {
    {"safetensors: many tensors", 0,
     [](std::size_t size) {
       return opening("{" + listed(size / 65, [](const auto& i) { return tensor("t" + i); }) + "}");
     }},
    {"safetensors: long names", 0,
     [](std::size_t size) {
       const std::string name(1000, 'n');
       return opening("{" + listed(size / 1000, [&](const auto& i) { return tensor(name + i); }) + "}");
     }},
    {"safetensors: metadata", 0,
     [](std::size_t size) {
       const auto one = [](const auto& i) { return "\"k" + i + "\": \"v\""; };
       return opening(R"({"__metadata__": {)" + listed(size / 12, one) + "}, " + tensor("t") + "}");
     }},
};

}  // namespace

TEST_CASE("the time that headers of safetensors files take grows with them, and no faster", "[growth]") {
  for (const auto& parser : parsers) {
    const double ratio = growth::ratio_of(growth::works_of(parser));
    INFO(parser.name << ": time of twice the size " << ratio);
    CHECK(ratio <= growth::limit);
  }
}

}  // namespace test_growth
