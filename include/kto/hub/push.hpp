// SPDX-License-Identifier: Apache-2.0
// Uploads a folder to the hub as one commit: the repository is created if it is missing, large files go to its storage
// for them, in one part or several, each verified, and small ones into the commit itself.
// In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kto/hub/answer.hpp"
#include "kto/hub/digest.hpp"
#include "kto/hub/progress.hpp"
#include "kto/io/json.hpp"
#include "kto/options/option_table.hpp"

namespace kto::hub {

struct Push {
  std::string id;                  ///< owner/name, or a name alone: the user's own
  std::string revision = "main";   ///< the branch, which is created if it is missing
  std::string message = "Upload";  ///< of the commit
  bool is_private = false;         ///< of a repository that is created
  std::string token = "";          ///< where empty, the environment's
  /// Whether to leave a file out, by its path in the folder.
  std::function<bool(const std::string& path)> ignores = [](const std::string&) { return false; };
};

namespace detail {

inline std::string base64(std::string_view bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t word = 0;
    for (std::size_t i = 0; i < 3; ++i)
      word = word << 8 | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    for (std::size_t i = 0; i < 4; ++i)
      out += i <= std::min<std::size_t>(bytes.size() - at, 3) ? digits[word >> (18 - 6 * i) & 63] : '=';
  }
  return out;
}

/// One file of a push.
struct PushedFile {
  fs::path file;
  std::uint64_t size = 0;
  std::string sha256 = "";  ///< of a large one
};

/// The protocol of an upload, a step a function.
class Pusher {
 public:
  Pusher(const Http& http, std::string id, const Push& push)
      : http_(http), push_(push), repository_{.kind = Kind::model, .id = std::move(id), .revision = push.revision} {}

  void create() const {
    const std::size_t slash = repository_.id.find('/');
    Json body{{"name", repository_.id.substr(slash + 1)},
              {"organization", repository_.id.substr(0, slash)},
              {"type", "model"}};
    if (push_.is_private) body["visibility"] = "private";
    post(endpoint() + "/api/repos/create", body, {}, /*may_exist=*/true);
    if (push_.revision != "main")
      post(api() + "/branch/" + url_part(push_.revision), Json::object(), {}, /*may_exist=*/true);
  }

  /// Asks which files are large, and hashes those; drops those that the repository ignores.
  void sort(std::map<std::string, PushedFile>& files) const {
    constexpr std::size_t most_files = 256, sample_bytes = 512;
    std::vector<std::string> paths;
    for (const auto& [path, file] : files) paths.push_back(path);
    for (std::size_t begin = 0; begin < paths.size(); begin += most_files) {
      Json list = Json::array();
      for (std::size_t i = begin; i < std::min(begin + most_files, paths.size()); ++i) {
        const PushedFile& file = files.at(paths[i]);
        std::string sample;
        FileReader(file.file).read(sample, sample_bytes);
        list.push_back({{"path", paths[i]}, {"sample", base64(sample)}, {"size", file.size}});
      }
      const Json answer = post(api() + "/preupload/" + url_part(push_.revision), {{"files", list}});
      check(answer.contains("files") && answer["files"].is_array(), endpoint(), ": is not the answer of a model hub");
      for (const Json& entry : answer["files"]) {
        const auto found = files.find(entry.value("path", ""));
        if (found == files.end()) continue;
        PushedFile& file = found->second;
        if (entry.value("shouldIgnore", false))
          files.erase(found);
        else if (entry.value("uploadMode", "") == "lfs" && file.size > 0)
          file.sha256 = hash_of(file.file);
      }
    }
  }

