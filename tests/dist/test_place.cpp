// SPDX-License-Identifier: Apache-2.0
// What launchers say in the environment.

#include <cstdlib>
#include <map>
#include <string>

#include "catch.hpp"
#include "kto/dist/place.hpp"

namespace test_place {
namespace {

using kto::RankPlace;
using kto::UsageError;

/// The place in an environment that has these variables and none else of a launcher.
RankPlace place_in(const std::map<std::string, std::string>& variables) {
  for (const char* name : {"RANK",
                           "WORLD_SIZE",
                           "LOCAL_RANK",
                           "LOCAL_WORLD_SIZE",
                           "MASTER_ADDR",
                           "MASTER_PORT",
                           "TORCHELASTIC_USE_AGENT_STORE",
                           "TORCHELASTIC_RESTART_COUNT",
                           "SLURM_PROCID",
                           "SLURM_NTASKS",
                           "SLURM_LOCALID",
                           "SLURM_STEP_NUM_TASKS",
                           "SLURM_NODELIST",
                           "SLURM_STEP_NODELIST",
                           "SLURM_JOB_NODELIST",
                           "SLURM_JOB_ID",
                           "SLURM_STEP_ID",
                           "SLURM_LAUNCH_NODE_IPADDR",
                           "SLURM_NTASKS_PER_NODE",
                           "OMPI_COMM_WORLD_RANK",
                           "OMPI_COMM_WORLD_SIZE",
                           "OMPI_COMM_WORLD_LOCAL_RANK",
                           "OMPI_COMM_WORLD_LOCAL_SIZE",
                           "PMIX_NAMESPACE",
                           "PMI_RANK",
                           "PMI_SIZE",
                           "PMI_JOBID",
                           "MPI_LOCALRANKID",
                           "MPI_LOCALNRANKS"})
    ::unsetenv(name);
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  struct Restored {
    const std::map<std::string, std::string>& names;
    ~Restored() {
      for (const auto& [name, value] : names) ::unsetenv(name.c_str());
    }
  } restored{variables};
  return kto::read_place();
}

}  // namespace

TEST_CASE("a job of one process is alone, whoever started it", "[dist]") {
  CHECK(place_in({}).size == 1);
  CHECK(place_in({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).size == 1);
  CHECK(place_in({{"WORLD_SIZE", "1"}}).size == 1);
  CHECK(place_in({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}}).size == 1);
  CHECK(place_in({{"SLURM_NTASKS", "4"}}).size == 1);                                                // an allocation
  CHECK(place_in({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_ID", "7"}}).size == 1);  // a batch script
  CHECK(place_in({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}}).size == 1);
}

TEST_CASE("torchrun's variables", "[dist]") {
  const std::map<std::string, std::string> variables{
      {"RANK", "3"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "29400"}};
  const RankPlace by_hand = place_in(variables);
  CHECK(by_hand.rank == 3);
  CHECK(by_hand.size == 8);
  CHECK(by_hand.local_rank == 1);
  CHECK(by_hand.address == "node7");
  CHECK(by_hand.port == 29400);
  CHECK_FALSE(by_hand.store_is_held);
  auto elastic = variables;
  elastic["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  elastic["TORCHELASTIC_RESTART_COUNT"] = "2";
  CHECK(place_in(elastic).store_is_held);
  CHECK(place_in(elastic).restarts == 2);
  auto others = variables;
  others.insert({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}});  // of the srun that started torchrun
  CHECK(place_in(others).rank == 3);
}

TEST_CASE("srun's and mpirun's variables", "[dist]") {
  const RankPlace slurm = place_in({{"SLURM_PROCID", "5"},
                                    {"SLURM_NTASKS", "16"},
                                    {"SLURM_STEP_NUM_TASKS", "8"},
                                    {"SLURM_LOCALID", "1"},
                                    {"SLURM_JOB_ID", "77"},
                                    {"SLURM_STEP_ID", "0"},
                                    {"SLURM_NODELIST", "gpu[003-004,9],cpu1"}});
  CHECK(slurm.rank == 5);
  CHECK(slurm.size == 8);
  CHECK(slurm.local_rank == 1);
  CHECK(slurm.address == "gpu003");
  CHECK(slurm.port >= 20000);
  CHECK(slurm.port < 32000);
  const RankPlace named = place_in({{"SLURM_PROCID", "1"},
                                    {"SLURM_NTASKS", "2"},
                                    {"SLURM_LOCALID", "1"},
                                    {"SLURM_LAUNCH_NODE_IPADDR", "10.0.0.7"},
                                    {"MASTER_PORT", "1234"}});
  CHECK(named.address == "10.0.0.7");
  CHECK(named.port == 1234);
  const RankPlace mpi = place_in({{"OMPI_COMM_WORLD_RANK", "1"},
                                  {"OMPI_COMM_WORLD_SIZE", "2"},
                                  {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                  {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  CHECK(mpi.rank == 1);
  CHECK(mpi.address == "127.0.0.1");  // all are on this machine
  CHECK(place_in({{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}, {"MASTER_ADDR", "a"}}).size == 4);
}

TEST_CASE("the first host of Slurm's lists", "[dist]") {
  for (const auto& [list, host] : std::map<std::string, std::string>{
           {"a1", "a1"}, {"a1,b2", "a1"}, {"n[07-09]", "n07"}, {"n[7,9]", "n7"}, {"n[3]-ib,m1", "n3-ib"}})
    CHECK(kto::detail::first_host(list) == host);
}

TEST_CASE("variables that are missing or contradict are named", "[dist]") {
  CHECK_THROWS_WITH(place_in({{"RANK", "0"}}), KTO_CONTAINS("has RANK and not WORLD_SIZE"));
  CHECK_THROWS_WITH(place_in({{"WORLD_SIZE", "2"}}), KTO_CONTAINS("has WORLD_SIZE and not RANK"));
  CHECK_THROWS_WITH(place_in({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), KTO_CONTAINS("RANK=2 is no rank of WORLD_SIZE=2"));
  CHECK_THROWS_WITH(place_in({{"RANK", "0"}, {"WORLD_SIZE", "2"}}),
                    KTO_CONTAINS("MASTER_ADDR and MASTER_PORT are missing"));
  CHECK_THROWS_WITH(place_in({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}),
                    KTO_CONTAINS("MASTER_PORT is missing"));
  CHECK_THROWS_WITH(place_in({{"RANK", "x"}, {"WORLD_SIZE", "2"}}),
                    KTO_CONTAINS("RANK is \"x\"; expected a whole number"));
  CHECK_THROWS_WITH(place_in({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "70000"}}),
                    KTO_CONTAINS("MASTER_PORT is 70000"));
  CHECK_THROWS_WITH(place_in({{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}),
                    KTO_CONTAINS("set MASTER_ADDR"));
  CHECK_THROWS_WITH(place_in({{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}}), KTO_CONTAINS("set MASTER_ADDR"));
  CHECK_THROWS_AS(place_in({{"OMPI_COMM_WORLD_SIZE", "2"}}), UsageError);
}

}  // namespace test_place
