// The C interface; see ds4/c/ds4.h.
#include <algorithm>
#include <any>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <dlfcn.h>

#include <ds4/c/ds4.h>
#include <ds4/config/config_json.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/processors.hpp>
#include <ds4/core/version.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/find_model.hpp>
#include <ds4/text/tokenizer.hpp>

struct ds4_model {
  std::shared_ptr<ds4::AnyModel> model;
};
struct ds4_state {
  std::shared_ptr<ds4::AnyModel> model;
  ds4::AnyState state;
  std::optional<ds4::DraftLength> drafts;
};
struct ds4_tokenizer {
  ds4::Tokenizer tokenizer;
};
struct ds4_sampler {
  ds4::Sampler sampler;
};

namespace {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

ds4_status failed(ds4_status status, std::string_view text) noexcept {
  try {
    last_error() = text;
  } catch (...) {  // no memory for the text
    last_error().clear();
  }
  return status;
}

ds4_status status_of(ds4::ErrorKind kind) {
  switch (kind) {
    case ds4::ErrorKind::input:
      return DS4_INPUT;
    case ds4::ErrorKind::context:
      return DS4_CONTEXT;
    case ds4::ErrorKind::file:
      return DS4_FILE;
    case ds4::ErrorKind::lost:
      return DS4_LOST;
    case ds4::ErrorKind::memory:
      return DS4_MEMORY;
    case ds4::ErrorKind::stopped:
      return DS4_STOPPED;
  }
  return DS4_INTERNAL;
}

/// Calls f(); what it throws becomes a status.
template <class F>
ds4_status caught(F&& f) noexcept {
  try {
    f();
    return DS4_OK;
  } catch (const ds4::Error& error) {
    return failed(status_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return failed(DS4_MEMORY, "ds4: no memory");
  } catch (const std::exception& error) {
    return failed(DS4_INTERNAL, error.what());
  } catch (...) {
    return failed(DS4_INTERNAL, "ds4: a failure of an unknown kind");
  }
}

/// Throws unless a pointer points to something.
template <class T>
T& expect(T* pointer, std::string_view name) {
  if (pointer == nullptr) throw ds4::Error(name, "found a null pointer");
  return *pointer;
}

/// `count` values that the caller has; none may be at a null pointer.
template <class T>
std::span<T> span_of(T* values, std::size_t count, std::string_view name) {
  if (count > 0) expect(values, name);
  return {values, count};
}

/// Writes as many values as there is room for.
template <class From, class To>
void give(const From& values, To* out, std::size_t capacity, std::size_t* count) {
  expect(count, "count") = values.size();
  const std::span<To> room = span_of(out, capacity, "the values to write");
  std::copy_n(values.begin(), std::min(values.size(), room.size()), room.begin());
}

/// A ds4_watch as what passes take.
class Watch final : public ds4::StageObserver<float> {
 public:
  explicit Watch(const ds4_watch* watch) : watch_(watch != nullptr ? *watch : ds4_watch{}) {}

  ds4::StageObserver<float>* observer() {
    return watch_.values != nullptr || watch_.indices != nullptr ? this : nullptr;
  }
  ds4::StopCheck stop() const {
    if (watch_.stop == nullptr) return {};
    return [stop = watch_.stop, user = watch_.user] { return stop(user) != 0; };
  }
  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override {
    if (watch_.values == nullptr) return;
    watch_.values(watch_.user, layer, std::string(stage).c_str(), values.data(), values.size());
  }
  void indices(std::size_t layer, std::string_view stage,
               std::span<const std::int32_t> indices) override {
    if (watch_.indices == nullptr) return;
    watch_.indices(watch_.user, layer, std::string(stage).c_str(), indices.data(), indices.size());
  }

 private:
  ds4_watch watch_;
};

void copy_logits(const ds4::Logits& logits, float* out) {
  std::ranges::copy(logits.values, &expect(out, "logits"));
}

/// The headers that plugins are compiled against: those that are installed with the library, or
/// those that it was built from.
std::filesystem::path headers() {
  ::Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&ds4_version), &info) != 0) {
    const std::filesystem::path installed =
        std::filesystem::path(info.dli_fname).parent_path() / DS4_INSTALLED_INCLUDE_DIR;
    std::error_code error;
    if (std::filesystem::exists(installed / "ds4/model.hpp", error)) return installed;
  }
  return DS4_INCLUDE_DIR;
}

