// SPDX-License-Identifier: Apache-2.0
// What the hub's refusals mean for the user. In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <string>

#include "kto/hub/http.hpp"
#include "kto/hub/repository.hpp"

namespace kto::hub {

/// The hub has the repository and not the revision.
struct MissingRevision : Error {
  using Error::Error;
};

/// Throws the Error for an answer of the hub that is no success: what is missing, and what to do.
inline void check_answer(const Http& http, const Repository& repository, const Response& response) {
  if (response.status / 100 == 2) return;
  const Settings& settings = http.settings();
  const std::string code = response.header("x-error-code"), name = describe(repository);
  const std::string page = settings.endpoint + "/" + page_of(repository);
  const std::string log_in =
      http.has_token() ? "the token that is used has no access" : "log in: hf auth login, or put a token into HF_TOKEN";
  if (code == "GatedRepo")
    fail(name, ": is gated: accept its terms at ", page, " with your account, then ",
         http.has_token() ? "run this again with a token of that account" : log_in);
  if (code == "RevisionNotFound")
    throw MissingRevision(concat(name, ": has no such revision; expected a branch, tag or commit of ", page));
  if (response.status == 401 && http.has_token() && code != "RepoNotFound")
    fail(name, ": the hub refuses the token in HF_TOKEN or ", settings.token_file.string(),
         "; make a new one, or remove it");
  if (response.status == 401 || response.status == 404)
    fail(name, ": is not a folder here, and ", settings.endpoint, " has no such ",
         repository.kind == Kind::model ? "model" : "data set", ", or it is private: check the name, or ", log_in);
  if (response.status == 403) fail(name, ": ", page, " is not open to you: ", log_in);
  fail(name, ": ", page, " cannot be read (HTTP ", response.status, ' ',
       shortened(response.header("x-error-message"), 200), ")");
}

}  // namespace kto::hub
#endif
