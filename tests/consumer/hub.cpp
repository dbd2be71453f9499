// SPDX-License-Identifier: Apache-2.0
// A user's program on kto::light and kto::hub: exits with 0 where libcurl and OpenSSL are linked.
#include <kto/hub/digest.hpp>
#include <kto/hub/http.hpp>

int main() {
  const kto::hub::Settings settings = kto::hub::settings_of_environment();
  const kto::hub::Http http(settings, "");
  kto::hub::Digest empty = kto::hub::Digest::git_blob(0);
  return !http.has_token() && empty.hex() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391" ? 0 : 1;
}