const std::size_t kOldestOptions = sizeof(ds4_options);

}  // namespace

const char* ds4_version(void) { return ds4::kLibraryVersion.data(); }
const char* ds4_error(void) { return last_error().c_str(); }

ds4_status ds4_load(const char* folder, const ds4_options* options, ds4_model** model) {
  return caught([&] {
    const std::filesystem::path dir = &expect(folder, "folder");
    expect(model, "model") = nullptr;
    const ds4_options wanted = options != nullptr ? *options : ds4_options DS4_OPTIONS;
    if (wanted.size < kOldestOptions) {
      throw ds4::Error("options.size", "found " + std::to_string(wanted.size) +
                                           ", expected at least " + std::to_string(kOldestOptions) +
                                           ": begin with DS4_OPTIONS");
    }
    ds4::BackendOptions backend;
    backend.threads = wanted.threads > 0 ? wanted.threads : ds4::usable_processors();
    backend.exact = wanted.exact != 0;
    if (wanted.memory_budget >= 0.0 && wanted.memory_budget <= 1e6) {
      backend.memory_budget = static_cast<std::size_t>(wanted.memory_budget * 1e9);
    }
    const std::filesystem::path config = dir / "config.json";
    const ds4::CompiledModel found =
        ds4::find_model(ds4::read_config(config), &expect(wanted.backend, "options.backend"),
                        config, {.headers = headers()});
    *model = new ds4_model{found.load(dir, backend)};
  });
}

void ds4_free_model(ds4_model* model) { delete model; }

size_t ds4_vocab_size(const ds4_model* model) {
  return model != nullptr ? model->model->config().vocab_size : 0;
}

size_t ds4_max_position_embeddings(const ds4_model* model) {
  return model != nullptr ? model->model->config().max_position_embeddings : 0;
}

int32_t ds4_bos_token_id(const ds4_model* model) {
  if (model == nullptr || !model->model->config().bos_token_id) return -1;
  return static_cast<std::int32_t>(*model->model->config().bos_token_id);
}

int ds4_is_eos(const ds4_model* model, int32_t id) {
  if (model == nullptr || id < 0) return 0;
  const auto& ends = model->model->config().eos_token_ids;
  return std::ranges::find(ends, static_cast<std::size_t>(id)) != ends.end() ? 1 : 0;
}

ds4_status ds4_new_state(ds4_model* model, size_t rollback_limit, ds4_state** state) {
  return caught([&] {
    const auto& of = expect(model, "model").model;
    expect(state, "state") = nullptr;
    *state = new ds4_state{of, of->new_state(rollback_limit), {}};
  });
}

ds4_status ds4_fork(const ds4_state* state, ds4_state** fork) {
  return caught([&] {
    expect(fork, "fork") = nullptr;
    *fork = new ds4_state(expect(state, "state"));
  });
}

void ds4_free_state(ds4_state* state) { delete state; }

size_t ds4_position(const ds4_state* state) {
  return state != nullptr ? state->model->position(state->state) : 0;
}

ds4_status ds4_rollback(ds4_state* state, size_t tokens) {
  return caught([&] {
    auto& of = expect(state, "state");
    of.model->rollback(of.state, tokens);
  });
}

ds4_status ds4_save(const ds4_state* state, const int32_t* ids, size_t count, const char* file) {
  return caught([&] {
    const auto& of = expect(state, "state");
    of.model->save_session(&expect(file, "file"), span_of(ids, count, "ids"), of.state);
  });
}

ds4_status ds4_restore(ds4_model* model, const char* file, ds4_state** state, int32_t* ids,
                       size_t capacity, size_t* count) {
  return caught([&] {
    const auto& of = expect(model, "model").model;
    expect(state, "state") = nullptr;
    ds4::AnySession session = of->load_session(&expect(file, "file"));
    give(session.ids, ids, capacity, count);
    *state = new ds4_state{of, std::move(session.state), {}};
  });
}

ds4_status ds4_prefill(ds4_state* state, const int32_t* ids, size_t count, float* logits,
                       const ds4_watch* watch) {
  return caught([&] {
    auto& of = expect(state, "state");
    expect(logits, "logits");
    Watch watched(watch);
    copy_logits(
        of.model->prefill(of.state, span_of(ids, count, "ids"), watched.observer(), watched.stop()),
        logits);
  });
}

