// SPDX-License-Identifier: Apache-2.0
// Safetensors files, read one tensor at a time and written in one pass. The format: 8 bytes of header length
// (little-endian), a JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes; see
// github.com/huggingface/safetensors.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kto/core/torch.hpp"
#include "kto/dist/shared_out.hpp"
#include "kto/io/atomic_file.hpp"
#include "kto/io/json.hpp"
#include "kto/io/mapped_file.hpp"

namespace kto {

using TensorMetadata = std::map<std::string, std::string>;

namespace detail {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian and are read as they are");

struct SafetensorsDtype {
  std::string_view name;
  at::ScalarType type;
};
inline constexpr SafetensorsDtype safetensors_dtypes[] = {
    {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}, {"I64", at::kLong},
    {"I32", at::kInt},    {"I16", at::kShort}, {"I8", at::kChar},  {"U8", at::kByte},       {"BOOL", at::kBool}};
inline constexpr std::size_t safetensors_max_header = 100'000'000;  // the limit of the reference implementation
inline constexpr std::size_t safetensors_max_rank = 64;             // LibTorch's limit

/// Throws Error if a key occurs twice in the header's object or in an object inside it.
inline void check_unique_keys(std::string_view header, const std::string& path) {
  std::array<std::set<std::string>, 2> seen;
  const auto visit = [&](int depth, Json::parse_event_t event, const Json& value) {
    const auto level = static_cast<std::size_t>(depth) - 1;
    if (event == Json::parse_event_t::object_start && depth < 2) seen[static_cast<std::size_t>(depth)].clear();
    if (event == Json::parse_event_t::key && level < seen.size())
      check(seen[level].insert(value.get<std::string>()).second, path, ": header: ", value.dump(), " occurs twice");
    return true;
  };
  const Json parsed = Json::parse(header.begin(), header.end(), visit);
}

/// The tensors, without repeats: a tensor that is the same view of the same memory as an earlier one (tied weights).
inline std::vector<std::pair<std::string, Tensor>> without_shared(
    const std::vector<std::pair<std::string, Tensor>>& tensors) {
  std::vector<std::pair<std::string, Tensor>> kept;
  std::set<std::string> seen;
  for (const auto& [name, tensor] : tensors)
    if (tensor.nbytes() == 0 || tensor.is_meta() ||
        seen.insert(concat(tensor.storage().unsafeGetStorageImpl(), '+', tensor.storage_offset(), ' ',
                           tensor.scalar_type(), ' ', tensor.sizes(), ' ', tensor.strides()))
            .second)
      kept.emplace_back(name, tensor.detach());
  return kept;
}

}  // namespace detail

/// A safetensors file. The whole header is checked on opening; throws Error naming the file and what is wrong.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& path) : path_(path.string()), file_(std::make_shared<FileReader>(path)) {
    const std::size_t size = file_->size();
    std::string begin;
    file_->read(begin, 64);
    check(!begin.starts_with("version https://git-lfs"), path_,
          ": is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`");
    std::uint64_t header_size = 0;
    check(size >= sizeof header_size, path_, ": is not a safetensors file: it has only ", size, " bytes");
    std::memcpy(&header_size, begin.data(), sizeof header_size);
    check(
        header_size <= detail::safetensors_max_header && size > sizeof header_size && begin[sizeof header_size] == '{',
        path_, ": is not a safetensors file: it does not begin with a header");
    check(header_size <= size - sizeof header_size, path_, ": is truncated: its header should have ", header_size,
          " bytes, the whole file has ", size);
    data_begin_ = sizeof header_size + header_size;
    std::string header(header_size, '\0');
    file_->read_at(sizeof header_size, header.data(), header_size);
    read_header(header);
  }

  const std::string& path() const { return path_; }
  const TensorMetadata& metadata() const { return metadata_; }

  /// The names of the tensors, in the order of the header.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return infos_.contains(name); }

  /// Reads a tensor from the file. Throws Error if there is none of that name, or if the file has become shorter.
  Tensor tensor(const std::string& name) const {
    const auto found = infos_.find(name);
    check(found != infos_.end(), path_, ": has no tensor \"", name, '"');
    const auto& [dtype, shape, begin, end] = found->second;
    Tensor out = at::empty(shape, dtype);
    file_->read_at(data_begin_ + begin, static_cast<char*>(out.mutable_data_ptr()), end - begin);
    return out;
  }
  /// The same without reading it: a view of `whole`, this file mapped, which must not be written to.
  Tensor view(const std::string& name, const std::shared_ptr<const MappedFile>& whole) const {
    const auto found = infos_.find(name);
    check(found != infos_.end(), path_, ": has no tensor \"", name, '"');
    const auto& [dtype, shape, begin, end] = found->second;
    check(data_begin_ + end <= whole->bytes().size(), path_, ": became shorter while it was read");
    const char* data = whole->bytes().data() + data_begin_ + begin;
    if (reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(dtype) != 0) return tensor(name);
    return at::from_blob(const_cast<char*>(data), shape, [whole](void*) {}, at::TensorOptions(dtype));
  }

 private:
  struct Info {
    at::ScalarType dtype;
    std::vector<std::int64_t> shape;
    std::size_t begin, end;
  };

  void read_header(std::string_view text) {
    const Json header = parse_json(text, path_ + ": header");
    detail::check_unique_keys(text, path_);
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        check(entry.is_object(), path_, ": header: \"__metadata__\" is not an object");
        for (const auto& [key, value] : entry.items()) {
          check(value.is_string(), path_, ": header: metadata \"", key, "\" is not a string");
          metadata_[key] = value.get<std::string>();
        }
        continue;
      }
      names_.push_back(name);
      infos_.emplace(name, read_entry(entry, concat(path_, ": tensor \"", name, '"')));
    }
    check_offsets();
  }

  static Info read_entry(const Json& entry, const std::string& where) {
    const auto is_list = [&](const char* key) {
      return entry.contains(key) && entry[key].is_array() &&
             std::ranges::all_of(entry[key], [](const Json& item) { return item.is_number_unsigned(); });
    };
    check(entry.is_object() && entry.contains("dtype") && entry["dtype"].is_string() && is_list("shape") &&
              is_list("data_offsets") && entry["data_offsets"].size() == 2,
          where, ": expected {\"dtype\": text, \"shape\": [sizes], \"data_offsets\": [begin, end]} in the header");
    const auto dtype = entry["dtype"].get<std::string>();
    const auto* known = std::ranges::find(detail::safetensors_dtypes, dtype, &detail::SafetensorsDtype::name);
    if (known == std::ranges::end(detail::safetensors_dtypes)) {
      std::string names;
      for (const auto& each : detail::safetensors_dtypes) names += concat(names.empty() ? "" : ", ", each.name);
      fail(where, ": dtype ", dtype, " is not supported (", names, ')');
    }
    check(entry["shape"].size() <= detail::safetensors_max_rank, where, ": has ", entry["shape"].size(),
          " dimensions; expected at most ", detail::safetensors_max_rank);
    std::uint64_t size = c10::elementSize(known->type);
    bool fits = true;
    for (const Json& item : entry["shape"])
      fits = fits && !__builtin_mul_overflow(size, item.get<std::uint64_t>(), &size) && size < (std::uint64_t{1} << 62);
    check(fits, where, ": shape ", entry["shape"].dump(), " is too large");
    const auto begin = entry["data_offsets"][0].get<std::uint64_t>(),
               end = entry["data_offsets"][1].get<std::uint64_t>();
    check(begin <= end && end - begin == size, where, ": data_offsets ", entry["data_offsets"].dump(),
          " do not hold shape ", entry["shape"].dump(), " of ", dtype, ", which needs ", size, " bytes");
    return {known->type, entry["shape"].get<std::vector<std::int64_t>>(), begin, end};
  }

  /// Checks that the tensors fill the data without gaps or overlaps.
  void check_offsets() const {
    std::vector<std::pair<std::pair<std::size_t, std::size_t>, std::string_view>> ranges;
    ranges.reserve(infos_.size());
    for (const auto& [name, info] : infos_) ranges.push_back({{info.begin, info.end}, name});
    std::ranges::sort(ranges);
    const std::size_t num_bytes = file_->size() - data_begin_;
    std::size_t expected = 0;
    for (const auto& [range, name] : ranges) {
      check(range.second <= num_bytes, path_, ": is truncated: tensor \"", name, "\" ends at byte ", range.second,
            " of ", num_bytes, " bytes of data");
      check(range.first >= expected, path_, ": tensor \"", name, "\" overlaps the one before it");
      check(range.first == expected, path_, ": ", range.first - expected, " unused bytes before tensor \"", name, '"');
      expected = range.second;
    }
    check(expected == num_bytes, path_, ": ", num_bytes - expected, " unused bytes after the last tensor");
  }

  std::string path_;
  std::shared_ptr<FileReader> file_;
  std::size_t data_begin_ = 0;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Info> infos_;
  TensorMetadata metadata_;
};

