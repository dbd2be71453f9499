// SPDX-License-Identifier: Apache-2.0
// How the processes of a training program start together and end together.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>

#include "kto/cli/arguments.hpp"
#include "kto/cli/policy.hpp"
#include "kto/core/device.hpp"
#include "kto/core/terminal.hpp"
#include "kto/core/version.hpp"
#include "kto/dist/join.hpp"
#include "kto/dist/launch.hpp"

namespace kto::cli {

/// A program's name in the messages of a rank: all but rank 0 say which they are, or the process that started them does.
inline std::string name_of_rank(const std::string& name, const RankPlace& place) {
  return place.rank == 0 || is_launched() ? name : concat("[rank ", place.rank, "] ", name);
}

/// launch() with --nproc.
inline std::optional<int> launch_ranks(const Arguments& args, char* const* argv, const std::string& name) {
  return launch(static_cast<int>(args.script.nproc), argv,
                [&](const std::string& text) { report_error(name, Error(text)); });
}

/// Throws UsageError when the device of several processes and --ddp_backend do not go together.
inline JoinOptions join_options(const ScriptConfig& script, const RankPlace& place) {
  if (place.size == 1) return {};
  const bool carries = kto::detail::nccl_carries(choose_device(script.device));
  const bool nccl = script.ddp_backend ? *script.ddp_backend == DdpBackend::nccl : carries && has_nccl;
  if (nccl && !carries) throw UsageError("ddp_backend nccl carries tensors between CUDA devices: use gloo on the CPU");
  return {.timeout = std::chrono::seconds(script.ddp_timeout), .nccl = nccl};
}

/// Throws UsageError on ranks whose program or options are not those of rank 0.
inline void check_same_start(const World& world, const Json& options) {
  if (world.alone()) return;
  const Json first = Json::parse(world.broadcast(Json{{"version", library_version}, {"options", options}}.dump()));
  together(world, [&] {
    const auto text = [](const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); };
    const auto differ = [&](const auto& name, const Json& own, const Json& theirs, const char* advice) {
      if (own != theirs)
        throw UsageError(concat("rank ", world.rank, ": ", name, " is ", text(own), ", and rank 0 has ", text(theirs),
                                "; ", advice));
    };
    differ("the version", Json(library_version), first["version"], "start one program on all ranks");
    for (const auto& [name, value] : options.items())
      if (name != "device" && name != "dataset_num_proc" && name != "disable_tqdm")
        differ(concat("--", name), value, first["options"][name], "give all ranks the same options");
  });
}

/// The World of this rank. It has its share of the machine: threads, and of several devices of a kind one.
inline World start_rank(Job& job, const Arguments& args, const LossTable& losses) {
  const World world = job.join();
  if (!world.alone()) {
    share_threads(world);
    check_same_start(world, to_json(argument_options(losses), args));
  }
  at::Device device = choose_device(args.script.device);
  if (device.is_cpu()) return world;
  if (!device.has_index())
    device.set_index(static_cast<at::DeviceIndex>(world.local_rank % num_devices(device.type())));
  use_device(device);  // scratch memory and pinned copies are then of no other
  return world;
}

/// Ends this rank with `status` because of an error, which `text` describes to the others; empty, if it is another
/// rank's. Of several ranks none waits for another here, as destructors would. Alone, returns `status`.
inline int end_rank(const World& world, const std::string& text, int status) {
  if (world.alone()) return status;
  if (!text.empty()) world.fail(text);
  std::cout.flush();
  std::fflush(nullptr);
  std::_Exit(status);
}

}  // namespace kto::cli
