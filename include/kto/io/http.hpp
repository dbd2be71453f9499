// SPDX-License-Identifier: Apache-2.0
// Requests to servers with libcurl. Redirects are followed here, so that what authorizes the user goes to one server and to
// no other. In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "kto/core/environment.hpp"
#include "kto/core/error.hpp"
#include "kto/core/interrupt.hpp"
#include "kto/core/version.hpp"
#include "kto/io/file.hpp"

namespace kto::http {

/// Bytes of a file that are uploaded.
struct FilePart {
  fs::path path;                       ///< of the file
  std::uint64_t offset = 0, size = 0;  ///< bytes
};

/// What is asked of a server.
struct Request {
  std::string url;                                ///< http:// or https://
  std::string method = "GET";                     ///< PUT where there is an upload
  std::vector<std::string> headers = {};          ///< "Name: value"
  std::string body = {};                          ///< not of GET
  std::optional<FilePart> upload = std::nullopt;  ///< in place of a body
  bool authorized = true;                         ///< at Access::origin
  long timeout = 0;                               ///< seconds in which a byte must come; Access::timeout where 0
};

/// What a server answers.
struct Response {
  long status = 0;                                  ///< of HTTP
  std::map<std::string, std::string> headers = {};  ///< names in lower case
  std::string body = {};                            ///< empty where a Client::Sink took it
  std::string url = {};                             ///< the last one, after redirects