  /// Uploads a large file, unless the hub has its content. Asks for addresses at each attempt, since they expire.
  void upload(const PushedFile& file) const {
    http_.with_patience([&] {
      const std::vector<std::string> lfs{"Accept: application/vnd.git-lfs+json",
                                         "Content-Type: application/vnd.git-lfs+json"};
      const Json object{{"oid", file.sha256}, {"size", file.size}};
      const Json batch = post_once(endpoint() + "/" + repository_.id + ".git/info/lfs/objects/batch",
                                   {{"operation", "upload"},
                                    {"transfers", {"basic", "multipart"}},
                                    {"objects", Json::array({object})},
                                    {"hash_algo", "sha256"},
                                    {"ref", {{"name", push_.revision}}}},
                                   lfs);
      const std::string where = file.file.string();
      check(batch.contains("objects") && batch["objects"].is_array() && batch["objects"].size() == 1, where,
            ": the hub does not say where to upload it");
      const Json& answer = batch["objects"][0];
      if (answer.contains("error"))
        fail(where, ": the hub refuses it: ", shortened(answer["error"].value("message", ""), 200));
      if (!answer.contains("actions") || answer["actions"].is_null()) return;  // its content is there
      const Json& action = answer["actions"].at("upload");
      const Json header = action.value("header", Json::object());
      const auto href = action.at("href").template get<std::string>();
      if (header.contains("chunk_size"))
        put_parts(file, header, href, lfs);
      else
        put(href, {.path = file.file, .offset = 0, .size = file.size});
      if (answer["actions"].contains("verify"))
        post_once(answer["actions"]["verify"].at("href").template get<std::string>(), object, {});
    });
  }

  /// The commit's address.
  std::string commit(const std::map<std::string, PushedFile>& files) const {
    std::string lines = Json{{"key", "header"}, {"value", {{"summary", push_.message}, {"description", ""}}}}.dump();
    const auto add = [&](const char* key, const Json& value) {
      lines += '\n' + Json{{"key", key}, {"value", value}}.dump();
    };
    for (const auto& [path, file] : files)
      if (file.sha256.empty())
        add("file", {{"content", base64(read_file(file.file))}, {"path", path}, {"encoding", "base64"}});
      else
        add("lfsFile", {{"path", path}, {"algo", "sha256"}, {"oid", file.sha256}, {"size", file.size}});
    const Json answer =
        post(api() + "/commit/" + url_part(push_.revision), lines, {"Content-Type: application/x-ndjson"});
    return answer.value("commitUrl", endpoint() + "/" + repository_.id);
  }

 private:
  const std::string& endpoint() const { return http_.settings().endpoint; }
  std::string api() const { return endpoint() + "/api/models/" + repository_.id; }

  static std::string hash_of(const fs::path& path) {
    Digest digest = Digest::sha256();
    FileReader reader(path);
    for (std::string block; reader.read(block, 1 << 20); block.clear()) digest.add(block);
    return digest.hex();
  }

  /// `body`: JSON, or text that is sent as it is.
  Json post_once(const std::string& url, const Json& body, const std::vector<std::string>& headers,
                 bool may_exist = false, bool with_token = true) const {
    Request request{
        .url = url, .method = "POST", .headers = headers, .body = body.is_string() ? body : Json(body.dump())};
    request.with_token = with_token;
    if (headers.empty()) request.headers = {"Content-Type: application/json"};
    const Response response = http_.send(request);
    if (may_exist && response.status == 409) return Json::object();
    check_answer(http_, repository_, response);
    const Json answer = Json::parse(response.body, nullptr, false);
    return answer.is_object() ? answer : Json::object();
  }
  Json post(const std::string& url, const Json& body, const std::vector<std::string>& headers = {},
            bool may_exist = false) const {
    return http_.with_patience([&] { return post_once(url, body, headers, may_exist); });
  }

  /// Uploads bytes, and returns their ETag.
  std::string put(const std::string& url, const FilePart& part) const {
    const Response response =
        http_.send({.url = url, .method = "PUT", .headers = {"Expect:"}, .upload = part, .with_token = false});
    if (response.status / 100 != 2)  // addresses expire
      throw Transient(concat(part.path.string(), ": the upload is refused (HTTP ", response.status, ")"));
    return response.header("etag");
  }

