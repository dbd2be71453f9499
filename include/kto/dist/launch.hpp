// SPDX-License-Identifier: Apache-2.0
// Starts the ranks of a job on this machine: copies of this program, as torchrun starts them. First in main():
//
//   if (const auto status = kto::launch(2, argv)) return *status;  // here two copies of it ran
//   const kto::World world = kto::join_world();                    // in a copy
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/dist/c10d.hpp"
#include "kto/dist/place.hpp"

namespace kto {

namespace detail {

/// Names, in the environment of a copy, the process that started it.
inline constexpr const char* launched_by = "KTO_LAUNCHED_BY";

/// SIGINT and SIGTERM while copies run: the first is passed on to them, the second ends the program at once.
class PassedSignal {
 public:
  PassedSignal() {
    number_ = 0;
    struct sigaction action{};
    action.sa_handler = [](int number) {
      if (number_.exchange(number) != 0) ::_exit(128 + number);
    };
    ::sigemptyset(&action.sa_mask);
    ::sigaction(SIGINT, &action, &old_interrupt_);
    ::sigaction(SIGTERM, &action, &old_terminate_);
  }
  PassedSignal(const PassedSignal&) = delete;
  PassedSignal& operator=(const PassedSignal&) = delete;
  ~PassedSignal() {
    ::sigaction(SIGINT, &old_interrupt_, nullptr);
    ::sigaction(SIGTERM, &old_terminate_, nullptr);
  }
  static int number() { return number_; }

 private:
  static inline std::atomic<int> number_ = 0;
  struct sigaction old_interrupt_{}, old_terminate_{};
};

/// What a rank writes to stderr, line by line with the rank before it.
class RankLines {
 public:
  RankLines(int rank, int file) : prefix_(concat("[rank ", rank, "] ")), file_(file) {}
  int file() const { return file_; }
  /// Takes what there is; at the end of all, closes the file (file() is then -1).
  void read() {
    char buffer[4096];
    const auto size = ::read(file_, buffer, sizeof buffer);
    if (size < 0 && errno == EINTR) return;
    if (size > 0) text_.append(buffer, static_cast<std::size_t>(size));
    if (size <= 0 && !text_.empty()) text_ += '\n';
    std::string out;
    std::size_t begin = 0;
    for (std::size_t end; (end = text_.find('\n', begin)) != std::string::npos; begin = end + 1)
      out += prefix_ + text_.substr(begin, end + 1 - begin);
    text_.erase(0, begin);
    std::cerr << out << std::flush;
    if (size > 0) return;
    ::close(file_);
    file_ = -1;
  }

