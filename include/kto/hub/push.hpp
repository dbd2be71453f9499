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
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "kto/hub/answer.hpp"
#include "kto/hub/digest.hpp"
#include "kto/hub/progress.hpp"
#include "kto/io/base64.hpp"
#include "kto/io/json.hpp"
#include "kto/options/option_table.hpp"

namespace kto::hub {

struct Push {
  std::string id = "";                            ///< owner/name, or a name alone: the user's own
  std::string revision = "main";                  ///< the branch, which is created if it is missing
  std::string message = "Upload";                 ///< of the commit
  std::optional<bool> is_private = std::nullopt;  ///< of a repository that is created; if absent, as its owner's are
  std::string token = "";                         ///< where empty, the environment's
  std::string path_in_repository = "";            ///< the folder there; the root where empty
  std::vector<std::string> deleted = {};          ///< paths in the repository that the commit removes
  bool shows_progress = true;                     ///< on stderr
  std::stop_token stop = {};                      ///< ends the push with Stopped
  /// Whether to leave a file out, by its path in the folder.
  std::function<bool(const std::string& path)> ignores = [](const std::string&) { return false; };
};

/// Whether a file of a run's output folder is no part of the model, as transformers' push_to_hub has it, or that of an
/// earlier PushStrategy::checkpoint, which was fetched to go on from.
inline bool is_beside_model(const std::string& path) {
  return path.starts_with("_") || path.starts_with("checkpoint-") || path.starts_with("last-checkpoint/");
}

namespace detail {

/// One file of a push.
struct PushedFile {
  fs::path file;
  std::uint64_t size = 0;
  std::string sha256 = "";  ///< of a large one
};

/// The token may not do what was asked.
struct NoRight : Error {
  using Error::Error;
};

/// How a request is posted.
struct PostOptions {
  std::vector<std::string> headers = {"Content-Type: application/json"};
  bool may_exist = false;  ///< what is created
  bool authorized = true;
  long timeout = 0;  ///< seconds
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
    if (push_.is_private) body["visibility"] = *push_.is_private ? "private" : "public";
    try {
      post(endpoint() + "/api/repos/create", body, {.may_exist = true});
    } catch (const NoRight&) {  // to create one; that to write to one that exists is another
      if (http_.with_patience([&] { return http_.send({.url = api()}); }).status != 200) throw;
    }
    if (push_.revision != "main")
      post(api() + "/branch/" + url_part(push_.revision), Json::object(), {.may_exist = true});
  }

  /// Throws Error if the token has no right to write there.
  void check_right() const {
    const Json file{{"path", "README.md"}, {"sample", ""}, {"size", 0}};
    post(api() + "/preupload/" + url_part(push_.revision), {{"files", Json::array({file})}});
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
        list.push_back({{"path", paths[i]}, {"sample", encode_base64(sample)}, {"size", file.size}});
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
                                   {.headers = lfs});
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
        add("file", {{"content", encode_base64(read_file(file.file))}, {"path", path}, {"encoding", "base64"}});
      else
        add("lfsFile", {{"path", path}, {"algo", "sha256"}, {"oid", file.sha256}, {"size", file.size}});
    for (const std::string& path : push_.deleted) add("deletedFile", {{"path", path}});
    const Json answer = post(api() + "/commit/" + url_part(push_.revision), lines,
                             {.headers = {"Content-Type: application/x-ndjson"}, .timeout = seconds_to_assemble});
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

  static constexpr long seconds_to_assemble = 300;  ///< that the hub may take for a commit, or for a file of parts

  static std::string said_in(const Response& response) {
    const std::string text = response.header("x-error-message");
    return text.empty() ? "" : concat(" (", shortened(text, 200), ")");
  }

  /// `body`: JSON, or text that is sent as it is.
  Json post_once(const std::string& url, const Json& body, const PostOptions& how) const {
    const Response response = http_.send({.url = url,
                                          .method = "POST",
                                          .headers = how.headers,
                                          .body = body.is_string() ? body.get<std::string>() : body.dump(),
                                          .authorized = how.authorized,
                                          .timeout = how.timeout});
    if (how.may_exist && response.status == 409) return Json::object();
    const std::string page = endpoint() + "/settings/tokens";
    if (response.status == 401 && response.header("x-error-code").empty())
      fail(repository_.id, ": ", endpoint(), " refuses the token; make a new one at ", page, said_in(response));
    if (response.status == 403)
      throw NoRight(concat(repository_.id, ": the token has no right to write there; make one that has at ", page,
                           ", or push to another name", said_in(response)));
    check_answer(http_, repository_, response);
    const Json answer = Json::parse(response.body, nullptr, false);
    return answer.is_object() ? answer : Json::object();
  }
  Json post(const std::string& url, const Json& body, const PostOptions& how = {}) const {
    return http_.with_patience([&] { return post_once(url, body, how); });
  }

