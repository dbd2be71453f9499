// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <csignal>
#include <functional>

#include "catch.hpp"
#include "kto/core/memory.hpp"
#include "kto/io/checkpoint.hpp"
#include "kto/io/safetensors.hpp"

namespace kto::test::test_safetensors {
namespace {

using Tensors = std::vector<std::pair<std::string, Tensor>>;

/// A temporary folder, removed at the end.
struct Scratch {
  fs::path path = fs::temp_directory_path() / ("kto_safetensors_" + std::to_string(::getpid()));
  Scratch() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Scratch() { fs::remove_all(path); }
  std::size_t count() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), {})); }
};

/// A file from its parts; `length` is what the first 8 bytes say, by default the header's size.
std::string raw(const std::string& header, const std::string& data, std::optional<std::uint64_t> length = {}) {
  const std::uint64_t size = length.value_or(header.size());
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + header + data;
}

TEST_CASE("every dtype and shape is read back unchanged") {
  const Scratch scratch;
  const Tensor base = at::arange(12).view({3, 4}) - 3;
  Tensors tensors;
  for (const auto dtype : {at::kBool, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong, at::kHalf, at::kBFloat16,
                           at::kFloat, at::kDouble})
    tensors.emplace_back(concat("tensor ", dtype), (dtype == at::kByte ? base.abs() : base).to(dtype));
  tensors.emplace_back("scalar", at::scalar_tensor(2.5, at::kFloat));
  tensors.emplace_back("empty", at::empty({0, 3}));
  tensors.emplace_back("transposed", base.t());
  tensors.emplace_back("", at::ones({1}));
  tensors.emplace_back("\xc3\xa9\"\\", at::ones({1}) * 2);
  save_safetensors(scratch.path / "a.safetensors", tensors, {{"format", "pt"}, {"step", "3"}});
  const SafetensorsFile file(scratch.path / "a.safetensors");
  CHECK(file.metadata() == TensorMetadata{{"format", "pt"}, {"step", "3"}});
  CHECK(file.names().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    CHECK(file.contains(name));
    CHECK(file.tensor(name).scalar_type() == tensor.scalar_type());
    CHECK(at::equal(file.tensor(name), tensor));
  }
  CHECK_THROWS_WITH(file.tensor("absent"), KTO_CONTAINS("a.safetensors: has no tensor \"absent\""));
}

TEST_CASE("a tensor has its own memory, and comes from the file that was opened") {
  const Scratch scratch;
  save_safetensors(scratch.path / "a.safetensors", {{"x", at::arange(4)}});
  const SafetensorsFile file(scratch.path / "a.safetensors");
  const Tensor x = file.tensor("x");
  save_safetensors(scratch.path / "a.safetensors", {{"x", at::zeros({4})}});
  file.tensor("x").zero_();
  CHECK(at::equal(x, at::arange(4)));
  CHECK(at::equal(file.tensor("x"), at::arange(4)));
}

TEST_CASE("a file that becomes shorter while it is read is an error that names it") {
  const Scratch scratch;
  save_safetensors(scratch.path / "a.safetensors", {{"x", at::arange(4)}});
  const SafetensorsFile file(scratch.path / "a.safetensors");
  fs::resize_file(scratch.path / "a.safetensors", 100);
  CHECK_THROWS_WITH(file.tensor("x"), KTO_CONTAINS("a.safetensors: became shorter while it was read"));
}

TEST_CASE("tensors at odd offsets are read") {
  const Scratch scratch;
  const std::string header =
      R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  const float value = 1.5;
  write_file(scratch.path / "a", raw(header, "\x07" + std::string(reinterpret_cast<const char*>(&value), 4)));
  CHECK(SafetensorsFile(scratch.path / "a").tensor("f").item<float>() == 1.5f);
}

TEST_CASE("shared tensors are written once, equal ones and other views of the same memory are not dropped") {
  const Scratch scratch;
  const Tensor x = at::arange(9).view({3, 3});
  save_safetensors(scratch.path / "a", {{"x", x}, {"tied", x.view({3, 3})}, {"t", x.t()}, {"copy", x.clone()}});
  const SafetensorsFile file(scratch.path / "a");
  CHECK_FALSE(file.contains("tied"));
  CHECK(at::equal(file.tensor("t"), x.t()));
  CHECK(at::equal(file.tensor("copy"), x));
}

