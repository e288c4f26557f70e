// ds4 serve: a model behind OpenAI's protocol.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/inspect/live_look.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/serve/api_service.hpp>
#include <ds4/serve/scheduler.hpp>
#include <ds4/serve/served_model.hpp>
#include <ds4/text/effort_profile.hpp>
#include <ds4/text/tokenizer.hpp>

#include "cli/drafting.hpp"
#include "cli/http_server.hpp"
#include "cli/io.hpp"
#include "cli/memory_use.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/page.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct ServeOptions {
  ModelChoice model;
  std::string host = "127.0.0.1";
  std::size_t port = 8080;
  std::string key_file;
  std::string name;
  std::size_t context = 0;
  std::size_t parallel = 8;
  std::size_t waiting = 256;
  double cache_memory = 1.0;
  std::string cache_disk;
  double cache_disk_size = 8.0;
  double state_memory = 0.0;
  std::string draft = "off";
  std::size_t grace = 10;
};

bool is_loopback(std::string_view host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

std::size_t gigabytes(double count) { return static_cast<std::size_t>(count * 1e9); }

std::string key_of(const ServeOptions& options) {
  if (options.key_file.empty()) {
    if (is_loopback(options.host)) return "";
    throw Error("--host",
                "expected --api-key-file as well, as others than this machine's programs "
                "can reach " +
                    ds4::detail::printable(options.host));
  }
  std::string key = read_file(options.key_file);
  while (!key.empty() && (key.back() == '\n' || key.back() == '\r')) key.pop_back();
  constexpr std::size_t kLongest = 4096;
  if (key.empty() || key.size() > kLongest || key.find('\n') != key.npos) {
    throw Error(ErrorKind::file, ds4::detail::printable(options.key_file),
                "expected a key on one line");
  }
  return key;
}

/// States are found again by a run that computes the same.
std::filesystem::path cache_folder(const ServeOptions& options, const AnyModel& model,
                                   bool keeps_drafts) {
  if (options.cache_disk.empty()) return {};
  std::ostringstream name;
  name << std::hex << model.checkpoint().fingerprint() << '-' << options.model.backend
       << (options.model.exact ? "-exact" : "") << (keeps_drafts ? "-drafts" : "");
  return std::filesystem::path(options.cache_disk) / name.str();
}

SchedulerOptions scheduler_options(const ServeOptions& options, const AnyModel& model) {
  SchedulerOptions made{.parallel = options.parallel,
                        .waiting = options.waiting,
                        .context = options.context,
                        .state_bytes = gigabytes(options.state_memory),
                        .draft = draft_length_for(model, options.draft)};
  const bool drafts = made.draft.has_value();
  const std::size_t rollback = made.piece + 2 * DraftLength::kMost;
  made.planned_state = [&model, &options, drafts, rollback](std::size_t tokens) {
    return planned_state(model, options.model, tokens, drafts, rollback);
  };
  made.cache = {.memory_bytes = gigabytes(options.cache_memory),
                .folder = cache_folder(options, model, drafts),
                .disk_bytes = gigabytes(options.cache_disk_size)};
  return made;
}

void serve(const ServeOptions& options) {
  const std::string key = key_of(options);
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  const std::filesystem::path dir = model_dir(options.model);
  const Tokenizer tokenizer = Tokenizer::load(dir);
  SchedulerOptions scheduling = scheduler_options(options, *model);
  const std::filesystem::path folder = scheduling.cache.folder;
  Scheduler scheduler(model->served(), std::move(scheduling));
  const std::size_t most = model->config().max_position_embeddings;
  std::string name = options.name;
  if (name.empty()) name = std::filesystem::weakly_canonical(dir).filename().string();
  ApiService service(
      scheduler, model->config(), tokenizer,
      {.model = name,
       .context = options.context == 0 ? most : std::min(most, options.context),
       .profile = effort_profile_of(dir),
       .turns = folder.empty() ? folder : folder / "turns.jsonl",
       .look = [&] { return std::make_shared<LiveLook>(model->config(), model->checkpoint()); }});
  HttpServer server(service, options.host, static_cast<int>(options.port), key, kPage);
  catch_interrupts();
  std::exception_ptr failure;
  std::atomic<bool> over{false};
  std::thread runner([&] {
    try {
      scheduler.run();
    } catch (...) {
      failure = std::current_exception();
    }
    over = true;
  });
  std::thread listener([&] { server.run(); });
  const bool has_colon = options.host.find(':') != std::string::npos;
  print_error("ds4 serve: " + name + " at http://" +
              (has_colon ? "[" + options.host + "]" : options.host) + ":" +
              std::to_string(server.port()) + "/\n");
  constexpr std::chrono::milliseconds kTurn{50};
  while (!interrupted() && !over) std::this_thread::sleep_for(kTurn);
  // No connection comes any more; answers that are being given have until the end of the grace.
  const std::chrono::seconds grace(options.grace);
  scheduler.close(grace);
  server.stop();
  runner.join();
  listener.join();
  scheduler.save(grace);
  if (failure) std::rethrow_exception(failure);
}

void add_options(Verb& verb) {
  auto options = std::make_shared<ServeOptions>();
  add_model_options(verb, options->model, false);
  const auto size = [] {
    return expect<double>("a number from 0 to 1e6",
                          [](double gb) { return gb >= 0.0 && gb <= 1e6; });
  };
  verb.add_option("--host", options->host,
                  "Address to bind to; one that others can reach needs --api-key-file")
      .capture_default_str();
  verb.add_option("--port", options->port, "0: any that is free")
      .capture_default_str()
      .check(expect_count(0, 65535));
  verb.add_option("--api-key-file", options->key_file, "File with the key that requests must bring")
      .check(expect_path());
  verb.add_option("--name", options->name,
                  "What clients see the model as; unless told, the name of its folder");
  verb.add_option("--context", options->context,
                  "Tokens of a chat at most; 0: as many as the model takes")
      .capture_default_str()
      .check(expect_count(0));
  verb.add_option("--parallel", options->parallel, "Answers that are generated at the same time")
      .capture_default_str()
      .check(expect_count(1, 1024));
  verb.add_option("--waiting", options->waiting, "Requests that wait; more are refused")
      .capture_default_str()
      .check(expect_count(0, 100'000));
  verb.add_option("--cache-memory", options->cache_memory,
                  "GB of states to keep for prompts that begin alike")
      .capture_default_str()
      .check(size());
  verb.add_option("--cache-disk", options->cache_disk,
                  "Folder for states that the memory has no room for, and for the next run")
      .check(expect_path());
  verb.add_option("--cache-disk-size", options->cache_disk_size, "GB of files in it")
      .capture_default_str()
      .check(size());
  verb.add_option("--state-memory", options->state_memory,
                  "GB for the states of answers being generated; 0: no limit")
      .capture_default_str()
      .check(size());
  add_draft_option(verb, options->draft);
  verb.add_option(
          "--grace", options->grace,
          "Seconds that answers have to end when the program is told to, and as many to save "
          "states")
      .capture_default_str()
      .check(expect_count(0, 3600));
  verb.callback([options] { serve(*options); });
}

const VerbRegistration kServe(22, "serve", "Answer requests in OpenAI's protocol", add_options);

}  // namespace

}  // namespace ds4::cli
