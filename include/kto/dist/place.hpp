// SPDX-License-Identifier: Apache-2.0
// Which of a job's processes this one is, as the program that started it says in the environment: torchrun (or any
// other that sets PyTorch's variables), srun, or mpirun. Free of LibTorch.
#pragma once

#include <charconv>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "kto/core/environment.hpp"
#include "kto/core/error.hpp"

namespace kto {

/// This process among those of its job.
struct RankPlace {
  int rank = 0;                                  ///< from 0 on
  int size = 1;                                  ///< processes
  std::optional<int> local_rank = std::nullopt;  ///< among those on this machine
  std::string address = "";                      ///< where rank 0 is, or the launcher that holds the store
  int port = 0;                                  ///< there
  bool store_is_held = false;                    ///< by the launcher, as torchrun does; else rank 0 holds it
  int restarts = 0;                              ///< how often the launcher has started the job over
};

namespace detail {

inline std::optional<int> number_variable(const char* name) {
  const auto text = environment(name);
  if (!text) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size() || value < 0)
    throw UsageError(concat("the environment variable ", name, " is \"", *text, "\"; expected a whole number"));
  return value;
}

/// The first of the hosts in Slurm's notation: "gpu[003-008,012],cpu1" gives gpu003.
inline std::string first_host(std::string_view list) {
  const std::size_t end = list.find_first_of(",[");
  std::string host(list.substr(0, end));
  if (end == std::string_view::npos || list[end] == ',') return host;
  const std::string_view numbers = list.substr(end + 1);
  const std::size_t close = numbers.find(']');
  host += numbers.substr(0, numbers.find_first_of(",-]"));
  if (close != std::string_view::npos) {
    const std::string_view rest = numbers.substr(close + 1);
    host += rest.substr(0, rest.find(','));
  }
  return host;
}

/// A port that the ranks of one job agree on, and other jobs on the machine most likely do not have.
inline int port_of_job(std::string_view job) {
  std::uint32_t hash = 2166136261u;  // FNV-1a; std::hash may differ between machines
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return 20000 + static_cast<int>(hash % 12000u);  // below the ports that systems give to clients
}

/// One launcher's names of the variables.
struct Launcher {
  std::string_view name;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
  const char* job;
};

inline constexpr Launcher launchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", nullptr},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE"},
    {"srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_ID"},
    {"mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "PMI_JOBID"},
};

/// Where rank 0 is, for launchers that do not say so in PyTorch's variables.
inline std::string host_of_rank_0(const Launcher& launcher, int size) {
  if (launcher.name == "srun") {
    for (const char* list : {"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"})
      if (const auto hosts = environment(list)) return first_host(*hosts);
    if (const auto address = environment("SLURM_LAUNCH_NODE_IPADDR")) return *address;
  }
  if (number_variable(launcher.local_size) == size) return "127.0.0.1";
  throw UsageError(concat(launcher.name, " started ", size, " processes (", launcher.size,
                          "), and nothing says where rank 0 is: set MASTER_ADDR to its host"));
}

}  // namespace detail

/// Whether the environment names several processes; then they are joined to a World (dist/join.hpp). Throws UsageError
/// when it names them in part or in contradiction.
inline RankPlace read_place() {
  using namespace detail;
  for (const Launcher& launcher : launchers) {
    const bool is_slurm = launcher.name == "srun";
    // A batch script is no step of its job, and has variables of all of it.
    if (is_slurm && environment("SLURM_JOB_ID") && !environment("SLURM_STEP_ID")) continue;
    const auto rank = number_variable(launcher.rank);
    auto size = number_variable(launcher.size);
    if (is_slurm)
      if (const auto of_step = number_variable("SLURM_STEP_NUM_TASKS")) size = of_step;
    if ((!rank && !size) || (!rank && size == 1)) continue;
    if (is_slurm && !rank) continue;  // variables of an allocation
    if (!rank || !size)
      throw UsageError(concat("the environment has ", rank ? launcher.rank : launcher.size, " and not ",
                              rank ? launcher.size : launcher.rank, ": start the processes with torchrun, srun or ",
                              "mpirun, or with --nproc, or unset it"));
    if (*size == 0 || *rank >= *size)
      throw UsageError(concat(launcher.rank, "=", *rank, " is no rank of ", launcher.size, "=", *size, " processes"));
    if (*size == 1) return {};
    RankPlace out{.rank = *rank, .size = *size, .local_rank = number_variable(launcher.local_rank)};
    const auto address = environment("MASTER_ADDR");
    const auto port = number_variable("MASTER_PORT");
    const bool is_torchrun = launcher.job == nullptr;
    if (is_torchrun && (!address || !port))
      throw UsageError(concat("the environment has RANK and WORLD_SIZE, and ", address ? "" : "MASTER_ADDR",
                              address || port ? "" : " and ", port ? "" : "MASTER_PORT",
                              address || port ? " is" : " are", " missing: they say where rank 0 is"));
    out.address = address ? *address : host_of_rank_0(launcher, *size);
    if (port == 0 || port > 65535) throw UsageError(concat("MASTER_PORT is ", *port, "; expected 1 to 65535"));
    out.port = port ? *port : port_of_job(is_torchrun ? "" : environment(launcher.job).value_or(""));
    if (is_torchrun) {
      out.store_is_held = environment("TORCHELASTIC_USE_AGENT_STORE") == "True";
      out.restarts = number_variable("TORCHELASTIC_RESTART_COUNT").value_or(0);
    }
    return out;
  }
  return {};
}

}  // namespace kto
