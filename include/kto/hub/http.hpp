// SPDX-License-Identifier: Apache-2.0
// Requests to the hub. The user's token goes to the hub's own address and to no other. In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <stop_token>
#include <string>
#include <utility>

#include "kto/hub/settings.hpp"
#include "kto/io/http.hpp"

namespace kto::hub {

using http::FilePart;
using http::Request;
using http::Response;
using http::Stopped;
using http::Transient;
using http::Unreachable;
using http::url_part;

/// A connection to the hub, for one thread at a time.
class Http : public http::Client {
 public:
  /// `settings` must outlive it. An empty token is none. Transfers end with Stopped when `stop` is requested.
  Http(const Settings& settings, const std::string& token, std::stop_token stop = {})
      : Client({.origin = settings.endpoint,
                .authorization = token.empty() ? "" : "Bearer " + token,
                .named_by = "HF_ENDPOINT",
                .timeout = settings.timeout},
               std::move(stop)),
        settings_(settings) {}

  /// Those it was made with.
  const Settings& settings() const { return settings_; }
  /// Whether it sends one.
  bool has_token() const { return has_authorization(); }

 private:
  const Settings& settings_;
};

}  // namespace kto::hub
#endif