ds4_status ds4_decode(ds4_state* state, int32_t id, float* logits) {
  return ds4_prefill(state, &id, 1, logits, nullptr);
}

ds4_status ds4_forward(const ds4_sequence* batch, size_t count, float* logits,
                       const ds4_watch* watch) {
  return caught([&] {
    std::vector<ds4::AnyModel::Sequence> sequences;
    ds4::AnyModel* model = nullptr;
    for (const ds4_sequence& sequence : span_of(batch, count, "batch")) {
      auto& of = expect(sequence.state, "state");
      if (model == nullptr) model = of.model.get();
      if (model != of.model.get()) {
        throw ds4::Error("batch", "found states of several models, expected those of one");
      }
      sequences.push_back({&of.state, span_of(sequence.ids, sequence.count, "ids")});
    }
    if (model == nullptr) throw ds4::Error("batch", "found no sequence, expected at least one");
    expect(logits, "logits");
    Watch watched(watch);
    copy_logits(model->forward(sequences, watched.observer(), watched.stop()), logits);
  });
}

ds4_status ds4_keep_drafts(ds4_state* state, size_t length) {
  return caught([&] {
    auto& of = expect(state, "state");
    if (of.model->drafter() == ds4::DrafterKind::none) {
      throw ds4::Error("drafts", "expected a checkpoint with a drafter, found none");
    }
    if (length > ds4::DraftLength::kMost) {
      throw ds4::Error("length", "found " + std::to_string(length) + ", expected at most " +
                                     std::to_string(ds4::DraftLength::kMost));
    }
    of.model->keep_drafts(of.state);
    of.drafts = length == 0 ? ds4::DraftLength::automatic() : ds4::DraftLength::fixed(length);
  });
}

ds4_status ds4_decode_with_drafts(ds4_state* state, int32_t id, ds4_sampler* sampler, int32_t* ids,
                                  size_t capacity, size_t* count) {
  return caught([&] {
    auto& of = expect(state, "state");
    if (!of.drafts) {
      throw ds4::Error("state", "found one without drafts, expected ds4_keep_drafts() before");
    }
    if (capacity == 0) throw ds4::Error("capacity", "found 0, expected room for a token");
    span_of(ids, capacity, "ids");
    expect(count, "count") = 0;
    const auto next = of.model->decode_with_drafts(of.state, id, expect(sampler, "sampler").sampler,
                                                   *of.drafts, capacity);
    give(next, ids, capacity, count);
  });
}

ds4_status ds4_load_tokenizer(const char* folder, ds4_tokenizer** tokenizer) {
  return caught([&] {
    expect(tokenizer, "tokenizer") = nullptr;
    *tokenizer = new ds4_tokenizer{ds4::Tokenizer::load(&expect(folder, "folder"))};
  });
}

void ds4_free_tokenizer(ds4_tokenizer* tokenizer) { delete tokenizer; }

ds4_status ds4_encode(const ds4_tokenizer* tokenizer, const char* text, size_t length, int32_t* ids,
                      size_t capacity, size_t* count) {
  return caught([&] {
    const std::span<const char> bytes = span_of(text, length, "text");
    give(expect(tokenizer, "tokenizer").tokenizer.encode({bytes.data(), bytes.size()}), ids,
         capacity, count);
  });
}

ds4_status ds4_decode_text(const ds4_tokenizer* tokenizer, const int32_t* ids, size_t count,
                           int skip_special, char* text, size_t capacity, size_t* length) {
  return caught([&] {
    give(expect(tokenizer, "tokenizer")
             .tokenizer.decode(span_of(ids, count, "ids"), skip_special != 0),
         text, capacity, length);
  });
}

ds4_status ds4_new_sampler(float temperature, float top_p, int32_t top_k, uint64_t seed,
                           ds4_sampler** sampler) {
  return caught([&] {
    expect(sampler, "sampler") = nullptr;
    *sampler = new ds4_sampler{
        ds4::Sampler({.temperature = temperature, .top_p = top_p, .top_k = top_k, .seed = seed})};
  });
}

void ds4_free_sampler(ds4_sampler* sampler) { delete sampler; }

ds4_status ds4_sample(ds4_sampler* sampler, const float* logits, size_t count, int32_t* id) {
  return caught([&] {
    expect(id, "id") = expect(sampler, "sampler").sampler(span_of(logits, count, "logits"));
  });
}