  /// Uploads bytes, and returns their ETag.
  std::string put(const std::string& url, const FilePart& part) const {
    const Response response =
        http_.send({.url = url, .method = "PUT", .headers = {"Expect:"}, .upload = part, .authorized = false});
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
    post_once(finish, {{"oid", file.sha256}, {"parts", parts}},
              {.headers = headers, .authorized = false, .timeout = seconds_to_assemble});
  }

  const Http& http_;
  const Push& push_;
  Repository repository_;
};

}  // namespace detail

/// `push` with its token and its full id, to a repository that is created if it is missing. Throws Error if the token
/// is missing, refused, or has no right to write there.
inline Push prepare_push(Push push) {
  const Settings settings = settings_of_environment();
  check(!settings.offline, push.id, ": HF_HUB_OFFLINE forbids to push to the hub: unset it");
  if (push.token.empty()) push.token = read_token(settings);
  check(!push.token.empty(), push.id, ": pushing to ", settings.endpoint,
        " needs a token: hf auth login, or put one into HF_TOKEN");
  check(is_token(push.token), push.id, ": the token to push with is no token; expected one line such as hf_...");
  check(is_id(push.id) && is_plain_path(push.revision), push.id, ": is no name on the hub; expected owner/name");
  const Http http(settings, push.token, push.stop);
  if (!is_full_id(push.id)) {
    const Response response =
        http.with_patience([&] { return http.send({.url = settings.endpoint + "/api/whoami-v2"}); });
    check(response.status != 401, push.id, ": ", settings.endpoint, " refuses the token; make a new one at ",
          settings.endpoint, "/settings/tokens");
    check_answer(http, {.kind = Kind::model, .id = push.id}, response);
    const Json user = Json::parse(response.body, nullptr, false);
    check(user.is_object() && user.contains("name") && user["name"].is_string(), settings.endpoint,
          ": does not say whose the token is");
    push.id = user["name"].get<std::string>() + "/" + push.id;
  }
  const detail::Pusher pusher(http, push.id, push);
  pusher.create();
  pusher.check_right();
  return push;
}

/// The files of `folder` that a push uploads, by their paths there: all but hidden ones and those that `push` ignores.
inline std::map<std::string, fs::path> files_to_push(const fs::path& folder, const Push& push) {
  check(fs::is_directory(folder), folder.string(), ": is not a folder; expected one to push to the hub");
  std::map<std::string, fs::path> files;
  for (fs::recursive_directory_iterator at(folder), end; at != end; ++at) {
    const std::string path = at->path().lexically_relative(folder).string();
    if (at->path().filename().string().starts_with('.')) {
      if (at->is_directory()) at.disable_recursion_pending();
    } else if (at->is_regular_file() && !push.ignores(path)) {
      files[path] = at->path();
    }
  }
  return files;
}

/// Uploads the files of `folder` as one commit to a repository that is prepared (prepare_push), and returns the commit's
/// address. The folder is only read.
inline std::string push_folder(const fs::path& folder, const Push& push) {
  const Settings settings = settings_of_environment();
  const std::string prefix = push.path_in_repository.empty() ? "" : push.path_in_repository + "/";
  std::map<std::string, detail::PushedFile> files;
  std::uint64_t total = 0;
  for (const auto& [path, file] : files_to_push(folder, push))
    total += (files[prefix + path] = {.file = file, .size = fs::file_size(file)}).size;
  const Http http(settings, push.token, push.stop);
  const detail::Pusher pusher(http, push.id, push);
  pusher.sort(files);
  std::optional<Progress> progress;
  if (push.shows_progress) progress.emplace("upload", total, settings.shows_bar);
  for (const auto& [path, file] : files) {
    if (!file.sha256.empty()) pusher.upload(file);
    if (progress) progress->add(static_cast<std::int64_t>(file.size), true);
  }
  return pusher.commit(files);
}

/// Uploads the files of `folder`, hidden ones excepted, as one commit to the model `push` names, and returns the
/// commit's address. Throws Error that says what is wrong and what to do; the folder is only read.
inline std::string push_to_hub(const fs::path& folder, const Push& push, const Note& note = {}) {
  check(fs::is_directory(folder), folder.string(), ": is not a folder; expected one to push to the hub");
  const std::string address = push_folder(folder, prepare_push(push));
  if (note) note(concat("pushed ", folder.string(), " to ", address));
  return address;
}

}  // namespace kto::hub
#endif