  void put_parts(const PushedFile& file, const Json& header, const std::string& finish,
                 const std::vector<std::string>& headers) const {
    const Json& given = header["chunk_size"];
    const std::uint64_t part = given.is_string() ? std::strtoull(given.get<std::string>().c_str(), nullptr, 10)
                                                 : json_as<std::uint64_t>(given).value_or(0);
    std::map<std::uint64_t, std::string> addresses;
    for (const auto& [number, address] : header.items())
      if (number.find_first_not_of("0123456789") == std::string::npos && address.is_string())
        addresses[std::strtoull(number.c_str(), nullptr, 10)] = address.get<std::string>();
    check(part > 0 && addresses.size() == (file.size + part - 1) / part, file.file.string(), ": the hub offers ",
          addresses.size(), " parts of ", part, " bytes, which are not ", file.size);
    Json parts = Json::array();
    std::uint64_t offset = 0;
    for (const auto& [number, address] : addresses) {
      const FilePart bytes{.path = file.file, .offset = offset, .size = std::min(part, file.size - offset)};
      const std::string etag = put(address, bytes);
      check(!etag.empty(), file.file.string(), ": the upload of a part is not confirmed");
      parts.push_back({{"partNumber", parts.size() + 1}, {"etag", etag}});
      offset += bytes.size;
    }
    post_once(finish, {{"oid", file.sha256}, {"parts", parts}}, headers, /*may_exist=*/false, /*with_token=*/false);
  }

  const Http& http_;
  const Push& push_;
  Repository repository_;
};

}  // namespace detail

/// Uploads the files of `folder`, hidden ones excepted, as one commit to the model `push` names, and returns the
/// commit's address. Throws Error that says what is wrong and what to do; the folder is only read.
inline std::string push_to_hub(const fs::path& folder, const Push& push, const Note& note = {}) {
  const Settings settings = settings_of_environment();
  check(fs::is_directory(folder), folder.string(), ": is not a folder; expected one to push to the hub");
  check(!settings.offline, push.id, ": HF_HUB_OFFLINE forbids to push to the hub: unset it");
  const std::string token = push.token.empty() ? read_token(settings) : push.token;
  check(!token.empty(), push.id, ": pushing to ", settings.endpoint,
        " needs a token: hf auth login, or put one into HF_TOKEN");
  check(is_id(push.id) && is_plain_path(push.revision), push.id, ": is no name on the hub; expected owner/name");
  const Http http(settings, token);
  std::string id = push.id;
  if (!is_full_id(id)) {
    const Response response =
        http.with_patience([&] { return http.send({.url = settings.endpoint + "/api/whoami-v2"}); });
    check_answer(http, {.kind = Kind::model, .id = id}, response);
    const Json user = Json::parse(response.body, nullptr, false);
    check(user.is_object() && user.contains("name") && user["name"].is_string(), settings.endpoint,
          ": does not say whose the token is");
    id = user["name"].get<std::string>() + "/" + id;
  }
  std::map<std::string, detail::PushedFile> files;
  std::uint64_t total = 0;
  for (fs::recursive_directory_iterator at(folder), end; at != end; ++at) {
    const std::string path = at->path().lexically_relative(folder).string();
    if (at->path().filename().string().starts_with('.')) {
      if (at->is_directory()) at.disable_recursion_pending();
    } else if (at->is_regular_file() && !push.ignores(path)) {
      files[path] = {.file = at->path(), .size = at->file_size()};
      total += at->file_size();
    }
  }
  const detail::Pusher pusher(http, id, push);
  pusher.create();
  pusher.sort(files);
  Progress progress("upload", total, settings.shows_bar);
  for (const auto& [path, file] : files) {
    if (!file.sha256.empty()) pusher.upload(file);
    progress.add(static_cast<std::int64_t>(file.size), true);
  }
  const std::string address = pusher.commit(files);
  if (note) note(concat("pushed ", folder.string(), " (", bytes_text(static_cast<double>(total)), ") to ", address));
  return address;
}

}  // namespace kto::hub
#endif