TEST_CASE("damaged and foreign files are refused with file and reason") {
  const Scratch scratch;
  const fs::path path = scratch.path / "bad.safetensors";
  const std::string f32 = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})", data(8, '\0');
  const auto entry = [](const std::string& text) { return R"({"a":)" + text + "}"; };
  const auto ones = [](int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += "1,";
    return out;
  };
  const std::pair<std::string, const char*> bad[] = {
      {"", "not a safetensors file: it has only 0 bytes"},
      {"1234567", "only 7 bytes"},
      {std::string(8, '\0'), "does not begin with a header"},
      {"PK\x03\x04 a zip file, or a pickle of PyTorch", "does not begin with a header"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"},
      {raw("{" + f32 + "}", data, 1000), "is truncated: its header should have 1000 bytes"},
      {raw("{" + f32 + "}", data, std::uint64_t{1} << 63), "does not begin with a header"},
      {raw("{" + f32 + "}", data.substr(1)), "is truncated: tensor \"a\" ends at byte 8 of 7"},
      {raw("{" + f32 + "}", data + "x"), "1 unused bytes after the last tensor"},
      {raw("{" + f32, data), "not valid JSON"},
      {raw("{\"\xff\":1}", ""), "not valid JSON"},
      {raw("{" + f32 + "," + f32 + "}", data), "\"a\" occurs twice"},
      {raw(entry(R"({"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]})"), data), "\"shape\" occurs twice"},
      {raw("{" + f32 + R"(,"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})", data + "1234"), "\"b\" overlaps"},
      {raw("{" + f32 + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[10,12]}})", data + "1234"),
       "2 unused bytes before tensor \"b\""},
      {raw(entry(R"({"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]})"), data), "dtype F8_E4M3 is not supported"},
      {raw(entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), data), "do not hold shape [3] of F32"},
      {raw(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), data), "do not hold"},
      {raw(entry(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), data), "expected {\"dtype\""},
      {raw(entry(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), data), "expected {\"dtype\""},
      {raw(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), data), "expected {\"dtype\""},
      {raw(entry(R"({"shape":[2],"data_offsets":[0,8]})"), data), "expected {\"dtype\""},
      {raw(entry(R"([1])"), data), "expected {\"dtype\""},
      {raw(entry(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]})"), ""), "is too large"},
      {raw(entry(R"({"dtype":"F32","shape":[)" + ones(65) + R"(2],"data_offsets":[0,8]})"), data),
       "has 66 dimensions; expected"},
      {raw(entry(R"({"dtype":"F32","shape":[)" + ones(1000000) + R"(0],"data_offsets":[0,0]})"), ""),
       "has 1000001 dimensions"},
      {raw(R"({"__metadata__":{"a":1}})", ""), "metadata \"a\" is not a string"},
      {raw(R"({"a":)" + std::string(1000000, '[') + std::string(1000000, ']') + "}", ""), "nested more than 256 deep"},
      {raw(R"({"__metadata__":1})", ""), "\"__metadata__\" is not an object"},
  };
  for (const auto& [content, message] : bad) {
    INFO(content.substr(0, 200));
    write_file(path, content);
    CHECK_THROWS_WITH(SafetensorsFile(path), KTO_CONTAINS(message) && KTO_CONTAINS("bad.safetensors"));
  }
  CHECK_THROWS_WITH(SafetensorsFile(scratch.path / "absent"), KTO_CONTAINS("absent: cannot be opened"));
  CHECK_THROWS_WITH(SafetensorsFile(scratch.path), KTO_CONTAINS("is not a file"));
}

TEST_CASE("no random damage to a header crashes or is taken for something else") {
  const Scratch scratch;
  const fs::path path = scratch.path / "a";
  save_safetensors(path, {{"one", at::arange(5)}, {"two", at::ones({2, 3})}, {"three", at::ones({3}, at::kBool)}});
  const std::string good = read_file(path);
  std::uint64_t state = 1;
  const auto random = [&] { return (state = state * 6364136223846793005ULL + 1442695040888963407ULL) >> 33; };
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    bad[random() % 220] = static_cast<char>(random());
    if (round % 3 == 0) bad.resize(random() % good.size());
    write_file(path, bad);
    try {
      const SafetensorsFile file(path);
      for (const auto& name : file.names()) file.tensor(name).sum();
    } catch (const Error&) {
    }
  }
}