/// Writes named tensors into `file` one by one, without a second copy in memory. Like transformers, it skips names that
/// share the memory of an earlier one (tied weights). Tensors that ranks share out are gathered in turn. `fetch` gives
/// the tensors that are on the device meta, and so without memory, when their turn comes. Does not commit.
inline void write_safetensors(AtomicFile& file, const std::vector<std::pair<std::string, Tensor>>& tensors,
                              const TensorMetadata& metadata = {{"format", "pt"}},
                              const std::function<Tensor(const std::string&)>& fetch = {}) {
  auto kept = detail::without_shared(tensors);
  // Widest elements first, so that every tensor is aligned.
  std::ranges::stable_sort(kept, std::greater{}, [](const auto& item) { return item.second.itemsize(); });

  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t begin = 0;
  for (const auto& [name, tensor] : kept) {
    const auto* known =
        std::ranges::find(detail::safetensors_dtypes, tensor.scalar_type(), &detail::SafetensorsDtype::type);
    check(known != std::ranges::end(detail::safetensors_dtypes), "tensor \"", name, "\" of type ", tensor.scalar_type(),
          " cannot be written as safetensors");
    check(name != "__metadata__" && !header.contains(name), "tensor name \"", name, "\" cannot be written twice");
    header[name] = {
        {"dtype", known->name}, {"shape", tensor.sizes().vec()}, {"data_offsets", {begin, begin + tensor.nbytes()}}};
    begin += tensor.nbytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_size = text.size();
  file.write({reinterpret_cast<const char*>(&header_size), sizeof header_size});
  file.write(text);
  for (const auto& [name, tensor] : kept) {
    const Tensor plain = (tensor.is_meta() ? fetch(name) : present(tensor)).cpu().contiguous();
    file.write({static_cast<const char*>(plain.const_data_ptr()), plain.nbytes()});
  }
}

/// Writes a safetensors file atomically.
inline void save_safetensors(const fs::path& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                             const TensorMetadata& metadata = {{"format", "pt"}},
                             const std::function<Tensor(const std::string&)>& fetch = {}) {
  AtomicFile file(path);
  write_safetensors(file, tensors, metadata, fetch);
  file.commit();
}

}  // namespace kto
