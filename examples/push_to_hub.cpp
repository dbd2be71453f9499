// SPDX-License-Identifier: Apache-2.0
// Uploads a trained model's folder to the model hub:
//   push_to_hub out owner/name
// Checkpoints in the folder are left out. The token is that of HF_TOKEN, or of `hf auth login`.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "kto/core/terminal.hpp"
#include "kto/hub/push.hpp"

int main(int argc, char** argv) {
  CLI::App app("Uploads a model's folder to the model hub as one commit.");
  std::string folder;
  kto::hub::Push push{.ignores = kto::hub::is_beside_model};
  app.add_option("folder", folder, "of the model, as train_kto leaves it in output_dir")->required();
  app.add_option("name", push.id, "owner/name on the hub, or a name alone; it is created if it is missing")->required();
  app.add_option("--hub_revision", push.revision, "the branch")->capture_default_str();
  app.add_flag_callback(
      "--hub_private_repo", [&] { push.is_private = true; }, "a repository that is created is private");
  app.add_option("--commit_message", push.message, "what the commit says")->capture_default_str();
  try {
    app.parse(argc, argv);
    const kto::Note note = [](const std::string& text) { std::cout << kto::printable(text) << '\n'; };
    kto::hub::push_to_hub(folder, push, note);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    return kto::report_error("push_to_hub", error);
  }
}
