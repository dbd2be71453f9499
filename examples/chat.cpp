// SPDX-License-Identifier: Apache-2.0
// Talks to a model: a folder or a name on the hub, alone or with an adapter.
//   chat --model_name_or_path out             on a terminal; /new begins a new conversation, /exit or end of input ends
//   echo "Who are you?" | chat --model_name_or_path out --temperature 0
// Each line of the input is a message. The output gets the replies and nothing else, as they are generated: unchanged
// in a pipe, with control characters escaped on a terminal. On a terminal, Ctrl-C ends the current reply; a second one,
// or one at the prompt, ends the program. A line that is not UTF-8 is skipped with a message at the prompt; from a pipe
// it is an error.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <limits>

#include "kto/cli/policy.hpp"
#include "kto/core/allocator.hpp"
#include "kto/core/terminal.hpp"
#include "kto/core/utf8.hpp"
#include "kto/generate/generate.hpp"
#include "kto/generate/text_stream.hpp"

namespace {

struct Options {
  std::string model, revision = "main", adapter, system, dtype = "float32", device = "auto";
  std::optional<double> temperature, top_p, repetition_penalty;
  std::optional<std::int64_t> top_k;
  std::int64_t max_new_tokens = 512;
  std::int64_t seed = 42;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model_name_or_path", options.model, "folder of the model, or of an adapter, or its name on the hub")
      ->required();
  app.add_option("--model_revision", options.revision, "which branch, tag or commit of a model on the hub");
  app.add_option("--adapter_name_or_path", options.adapter,
                 "folder of a PEFT adapter for the model, or its name on the hub");
  app.add_option("--system", options.system, "the conversation's system message");
  app.add_option("--temperature", options.temperature,
                 "0: always the most likely token; default: the model's own, or 0");
  app.add_option("--top_k", options.top_k, "sample from this many of the most likely tokens; 0: all");
  app.add_option("--top_p", options.top_p, "sample from the most likely tokens that together have this probability");
  app.add_option("--repetition_penalty", options.repetition_penalty, "above 1: fewer repetitions");
  app.add_option("--max_new_tokens", options.max_new_tokens, "longest reply");
  app.add_option("--seed", options.seed, "seed of the sampling")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{4294967295}));
  app.add_option("--dtype", options.dtype, "type of the weights")
      ->check(CLI::IsMember({"float32", "bfloat16", "auto"}));
  app.add_option("--device", options.device, "auto, cpu, cuda, cuda:1, or another device of LibTorch's");
}

/// The model, with its adapter if any, and the folder of the base.
std::pair<kto::Decoder, kto::fs::path> load(const Options& options) {
  kto::cli::Arguments args;
  args.script.model_name_or_path = options.model;
  if (!options.adapter.empty()) args.script.adapter_name_or_path = options.adapter;
  args.script.device = options.device;
  args.script.dtype = options.dtype == "float32"    ? kto::cli::ModelDtype::float32
                      : options.dtype == "bfloat16" ? kto::cli::ModelDtype::bfloat16
                                                    : kto::cli::ModelDtype::as_stored;
  const kto::cli::Policy policy = kto::cli::load_policy(args);
  return {policy.model, policy.base};
}

/// The tokenizer's folder: the adapter's if it has one, since it was trained with that one.
kto::fs::path tokenizer_folder(const Options& options) {
  if (!options.adapter.empty() && kto::fs::exists(kto::fs::path(options.adapter) / "tokenizer.json"))
    return options.adapter;
  kto::cli::Arguments args;
  args.script.model_name_or_path = options.model;
  return kto::cli::tokenizer_folder(args);
}

/// The folder's generation settings; with an adapter, those that a merged model would be saved with.
kto::GenerationConfig generation_config(const Options& options, const kto::fs::path& base,
                                        const kto::NamedTokens& tokens) {
  const kto::fs::path own = options.model;
  const bool has_adapter = !options.adapter.empty() || !kto::fs::equivalent(own, base);
  auto config = kto::read_generation_config(kto::fs::exists(own / "generation_config.json") ? own : base,
                                            has_adapter ? tokens : kto::NamedTokens());
  if (config.eos_token_ids.empty()) config.eos_token_ids = kto::eos_token_ids(base);  // an adapter has no config.json
  if (options.temperature) config.temperature = *options.temperature;
  if (options.top_k) config.top_k = *options.top_k;
  if (options.top_p) config.top_p = *options.top_p;
  if (options.repetition_penalty) config.repetition_penalty = *options.repetition_penalty;
  config.max_new_tokens = options.max_new_tokens;
  config.seed = static_cast<std::uint64_t>(options.seed);
  validate(config);
  return config;
}

/// Handles SIGINT during replies on a terminal.
class Interrupt {
 public:
  static void watch() {
    struct sigaction action{};
    action.sa_handler = receive;
    ::sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &action, nullptr);
  }

  /// While an instance lives, the first SIGINT requests the end of the reply.
  Interrupt() {
    came_ = 0;
    replying_ = 1;
  }
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt() { replying_ = 0; }
  static bool came() { return came_ != 0; }

 private:
  static void receive(int number) {
    if (replying_ == 0 || came_ != 0) {
      [[maybe_unused]] const auto put = ::write(STDERR_FILENO, "\n", 1);
      ::_exit(128 + number);
    }
    came_ = 1;
  }

  static inline volatile std::sig_atomic_t replying_ = 0, came_ = 0;
};