TEST_CASE("a checkpoint is sharded past the limit, and read back from its shards") {
  const Scratch scratch;
  Tensors tensors;
  for (int i = 0; i < 7; ++i) tensors.emplace_back("w" + std::to_string(i), at::full({10}, i, at::kFloat));
  tensors.emplace_back("big", at::ones({100}));
  save_checkpoint(scratch.path, tensors, 100);
  CHECK(fs::exists(scratch.path / "model-00001-of-00005.safetensors"));
  CHECK(fs::exists(scratch.path / "model-00005-of-00005.safetensors"));
  const Json index = read_json(scratch.path / "model.safetensors.index.json");
  CHECK(index["metadata"]["total_size"] == 680);
  CHECK(index["weight_map"]["w3"] == "model-00002-of-00005.safetensors");
  const Checkpoint sharded(scratch.path);
  CHECK(sharded.names().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) CHECK(at::equal(sharded.tensor(name), tensor));

  SECTION("a later save in one file removes the shards, a sharded one the single file") {
    write_file(scratch.path / "model-00001-of-mine.safetensors", "not a shard");
    save_checkpoint(scratch.path, tensors);
    CHECK(scratch.count() == 2);
    CHECK(at::equal(Checkpoint(scratch.path).tensor("w3"), tensors[3].second));
    save_checkpoint(scratch.path, tensors, 400);
    CHECK_FALSE(fs::exists(scratch.path / "model.safetensors"));
    CHECK(at::equal(Checkpoint(scratch.path).tensor("big"), tensors.back().second));
  }
  SECTION("a missing shard") {
    fs::remove(scratch.path / "model-00003-of-00005.safetensors");
    CHECK_THROWS_WITH(Checkpoint(scratch.path), KTO_CONTAINS("shard model-00003-of-00005.safetensors is missing"));
  }
  SECTION("an index that names what no shard holds: what they hold counts") {
    save_safetensors(scratch.path / "model-00002-of-00005.safetensors", {{"w2", at::ones({1})}});
    const Checkpoint checkpoint(scratch.path);
    CHECK(checkpoint.contains("w2"));
    CHECK_FALSE(checkpoint.contains("w3"));
    CHECK_THROWS_WITH(checkpoint.tensor("w3"), KTO_CONTAINS("has no tensor \"w3\""));
  }
  SECTION("a tensor in two shards") {
    save_safetensors(scratch.path / "model-00005-of-00005.safetensors",
                     {{"big", at::ones({1})}, {"w0", at::ones({1})}});
    CHECK_THROWS_WITH(Checkpoint(scratch.path), KTO_CONTAINS("tensor \"w0\" is also in"));
  }
  SECTION("an index that is not one") {
    const fs::path path = scratch.path / "model.safetensors.index.json";
    for (const auto& [content, message] : std::vector<std::pair<const char*, const char*>>{
             {"[]", "no \"weight_map\""},
             {R"({"weight_map": {}})", "no \"weight_map\""},
             {R"({"weight_map": {"a": 1}})", "is not a string"},
             {R"({"weight_map": {"a": "../model.safetensors"}})", "is not a file name"},
             {R"({"weight_map": )", "not valid JSON"}}) {
      write_file(path, content);
      CHECK_THROWS_WITH(Checkpoint(scratch.path), KTO_CONTAINS(message) && KTO_CONTAINS("index.json"));
    }
  }
}

TEST_CASE("a folder without safetensors says what to do") {
  const Scratch scratch;
  CHECK_THROWS_WITH(Checkpoint(scratch.path), KTO_CONTAINS("model.safetensors: is missing"));
  write_file(scratch.path / "pytorch_model.bin", "x");
  CHECK_THROWS_WITH(Checkpoint(scratch.path),
                    KTO_CONTAINS("pytorch_model.bin: pickled weights") && KTO_CONTAINS("convert"));
}

/// Writing more than `bytes` to a file fails, as on a full disk, while this lives.
struct FileSizeLimit {
  rlimit before{};
  explicit FileSizeLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before); }
};

TEST_CASE("a write that fails leaves what was there") {
  const Scratch scratch;
  const Tensors old{{"x", at::ones({4})}}, large{{"x", at::zeros({4})}, {"y", at::zeros({100000})}};
  save_checkpoint(scratch.path, old);
  {
    const FileSizeLimit limit(100000);
    CHECK_THROWS_WITH(save_checkpoint(scratch.path, large), KTO_CONTAINS("model.safetensors: cannot be written"));
    CHECK_THROWS_WITH(save_checkpoint(scratch.path, large, 1000), KTO_CONTAINS("cannot be written"));
  }
  CHECK(scratch.count() == 1);
  CHECK(at::equal(Checkpoint(scratch.path).tensor("x"), at::ones({4})));
}

}  // namespace
}  // namespace kto::test::test_safetensors
