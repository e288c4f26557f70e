#include "cli/bench_peer.hpp"

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/core/error.hpp>
#include <ds4/core/json.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/runtime/any_model.hpp>

#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/memory_use.hpp"
#include "cli/stopwatch.hpp"
#include "cli/token_lists.hpp"

namespace ds4::cli {
namespace {

/// Writes float32 [rows, cols] in NumPy's format, version 1.0.
void write_npy(const std::string& path, std::span<const float> values, std::size_t cols) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(values.size() / cols) + ", " + std::to_string(cols) + "), }";
  constexpr std::size_t kPreamble = 10;
  header.append(64 - (kPreamble + header.size() + 1) % 64, ' ');
  header += '\n';
  const std::string start = std::string("\x93NUMPY\x01\0", 8) +
                            static_cast<char>(header.size() & 0xff) +
                            static_cast<char>(header.size() >> 8) + header;
  NewFile file(path);
  file.write_at(0, std::as_bytes(std::span(start)));
  file.write_at(start.size(), std::as_bytes(values));
  file.finish();
}

/// A request of the peer protocol: its members, checked.
class Request {
 public:
  explicit Request(const std::string& line) : json_(detail::parse_json(kWhere, line)) {
    if (!json_.is_object()) refuse("a request", "an object", json_);
  }

  std::string text(const char* name) const {
    const auto& value = member(name);
    if (!value.is_string()) refuse(name, "a string", value);
    return value.get<std::string>();
  }
  std::size_t count(const char* name) const {
    const auto value = detail::as_size(member(name));
    if (!value) refuse(name, "a whole number of at least 0", member(name));
    return *value;
  }
  std::vector<std::int32_t> tokens() const {
    return parse_token_lists(std::string(kWhere) + ": tokens", "[" + member("tokens").dump() + "]")
        .front();
  }
  std::vector<std::vector<std::int32_t>> chunks() const {
    return parse_token_lists(std::string(kWhere) + ": chunks", member("chunks").dump());
  }

 private:
  static constexpr const char* kWhere = "standard input";

  [[noreturn]] static void refuse(const std::string& name, const char* expected,
                                  const nlohmann::json& found) {
    throw Error(kWhere, name + ": expected " + expected + ", found " + detail::describe(found));
  }
  const nlohmann::json& member(const char* name) const {
    const auto found = json_.find(name);
    if (found == json_.end()) throw Error(kWhere, std::string("a request without ") + name);
    return *found;
  }

  nlohmann::json json_;
};

}  // namespace

void serve_peer(const ModelChoice& choice) {
  const Stopwatch loading;
  const std::unique_ptr<AnyModel> model = load_model(choice);
  print(Json{{"ready", true}, {"load_s", loading.seconds()}}.dump() + "\n");
  std::string line;
  while (std::getline(std::cin, line)) {
    const Request request(line);
    const std::string op = request.text("op");
    Json answer = Json::object();
    if (op == "quit") return;
    if (op == "prefill" || op == "decode") {
      const std::vector<std::int32_t> tokens = request.tokens();
      AnyState state = model->new_state();
      Stopwatch time;
      Logits logits = model->prefill(state, tokens);
      if (op == "prefill") {
        answer = {{"s", time.seconds()}, {"argmax", argmax(logits.values)}};
      } else {
        std::vector<std::int32_t> ids;
        std::int32_t id = argmax(logits.values);
        time = Stopwatch();
        for (std::size_t i = request.count("n"); i > 0; --i) {
          id = argmax(model->decode(state, id).values);
          ids.push_back(id);
        }
        answer = {{"s", time.seconds()}, {"ids", ids}};
      }
    } else if (op == "logits") {
      AnyState state = model->new_state();
      std::vector<float> rows;
      for (const auto& chunk : request.chunks()) {
        const AnyModel::Sequence sequence{&state, chunk};
        const Logits logits = model->forward({&sequence, 1});
        rows.insert(rows.end(), logits.values.begin(), logits.values.end());
      }
      write_npy(request.text("path"), rows, model->config().vocab_size);
    } else if (op == "rss") {
      answer = {{"peak_rss_mb", static_cast<double>(peak_rss_bytes()) / (1024.0 * 1024.0)}};
    } else {
      throw Error("standard input", "op: expected prefill, decode, logits, rss or quit, found " +
                                        detail::in_quotes(op));
    }
    print(answer.dump() + "\n");
  }
}

}  // namespace ds4::cli