class Chat {
 public:
  Chat(const kto::Decoder& model, const kto::Processor& processor, kto::GenerationConfig config, std::string system)
      : model_(model), processor_(processor), config_(std::move(config)), system_(std::move(system)) {
    begin();
  }

  /// Clears the conversation and resets the random numbers to the seed.
  void begin() {
    messages_ = kto::Json::array();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
    generator_ = at::make_generator<at::CPUGeneratorImpl>(config_.seed);
  }

  /// Replies, and writes the reply to `out` as it is generated. An interrupted reply stays in the conversation. Throws
  /// Error if it cannot be written.
  void reply(const std::string& message, std::FILE* out) {
    const bool terminal = ::isatty(::fileno(out)) != 0;
    messages_.push_back({{"role", "user"}, {"content", message}});
    kto::TextStream stream(processor_.tokenizer());
    std::string text;
    const auto put = [&](const std::string& part) {
      text += part;
      const std::string shown = terminal ? kto::printable(part) : part;
      const bool written = std::fwrite(shown.data(), 1, shown.size(), out) == shown.size() && std::fflush(out) == 0;
      kto::check(written, "the output cannot be written (is the disk full?)");
    };
    const auto ids = prompt_ids(message);
    kto::check(ids.size() <= max_prompt(), "the conversation has ", ids.size(), " tokens, but the model reads at most ",
               max_prompt(), " (max_position_embeddings); /new begins a new one");
    const Interrupt interrupt;
    kto::generate(model_, cache_, ids, config_, generator_, [&](std::int32_t id) {
      put(stream.add(id));
      return !Interrupt::came();
    });
    put(stream.finish() + "\n");
    text.pop_back();
    messages_.push_back({{"role", "assistant"}, {"content", text}});
  }

 private:
  /// How many tokens the model reads: all, where its positions are no table.
  std::size_t max_prompt() const {
    if (const auto learned = kto::max_positions(model_.spec)) return static_cast<std::size_t>(*learned);
    if (model_.spec.ropes.empty()) return std::numeric_limits<std::size_t>::max();
    const kto::RopeConfig& rope = model_.spec.ropes[0];
    const double factor = rope.type == kto::RopeType::dynamic ? rope.factor : 1;
    return static_cast<std::size_t>(factor * static_cast<double>(rope.max_positions));
  }

  /// The conversation, rendered by the chat template; without a template, only the message.
  std::vector<std::int32_t> prompt_ids(const std::string& message) const {
    const auto encoder = processor_.encoder();
    if (encoder.chat_template == nullptr) return processor_.tokenizer().encode(message, true);
    const kto::RowContext row;
    const std::string text =
        encoder.chat_template->render(kto::template_variables(messages_, row, encoder.special_tokens, true));
    return processor_.tokenizer().encode(text, /*add_special_tokens=*/!model_.spec.encoder.empty());
  }

  const kto::Decoder& model_;
  const kto::Processor& processor_;
  kto::GenerationConfig config_;
  std::string system_;
  kto::Json messages_;
  kto::KvCache cache_;
  at::Generator generator_;
};

/// The options with folders in place of names on the hub.
Options on_disk(Options options) {
  const kto::Note note = [](const std::string& text) { std::cerr << "chat: " << kto::printable(text) << '\n'; };
  kto::cli::ScriptConfig script{.model_name_or_path = options.model, .model_revision = options.revision};
  if (!options.adapter.empty()) script.adapter_name_or_path = options.adapter;
  script = kto::cli::with_folders(script, note);
  options.model = script.model_name_or_path;
  options.adapter = script.adapter_name_or_path.value_or("");
  return options;
}

void run(const Options& named) {
  const Options options = on_disk(named);
  const auto [model, base] = load(options);
  const kto::Processor processor(tokenizer_folder(options));
  Chat chat(model, processor, generation_config(options, base, processor.named_tokens()), options.system);
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) Interrupt::watch();
  std::string line;
  for (std::size_t number = 1;; ++number) {
    if (terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line.ends_with('\r')) line.pop_back();
    if (const std::size_t at = kto::detail::find_invalid_utf8(line); at != std::string::npos) {
      const std::string problem = kto::concat("line ", number, " of the input is not UTF-8: byte ", at + 1);
      kto::check(terminal, problem);
      std::cerr << "chat: " << problem << "; skipped\n";
      continue;
    }
    if (line == "/exit") break;
    if (line == "/new")
      chat.begin();
    else if (!line.empty())
      chat.reply(line, stdout);
  }
  if (terminal) std::cerr << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Talks to a model: each line of the input is a message.");
  Options options;
  add_options(app, options);
  try {
    app.parse(argc, argv);
    kto::keep_freed_memory();
    run(options);
    return 0;
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    return kto::report_error("chat", error);
  }
}
