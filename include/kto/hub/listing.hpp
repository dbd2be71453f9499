// SPDX-License-Identifier: Apache-2.0
// Which commit a revision is, and the files of a commit, as the hub lists them, page by page. In programs that link
// kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "kto/hub/answer.hpp"
#include "kto/hub/blobs.hpp"
#include "kto/io/json.hpp"
#include "kto/options/option.hpp"

namespace kto::hub {

namespace detail {

/// The answer to a question to the hub about the repository.
inline Response ask(const Http& http, const Repository& repository, const std::string& url) {
  const Response response = http.with_patience([&] { return http.send({.url = url}); });
  check_answer(http, repository, response);
  return response;
}

inline std::string api_of(const Http& http, const Repository& repository) {
  return concat(http.settings().endpoint, "/api/", repository.kind == Kind::model ? "models/" : "datasets/",
                repository.id);
}

}  // namespace detail

/// The commit that the hub has for the repository's revision.
inline std::string remote_commit(const Http& http, const Repository& repository) {
  const std::string url = detail::api_of(http, repository) + "/revision/" + url_part(repository.revision);
  const Json info = Json::parse(detail::ask(http, repository, url).body, nullptr, false);
  const bool has_commit = info.is_object() && info.contains("sha") && info["sha"].is_string();
  const std::string commit = has_commit ? info["sha"].get<std::string>() : "";
  check(is_commit(commit), url, ": is not the answer of a model hub; HF_ENDPOINT names the hub's address");
  return commit;
}

namespace detail {

/// The address of the next page in a header "Link: <URL>; rel="next"".
inline std::string next_page(const std::string& link) {
  const std::size_t relation = link.find("rel=\"next\""), begin = link.rfind('<', relation);
  if (relation == std::string::npos || begin == std::string::npos) return "";
  return link.substr(begin + 1, link.find('>', begin) - begin - 1);
}

}  // namespace detail

/// All files of a commit, by path. Throws Error for what no file of a repository can be.
inline std::map<std::string, RemoteFile> remote_files(const Http& http, const Repository& repository,
                                                      const std::string& commit) {
  std::map<std::string, RemoteFile> out;
  std::set<std::string> seen;
  std::string url = detail::api_of(http, repository) + "/tree/" + commit + "?recursive=True&expand=False";
  while (!url.empty()) {
    check(seen.insert(url).second, url, ": the hub's list of files does not end; try again later");
    const Response page = detail::ask(http, repository, url);
    const Json list = parse_json(page.body, url);
    check(list.is_array(), url, ": expected a list of files");
    for (const Json& entry : list) {
      if (!entry.is_object() || entry.value("type", "") != "file") continue;
      RemoteFile file{.path = entry.value("path", ""), .url = "", .size = 0, .hash = entry.value("oid", "")};
      const bool is_large = entry.contains("lfs") && entry["lfs"].is_object();
      const Json& content = is_large ? entry["lfs"] : entry;
      file.size = json_value<std::uint64_t>(content, "size", 0, url);
      if (is_large) file.hash = json_value<std::string>(content, "oid", "", url);
      check(is_plain_path(file.path), url, ": lists the file ", kto::detail::quoted(file.path),
            ", which would be outside of the ", "repository's folder; nothing is downloaded");
      check(file.hash.size() == (is_large ? 64U : 40U) &&
                file.hash.find_first_not_of("0123456789abcdef") == std::string::npos,
            url, ": the hash of ", file.path, " is ", kto::detail::quoted(file.hash), "; nothing is downloaded");
      file.url = concat(http.settings().endpoint, '/', page_of(repository), "/resolve/", commit, '/',
                        url_part(file.path, /*is_path=*/true));
      out[file.path] = std::move(file);
    }
    url = detail::next_page(page.header("link"));
  }
  return out;
}

}  // namespace kto::hub
#endif