  /// The value of the header with this lower-case name, or an empty string.
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

/// A failure that may pass: the request is worth repeating.
struct Transient : Error {
  /// `what` happened, and after `wait` seconds it may have passed.
  explicit Transient(const std::string& what, std::optional<double> wait = {}) : Error(what), seconds(wait) {}
  std::optional<double> seconds;  ///< to wait first, if the server said
};

/// There is no connection at all.
struct Unreachable : Transient {
  using Transient::Transient;
};

/// Thrown when another thread's failure makes this one's work useless.
struct Stopped {};

/// "https://host:443" of an address, in lower case; empty for what is no address.
inline std::string origin_of(const std::string& url) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parts(curl_url(), &curl_url_cleanup);
  if (curl_url_set(parts.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "";
  std::string out;
  for (const CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    char* text = nullptr;
    if (curl_url_get(parts.get(), part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
    out += std::string(text) + '|';
    curl_free(text);
  }
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

/// Waits, ending early when the program or the download is stopped.
inline void wait(double seconds, const std::stop_token& stop) {
  using namespace std::chrono;
  const auto end = steady_clock::now() + duration<double>(seconds);
  while (steady_clock::now() < end) {
    check_interrupt();
    if (stop.stop_requested()) throw Stopped{};
    std::this_thread::sleep_for(milliseconds(20));
  }
}

/// How a server is spoken to.
struct Access {
  std::string origin = "";         ///< an address at the server that is authorized; others are not
  std::string authorization = "";  ///< the header's value, "Bearer ..." or "Basic ..."; may be empty
  std::string named_by = "";       ///< the environment variable that names the server, for messages
  long timeout = 10;               ///< seconds in which a byte must come
  bool verifies = true;            ///< certificates
};

/// A connection to servers, for one thread at a time.
class Client {
 public:
  /// Called with the head of a response and the next bytes of its body.
  using Sink = std::function<void(const Response& head, std::string_view bytes)>;

  /// Transfers end with Stopped when `stop` is requested.
  explicit Client(Access access, std::stop_token stop = {})
      : access_(std::move(access)), stop_(std::move(stop)), curl_(nullptr, &curl_easy_cleanup) {
    static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
    curl_.reset(started == CURLE_OK ? curl_easy_init() : nullptr);
    check(curl_ != nullptr, "libcurl could not be started");
  }

  bool has_authorization() const { return !access_.authorization.empty(); }  ///< something authorizes the user
  const std::stop_token& stop() const { return stop_; }                      ///< that it was made with

  /// One attempt, through redirects. The body of a success goes to `sink` if there is one. Throws Transient for what
  /// may pass: no connection, a connection that broke off, 429, 5xx; else Error. Other statuses are the caller's.
  Response send(Request request, const Sink& sink = {}) const {
    constexpr int most_redirects = 10;
    for (int redirects = 0;; ++redirects) {
      auto [response, next] = once(request, sink);
      has_answered_ = true;
      const long status = response.status;
      if (status == 429 || status >= 500 || status == 408)
        throw Transient(concat(host(request.url), ": ", status == 429 ? "too many requests" : "the server failed",
                               " (HTTP ", status, ")"),
                        retry_after(response));
      if (next.empty()) return response;
      check(redirects < most_redirects, host(request.url), ": redirects in a circle; try again later");
      check(!request.url.starts_with("https:") || next.starts_with("https:"), host(request.url),
            ": redirects to an address without encryption, which is not followed");
      request.url = next;
    }
  }

  /// Calls attempt() until it throws no Transient: five times, waiting longer each time, or as long as the server says.
  /// Where `progressed()`, the count begins again.
  template <class Attempt>
  auto with_patience(const Attempt& attempt, const std::function<bool()>& progressed = {}) const {
    constexpr int most_tries = 5;
    constexpr double longest_wait = 300;
    for (int tries = 1;; ++tries) {
      double seconds = 0.25 * std::exp2(tries);
      try {
        return attempt();
      } catch (const Transient& error) {
        if (progressed && progressed()) tries = 1;
        if (!has_answered_ && dynamic_cast<const Unreachable*>(&error) != nullptr)
          throw Unreachable(concat(error.what(),
                                   "; is there a network? A proxy is named by https_proxy, another server by ",
                                   access_.named_by));
        const bool waits_too_long = error.seconds.value_or(0) > longest_wait;
        if (tries >= most_tries || waits_too_long)
          fail(error.what(), waits_too_long ? concat(": it asks to wait ", *error.seconds, " s") : "",
               "; try again later");
        seconds = error.seconds.value_or(seconds);
      }
      wait(seconds, stop_);
    }
  }

 private:
  /// What the callbacks of one transfer share.
  struct Transfer {
    const Client& client;
    const Sink& sink;
    Response response = {};
    std::exception_ptr failure = nullptr;
    std::optional<FileReader> file = std::nullopt;
    FilePart rest = {};
  };

  static constexpr std::size_t longest_body = std::size_t{256} << 20;

  static std::string host(const std::string& url) { return url.substr(0, url.find('?')); }

  static std::optional<double> retry_after(const Response& response) {
    const std::string given = response.header("retry-after"), limits = response.header("ratelimit");
    if (!given.empty() && given.find_first_not_of("0123456789") == std::string::npos) return std::atof(given.c_str());
    if (const std::size_t at = limits.find(";t="); at != std::string::npos && limits.find(";r=0") != std::string::npos)
      return std::atof(limits.c_str() + at + 3) + 1;
    return std::nullopt;
  }

  static std::size_t take_header(char* data, std::size_t, std::size_t size, void* to) {
    auto& response = static_cast<Transfer*>(to)->response;
    std::string_view line(data, size);
    while (line.ends_with('\n') || line.ends_with('\r')) line.remove_suffix(1);
    const std::size_t colon = line.find(':');
    if (line.starts_with("HTTP/")) {
      response.headers.clear();
    } else if (colon != line.npos) {
      std::string name(line.substr(0, colon));
      std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      line.remove_prefix(std::min(line.find_first_not_of(' ', colon + 1), line.size()));
      response.headers[name] = line;
    }
    return size;
  }

  static std::size_t take_body(char* data, std::size_t, std::size_t size, void* to) {
    auto& transfer = *static_cast<Transfer*>(to);
    try {
      curl_easy_getinfo(transfer.client.curl_.get(), CURLINFO_RESPONSE_CODE, &transfer.response.status);
      if (transfer.sink && transfer.response.status / 100 == 2) {
        transfer.sink(transfer.response, {data, size});
      } else {
        check(transfer.response.body.size() + size <= longest_body, host(transfer.response.url),
              ": the answer is longer than ", longest_body >> 20, " MB");
        transfer.response.body.append(data, size);
      }
      return size;
    } catch (...) {
      transfer.failure = std::current_exception();
      return 0;
    }
  }

  static std::size_t give_body(char* to, std::size_t, std::size_t most, void* from) {
    auto& transfer = *static_cast<Transfer*>(from);
    try {
      const std::size_t count = std::min<std::size_t>(most, transfer.rest.size);
      transfer.file->read_at(transfer.rest.offset, to, count);
      transfer.rest.offset += count;
      transfer.rest.size -= count;
      return count;
    } catch (...) {
      transfer.failure = std::current_exception();
      return CURL_READFUNC_ABORT;
    }
  }

  static int watch(void* to, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& transfer = *static_cast<Transfer*>(to);
    try {
      check_interrupt();
      if (transfer.client.stop_.stop_requested()) throw Stopped{};
      return 0;
    } catch (...) {
      transfer.failure = std::current_exception();
      return 1;
    }
  }

  /// One request without redirects: the response, and where it redirects to.
  std::pair<Response, std::string> once(const Request& request, const Sink& sink) const {
    CURL* const curl = curl_.get();
    curl_easy_reset(curl);
    Transfer transfer{*this, sink};
    transfer.response.url = request.url;
    const auto set = [&](CURLoption option, auto value) {
      check(curl_easy_setopt(curl, option, value) == CURLE_OK, "libcurl does not know an option");
    };
    curl_slist* list = nullptr;
    const auto add = [&](const std::string& header) { list = curl_slist_append(list, header.c_str()); };
    for (const std::string& header : request.headers) add(header);
    if (request.authorized && has_authorization() && origin_of(request.url) == origin_of(access_.origin))
      add("Authorization: " + access_.authorization);
    const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, &curl_slist_free_all);
    char problem[CURL_ERROR_SIZE] = "";
    set(CURLOPT_URL, request.url.c_str());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_HTTPHEADER, headers.get());
    set(CURLOPT_USERAGENT, concat("kto/", library_version).c_str());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, access_.timeout);
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, std::max(request.timeout, access_.timeout));
    set(CURLOPT_ERRORBUFFER, problem);
    set(CURLOPT_HEADERFUNCTION, &take_header);
    set(CURLOPT_HEADERDATA, &transfer);
    set(CURLOPT_WRITEFUNCTION, &take_body);
    set(CURLOPT_WRITEDATA, &transfer);
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &watch);
    set(CURLOPT_XFERINFODATA, &transfer);
    if (!access_.verifies) {
      set(CURLOPT_SSL_VERIFYPEER, 0L);
      set(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (const auto bundle = environment("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))
      set(CURLOPT_CAINFO, bundle->c_str());
    if (request.upload) {
      transfer.file.emplace(request.upload->path);
      transfer.rest = *request.upload;
      set(CURLOPT_UPLOAD, 1L);
      set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.upload->size));
      set(CURLOPT_READFUNCTION, &give_body);
      set(CURLOPT_READDATA, &transfer);
    } else if (request.method != "GET") {
      set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
      set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
      set(CURLOPT_POSTFIELDS, request.body.c_str());
    }
    const CURLcode result = curl_easy_perform(curl);
    if (transfer.failure) std::rethrow_exception(transfer.failure);
    if (result != CURLE_OK) {
      const std::string text =
          concat(host(request.url), ": ", problem[0] != '\0' ? problem : curl_easy_strerror(result));
      if (result == CURLE_PEER_FAILED_VERIFICATION || result == CURLE_SSL_CACERT_BADFILE)
        fail(text, "; SSL_CERT_FILE names a file with other certificates to trust");
      if (result == CURLE_URL_MALFORMAT || result == CURLE_UNSUPPORTED_PROTOCOL)
        fail(text, "; expected an address such as https://host (", access_.named_by, " names it)");
      if (result == CURLE_COULDNT_RESOLVE_HOST || result == CURLE_COULDNT_CONNECT) throw Unreachable(text);
      throw Transient(text);
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &transfer.response.status);
    char* next = nullptr;
    if (transfer.response.status / 100 == 3) curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &next);
    return {std::move(transfer.response), next != nullptr ? next : ""};
  }

  Access access_;
  std::stop_token stop_;
  mutable bool has_answered_ = false;
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl_;
};

/// `text` as a part of an address: all but letters, digits, - _ . ~ and, where it is a path, / become %XX.
inline std::string url_part(std::string_view text, bool is_path = false) {
  std::string out;
  constexpr const char* digits = "0123456789ABCDEF";
  for (const char c : text) {
    const bool is_plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                          std::string_view("-_.~").find(c) != std::string_view::npos || (is_path && c == '/');
    const auto byte = static_cast<unsigned char>(c);
    if (is_plain)
      out += c;
    else
      out += {'%', digits[byte >> 4], digits[byte & 15]};
  }
  return out;
}

}  // namespace kto::http
#endif