 private:
  std::string prefix_, text_;
  int file_;
};

/// Starts this program again with `arguments`; `out` and `error`, where not -1, become its stdout and stderr.
inline pid_t start_copy(char* const* arguments, std::vector<std::string> variables, int out, int error) {
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);
  ::posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (out >= 0) ::posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  if (error >= 0) ::posix_spawn_file_actions_adddup2(&actions, error, STDERR_FILENO);
  ::posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);  // a terminal's Ctrl-C reaches this process alone
  pid_t process = 0;
  const int problem = ::posix_spawn(&process, "/proc/self/exe", &actions, &attributes, arguments, environment.data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  check(problem == 0, "cannot start a copy of this program: ", std::strerror(problem));
  return process;
}

/// The environment of rank `rank` of `size`, whose store is at `port`: that of torchrun.
inline std::vector<std::string> rank_environment(int rank, int size, int port) {
  const std::pair<std::string, std::string> added[] = {{"RANK", concat(rank)},
                                                       {"WORLD_SIZE", concat(size)},
                                                       {"LOCAL_RANK", concat(rank)},
                                                       {"LOCAL_WORLD_SIZE", concat(size)},
                                                       {"MASTER_ADDR", "127.0.0.1"},
                                                       {"MASTER_PORT", concat(port)},
                                                       {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                                       {"TORCHELASTIC_RESTART_COUNT", "0"},
                                                       {launched_by, concat(::getpid())}};
  std::vector<std::string> out;
  for (char** variable = environ; *variable; ++variable) {
    const std::string_view text = *variable;
    const auto name = text.substr(0, text.find('='));
    if (std::ranges::none_of(added, [&](const auto& entry) { return entry.first == name; })) out.emplace_back(text);
  }
  for (const auto& [name, value] : added) out.push_back(name + "=" + value);
  return out;
}

/// The copies of this program that are its ranks.
class Copies {
 public:
  Copies(int count, char* const* arguments, int port) {
    const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    try {
      for (int rank = 0; rank < count; ++rank) {
        int error[2] = {-1, -1};
        if (rank > 0) {
          check(::pipe2(error, O_CLOEXEC) == 0, "cannot start a copy of this program: ", std::strerror(errno));
          lines_.emplace_back(rank, error[0]);
        }
        copies_.push_back({start_copy(arguments, rank_environment(rank, count, port), rank > 0 ? null : -1, error[1])});
        if (rank > 0) ::close(error[1]);
      }
    } catch (...) {
      send(SIGKILL);
      throw;
    }
    ::close(null);
  }

  /// Waits for all; `on_kill`(text) hears of those that a signal ended. Returns the exit status of the first that
  /// failed. The others have half a minute to notice, before they are ended.
  template <class OnKill>
  int wait(const OnKill& on_kill) {
    using Clock = std::chrono::steady_clock;
    int status = 0, passed = 0;
    std::optional<Clock::time_point> end;
    bool asked = false;
    while (num_running() > 0) {
      read_lines(/*milliseconds=*/50);
      if (const int number = PassedSignal::number(); number != 0 && passed == 0) send(passed = number);
      for (std::size_t rank = 0; rank < copies_.size(); ++rank) {
        const auto ended = reap(copies_[rank]);
        if (!ended || *ended == 0 || status != 0) continue;
        status = *ended;
        end = Clock::now() + std::chrono::seconds(30);
        if (copies_[rank].signal != 0 && passed == 0)
          on_kill(concat("rank ", rank, " was ended by signal ", copies_[rank].signal, " (",
                         ::strsignal(copies_[rank].signal), ")"));
      }
      if (!end || Clock::now() < *end) continue;
      send(asked ? SIGKILL : SIGTERM);
      asked = true;
      *end += std::chrono::seconds(10);
    }
    while (read_lines(0)) {
    }
    return status;
  }

 private:
  struct Copy {
    pid_t process = 0;
    bool ended = false;
    int signal = 0;  ///< that ended it
  };

  std::ptrdiff_t num_running() const { return std::ranges::count(copies_, false, &Copy::ended); }
  void send(int signal) {
    for (const Copy& copy : copies_)
      if (!copy.ended) ::kill(copy.process, signal);
  }
  /// The exit status, as shells report it, of a copy that has ended since.
  static std::optional<int> reap(Copy& copy) {
    int status = 0;
    if (copy.ended || ::waitpid(copy.process, &status, WNOHANG) != copy.process) return std::nullopt;
    copy.ended = true;
    copy.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return copy.signal != 0 ? 128 + copy.signal : WEXITSTATUS(status);
  }
  /// Waits for lines at most so long. Returns whether there may be more.
  bool read_lines(int milliseconds) {
    std::vector<pollfd> files;
    for (const RankLines& lines : lines_) files.push_back({lines.file(), POLLIN, 0});  // -1 is passed over
    if (::poll(files.data(), files.size(), milliseconds) <= 0) return false;
    for (std::size_t i = 0; i < files.size(); ++i)
      if (files[i].revents != 0) lines_[i].read();
    return true;
  }

  std::vector<Copy> copies_;
  std::vector<RankLines> lines_;
};

}  // namespace detail

/// Whether launch() of another process started this one.
inline bool is_launched() { return environment(detail::launched_by).has_value(); }

/// Runs `count` copies of this program, with its arguments `argv`, as the ranks of a job, and returns the exit status:
/// 0, or that of the first that failed. When one fails the others end. Only rank 0 writes to stdout; the others' lines
/// on stderr begin with their rank; `on_kill`(text) is to print which one a signal ended. In a copy, or when `count` is
/// 1, returns nothing at once. Throws UsageError when the program is a rank of another launcher's job.
template <class OnKill>
std::optional<int> launch(int count, [[maybe_unused]] char* const* argv, [[maybe_unused]] const OnKill& on_kill) {
  using namespace detail;
  if (const auto parent = number_variable(launched_by)) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != *parent) ::_exit(1);  // it had ended before
    return std::nullopt;
  }
  if (count <= 1) return std::nullopt;
  if (const RankPlace place = read_place(); place.size > 1)
    throw UsageError(concat("nproc ", count, " in rank ", place.rank, " of ", place.size,
                            " processes: leave it out, or start one process without torchrun, srun or mpirun"));
#ifndef KTO_HAS_C10D
  throw UsageError(concat("nproc ", count, ": ", no_c10d));
#else
  int port = 0;
  const C10dStore store = connect_store("127.0.0.1", port, /*holds=*/true, std::chrono::seconds(60));
  C10dStore job = store.below(job_prefix(/*restarts=*/0));
  const PassedSignal passed;
  Copies copies(count, argv, port);
  return copies.wait([&](const std::string& text) {
    post_failure(job, /*attempt=*/0, {.text = text});
    on_kill(text);
  });
#endif
}

/// The same, which prints to stderr.
inline std::optional<int> launch(int count, char* const* argv) {
  return launch(count, argv, [&](const std::string& text) { std::cerr << argv[0] << ": error: " << text << '\n'; });
}

}  // namespace kto
