// SPDX-License-Identifier: Apache-2.0
// A user's program on kto::light and kto::hub: exits with 0 where libcurl and OpenSSL are linked. The functions in it are the
// reference's examples; with an argument, the program calls them.
#include <iostream>
#include <kto/hub/digest.hpp>
#include <kto/hub/http.hpp>
#include <kto/hub/locate.hpp>
#include <kto/hub/push.hpp>
#include <kto/hub/push_run.hpp>
#include <vector>

namespace {

void locate() {
  // [locate]
  const kto::fs::path folder = kto::hub::locate({.id = "owner/model"}, kto::hub::model_files());
  const kto::DataSource rows = kto::hub::on_disk({.path = "owner/rows", .split = "train"});
  // [locate]
  std::cout << folder << rows.path;
}

void push() {
  // [push]
  kto::hub::push_to_hub("out",
                        {.id = "owner/name", .message = "End of training", .ignores = kto::hub::is_beside_model});
  // [push]
}

template <class Trainer, class Rows>
void train(Trainer& trainer, const Rows& rows) {
  // [run]
  const auto pusher =
      std::make_shared<kto::hub::RunPusher>(kto::hub::RunPush{.push = {.id = "owner/name"}, .folder = "out"});
  trainer.callbacks.push_back(kto::hub::push_saves(pusher));
  trainer.train(rows);
  pusher->end();
  // [run]
}

/// What train() needs of a trainer.
struct NoTrainer {
  std::vector<kto::Callback> callbacks = {};
  void train(int) const {}
};

}  // namespace

int main(int argc, char**) {
  if (argc > 1) {
    locate();
    push();
    NoTrainer trainer;
    train(trainer, 0);
  }
  const kto::hub::Settings settings = kto::hub::settings_of_environment();
  const kto::hub::Http http(settings, "");
  kto::hub::Digest empty = kto::hub::Digest::git_blob(0);
  return !http.has_token() && empty.hex() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391" ? 0 : 1;
}
