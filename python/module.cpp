// The Python module: ds4/runtime/ behind nanobind. python/ds4/__init__.py has what is written in
// Python.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <ds4/checkpoint/drafter.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/releases.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/processors.hpp>
#include <ds4/core/version.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/any_trainable.hpp>
#include <ds4/runtime/find_model.hpp>
#include <ds4/runtime/memory_checkpoint.hpp>
#include <ds4/runtime/plugin.hpp>
#include <ds4/runtime/stages.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/tokenizer.hpp>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

namespace fs = std::filesystem;

using Ids = std::vector<std::int32_t>;
/// What of numbers is read where it lies: a NumPy array, or whatever has DLPack.
using Given = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

/// A model, and the folder that it was loaded from if that has to stay.
struct Shared {
  std::unique_ptr<ds4::MemoryCheckpoint> memory;
  std::unique_ptr<ds4::AnyModel> model;
  std::string backend;
  fs::path dir;
  std::size_t threads = 1;
  std::mutex mutex;  // one call at a time: Python's threads know of no other rule
};

struct PyModel {
  std::shared_ptr<Shared> shared;
};
struct PyState {
  std::shared_ptr<Shared> shared;
  ds4::AnyState state;
  std::optional<ds4::DraftLength> drafts;
};

/// The state, if it is one of the model's.
ds4::AnyState& state_of(const PyModel& model, PyState& state) {
  if (state.shared != model.shared) {
    throw ds4::Error("state", "found one of another model, expected one that this model made");
  }
  return state.state;
}

/// Calls f(), with others' Python running meanwhile.
template <class F>
auto without_gil(Shared& shared, F&& f) {
  const nb::gil_scoped_release released;
  const std::scoped_lock lock(shared.mutex);
  return f();
}

/// True when Ctrl-C was pressed: the exception is set then. Asked often, it looks now and then.
class Interrupts {
 public:
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(20)) return false;
    last_ = now;
    const nb::gil_scoped_acquire acquired;
    return PyErr_CheckSignals() != 0;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// Calls f(stop), which an exception of a signal handler, as KeyboardInterrupt, ends.
template <class F>
auto interruptible(Shared& shared, F&& f) {
  try {
    return without_gil(shared, [&] {
      Interrupts interrupts;
      return f(ds4::StopCheck(std::ref(interrupts)));
    });
  } catch (const ds4::Stopped&) {
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    throw;
  }
}

/// An array of Python's around values of ours, which it keeps.
template <class T>
nb::object array_of(std::vector<T> values, const std::vector<std::size_t>& shape) {
  auto* const kept = new std::vector<T>(std::move(values));
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), shape.size(), shape.data(), owner));
}

/// Logits where they are.
nb::object array_of(const ds4::Logits& logits, const std::vector<std::size_t>& shape) {
  auto* const kept = new std::shared_ptr<const void>(logits.memory);
  const nb::capsule owner(
      kept, [](void* p) noexcept { delete static_cast<std::shared_ptr<const void>*>(p); });
  // Nobody else has this memory: the array may be written to.
  auto* const values = const_cast<float*>(logits.values.data());
  return nb::cast(nb::ndarray<nb::numpy, float>(values, shape.size(), shape.data(), owner));
}

[[noreturn]] void refuse_ids(nb::handle found) {
  throw ds4::Error("ids",
                   "expected token ids: integers of at most 32 bits, or an array [S] of int32 "
                   "or int64, found " +
                       std::string(nb::str(found.type().attr("__name__")).c_str()));
}

std::int32_t id_of(std::int64_t value) {
  if (value < INT32_MIN || value > INT32_MAX) {
    throw ds4::Error("ids", "expected integers of at most 32 bits, found " + std::to_string(value));
  }
  return static_cast<std::int32_t>(value);
}

/// Token ids of a sequence of integers, or of an array [S] or [1, S].
Ids ids_of(nb::handle given) {
  Ids ids;
  if (nb::isinstance<nb::list>(given) || nb::isinstance<nb::tuple>(given)) {
    for (const nb::handle item : given) {
      std::int64_t value = 0;
      if (!nb::try_cast<std::int64_t>(item, value)) refuse_ids(item);
      ids.push_back(id_of(value));
    }
    return ids;
  }
  Given array;
  if (given.is_none() || !nb::try_cast<Given>(given, array)) refuse_ids(given);
  const bool row = array.ndim() == 1 || (array.ndim() == 2 && array.shape(0) == 1);
  if (row && array.dtype() == nb::dtype<std::int32_t>()) {
    const auto* const values = static_cast<const std::int32_t*>(array.data());
    return {values, values + array.size()};
  }
  if (row && array.dtype() == nb::dtype<std::int64_t>()) {
    const auto* const values = static_cast<const std::int64_t*>(array.data());
    for (const std::int64_t value : std::span(values, array.size())) ids.push_back(id_of(value));
    return ids;
  }
  refuse_ids(given);
}

/// The folder that ds4.add() compiles with: beside this module.
ds4::PluginCompiler plugin_compiler() {
  ds4::PluginCompiler compiler;
  ::Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&plugin_compiler), &info) != 0) {
    const fs::path headers = fs::path(info.dli_fname).parent_path() / "include";
    std::error_code error;
    if (fs::exists(headers / "ds4/model.hpp", error)) compiler.headers = headers;
  }
  compiler.flags = ds4::include_flags(DS4_PLUGIN_INCLUDES);
  return compiler;
}

ds4::CompiledModel find(const fs::path& config_file, const std::string& backend, bool trainable) {
  return ds4::find_model(ds4::read_config(config_file), backend, config_file,
                         {.headers = plugin_compiler().headers}, trainable);
}

PyModel load(std::unique_ptr<ds4::MemoryCheckpoint> memory, const fs::path& dir,
             const std::string& backend, std::optional<std::size_t> threads, bool exact,
             std::optional<double> memory_budget) {
  ds4::BackendOptions options;
  options.threads = threads ? *threads : ds4::usable_processors();
  if (options.threads == 0 || options.threads > 1024) {
    throw ds4::Error("threads", "found " + std::to_string(options.threads) +
                                    ", expected a number from 1 to 1024");
  }
  options.exact = exact;
  if (memory_budget) {
    if (!(*memory_budget >= 0.0 && *memory_budget <= 1e6)) {
      throw ds4::Error("memory_budget", "found " + std::to_string(*memory_budget) +
                                            ", expected a number from 0 to 1e6");
    }
    options.memory_budget = static_cast<std::size_t>(*memory_budget * 1e9);
  }
  auto shared = std::make_shared<Shared>();
  const nb::gil_scoped_release released;
  shared->memory = std::move(memory);
  shared->backend = backend;
  shared->dir = dir;
  shared->threads = options.threads;
  shared->model = find(dir / "config.json", backend, false).load(dir, options);
  return {std::move(shared)};
}

std::optional<ds4::DType> dtype_of(nb::dlpack::dtype type) {
  if (type.lanes != 1) return std::nullopt;
  if (type == nb::dtype<float>()) return ds4::DType::f32;
  if (type == nb::dtype<std::int64_t>()) return ds4::DType::i64;
  if (type == nb::dtype<std::int32_t>()) return ds4::DType::i32;
  if (type.bits != 16) return std::nullopt;
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float)) return ds4::DType::f16;
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat)) {
    return ds4::DType::bf16;
  }
  return std::nullopt;
}

PyModel load_from_memory(const std::string& config_json, const nb::dict& tensors,
                         const std::string& backend, std::optional<std::size_t> threads, bool exact,
                         std::optional<double> memory_budget) {
  std::vector<Given> kept;
  std::vector<ds4::GivenTensor> given;
  for (const auto& [key, value] : tensors) {
    ds4::GivenTensor tensor{.name = nb::cast<std::string>(key)};
    const std::string where = ds4::detail::printable(tensor.name);
    Given array;
    if (value.is_none() || !nb::try_cast<Given>(value, array)) {
      throw ds4::Error(where,
                       "expected an array that lies row by row in the processor's memory, "
                       "without a gradient, found another object");
    }
    const auto dtype = dtype_of(array.dtype());
    if (!dtype) {
      throw ds4::Error(where,
                       "expected float32, float16, bfloat16, int64 or int32, found another "
                       "dtype");
    }
    tensor.dtype = *dtype;
    for (std::size_t i = 0; i < array.ndim(); ++i) tensor.shape.push_back(array.shape(i));
    tensor.data = {static_cast<const std::byte*>(array.data()), array.nbytes()};
    kept.push_back(std::move(array));
    given.push_back(std::move(tensor));
  }
  auto memory = std::make_unique<ds4::MemoryCheckpoint>(config_json, given);
  const fs::path dir = memory->path();
  return load(std::move(memory), dir, backend, threads, exact, memory_budget);
}

ds4::StageFilter stage_filter(const std::optional<std::vector<std::size_t>>& layers,
                              const std::optional<std::vector<std::string>>& names) {
  return [layers, names](std::size_t layer, std::string_view stage) {
    if (layers && !ds4::is_of_head(stage) && std::ranges::find(*layers, layer) == layers->end())
      return false;
    if (!names) return true;
    const std::string name = ds4::stage_name(layer, stage);
    return std::ranges::find(*names, stage) != names->end() ||
           std::ranges::find(*names, name) != names->end();
  };
}

nb::dict stages(const PyModel& model, nb::handle given,
                const std::optional<std::vector<std::size_t>>& layers,
                const std::optional<std::vector<std::string>>& names) {
  const Ids ids = ids_of(given);
  Shared& shared = *model.shared;
  const auto filter = stage_filter(layers, names);
  auto found = interruptible(shared, [&](const ds4::StopCheck& stop) {
    return ds4::record_stages(*shared.model, ids, filter, stop);
  });
  nb::dict arrays;
  for (ds4::StageArray& stage : found) {
    arrays[stage.name.c_str()] = stage.indices.empty()
                                     ? array_of(std::move(stage.values), stage.shape)
                                     : array_of(std::move(stage.indices), stage.shape);
  }
  return arrays;
}

/// A stage of another program, its axes in the order that ds4 has: a batch of one in front goes,
/// and "attn.q_rope" may have its heads before its tokens.
ds4::StageArray stage_array(const std::string& name, nb::handle value, std::size_t S) {
  const std::string where = ds4::detail::printable(name);
  Given array;
  if (value.is_none() || !nb::try_cast<Given>(value, array)) {
    throw ds4::Error(where,
                     "expected an array that lies row by row in the processor's memory, "
                     "without a gradient, found another object");
  }
  ds4::StageArray stage{.name = name};
  for (std::size_t i = 0; i < array.ndim(); ++i) stage.shape.push_back(array.shape(i));
  if (stage.shape.size() > 1 && stage.shape.front() == 1) stage.shape.erase(stage.shape.begin());
  const std::size_t size = array.size();
  const auto read = [&]<class T, class To>(const T* from, std::vector<To>& to) {
    to.resize(size);
    std::ranges::transform(std::span(from, size), to.begin(),
                           [](T value_) { return static_cast<To>(value_); });
  };
  const auto type = array.dtype();
  if (type == nb::dtype<float>()) {
    read(static_cast<const float*>(array.data()), stage.values);
  } else if (type == nb::dtype<double>()) {
    read(static_cast<const double*>(array.data()), stage.values);
  } else if (type == nb::dtype<std::int64_t>()) {
    read(static_cast<const std::int64_t*>(array.data()), stage.indices);
  } else if (type == nb::dtype<std::int32_t>()) {
    read(static_cast<const std::int32_t*>(array.data()), stage.indices);
  } else {
    throw ds4::Error(where, "expected float32, float64, int64 or int32, found another dtype");
  }
  if (name.ends_with("attn.q_rope") && stage.shape.size() == 3 && stage.shape[0] != S &&
      stage.shape[1] == S) {
    const std::size_t H = stage.shape[0];
    const std::size_t d = stage.shape[2];
    std::vector<float> turned(size);
    for (std::size_t h = 0; h < H && !stage.values.empty(); ++h) {
      for (std::size_t s = 0; s < S; ++s) {
        std::copy_n(stage.values.begin() + static_cast<std::ptrdiff_t>((h * S + s) * d), d,
                    turned.begin() + static_cast<std::ptrdiff_t>((s * H + h) * d));
      }
    }
    stage.values = std::move(turned);
  }
  return stage;
}

ds4::CheckReport compare(const PyModel& model, nb::handle given_ids, const nb::dict& given,
                         double tolerance) {
  const Ids ids = ids_of(given_ids);
  std::vector<ds4::StageArray> arrays;
  for (const auto& [key, value] : given) {
    arrays.push_back(stage_array(nb::cast<std::string>(key), value, ids.size()));
  }
  Shared& shared = *model.shared;
  return interruptible(shared, [&](const ds4::StopCheck& stop) {
    return ds4::compare_stages(*shared.model, ids, arrays, tolerance, stop);
  });
}

std::string verdict(const ds4::CheckReport& report) {
  const ds4::StageCheck* const first = report.first_past();
  const auto number = [](double value) { return ds4::detail::short_number(value); };
  const double tolerance = report.stages.empty() ? 0.0 : report.stages.front().tolerance;
  if (first == nullptr) {
    double largest = 0.0;
    for (const ds4::StageCheck& stage : report.stages) {
      if (!stage.picks) largest = std::max(largest, stage.clean.largest);
    }
    return std::to_string(report.stages.size()) + " stages within the tolerance " +
           number(tolerance) + "; largest error " + number(largest);
  }
  return "first stage past the tolerance: " + first->name() + ", " + first->problem;
}

/// The loss of sequences, and its gradients by the checkpoint's names.
std::pair<double, nb::dict> gradients(const PyModel& model, const nb::list& sequences) {
  std::vector<Ids> lists;
  std::size_t predictions = 0;
  for (const nb::handle sequence : sequences) {
    lists.push_back(ids_of(sequence));
    predictions += lists.back().size() - std::min<std::size_t>(lists.back().size(), 1);
  }
  if (predictions == 0) throw ds4::Error("ids", "found no token to predict, expected at least two");
  Shared& shared = *model.shared;
  const ds4::CompiledModel found = find(shared.dir / "config.json", shared.backend, true);
  std::unique_ptr<ds4::AnyTrainable> trainable;
  ds4::PassOptions options;
  options.prediction_weight = 1.0 / static_cast<double>(predictions);
  double loss = 0.0;
  {
    const nb::gil_scoped_release released;
    trainable = found.make_trainable({shared.dir, shared.threads});
    for (const ds4::TrainingSequence sequence : lists) {
      loss += trainable->add_gradients({&sequence, 1}, options).cross_entropy;
    }
  }
  nb::dict arrays;
  for (const ds4::TrainedWeight<float>& weight : trainable->weights().list()) {
    if (weight.rule == ds4::UpdateRule::load || weight.loss != ds4::LossKind::next_token) continue;
    const ds4::StoredTensor* const stored = shared.model->checkpoint().find(weight.name);
    const std::string name = stored != nullptr ? stored->stored_name : weight.name;
    arrays[name.c_str()] =
        array_of(std::vector<float>(weight.gradient.begin(), weight.gradient.end()), weight.shape);
  }
  return {loss * options.prediction_weight, arrays};
}

/// The configuration of a released checkpoint's name, a config.json or its folder.
ds4::ConfigValues config_of(const std::string& name) {
  if (auto released = ds4::released_config(name)) return *released;
  std::error_code error;
  const fs::path path(name);
  return ds4::read_config(fs::is_directory(path, error) ? path / "config.json" : path);
}

nb::dict plan_of(const std::string& name, std::size_t context, std::size_t batch,
                 std::size_t threads, bool exact) {
  const ds4::ConfigValues config = config_of(name);
  ds4::PlanOptions options;
  options.storage = ds4::release_format(config);
  options.context = context;
  options.batch = batch;
  options.threads = threads;
  options.exact = exact;
  if (context == 0 || context > config.max_position_embeddings || batch == 0) {
    throw ds4::Error("plan", "found a context of " + std::to_string(context) + " and a batch of " +
                                 std::to_string(batch) +
                                 ", expected at least 1, and at most "
                                 "max_position_embeddings " +
                                 std::to_string(config.max_position_embeddings));
  }
  const ds4::Plan p = ds4::plan(config, options);
  nb::dict d;
  d["parameters"] = p.parameters;
  d["parameters_mtp"] = p.parameters_mtp;
  d["parameters_active"] = p.parameters_active;
  d["tensors"] = p.tensors;
  d["weight_bytes"] = p.weight_bytes;
  d["weight_bytes_per_token"] = p.weight_bytes_per_token;
  d["state_bytes"] = p.state_bytes;
  d["state_bytes_per_token"] = p.state_bytes_per_token;
  d["state_memory_bytes"] = p.state_memory;
  d["scratch_bytes"] = p.scratch_bytes;
  d["prefill_flops_per_token"] = ds4::Plan::total(p.prefill_flops);
  d["decode_flops_per_token"] = ds4::Plan::total(p.decode_flops);
  return d;
}

std::string add(const std::string& config_file, const std::string& name, const std::string& backend,
                bool trainable) {
  const ds4::PluginCompiler compiler = plugin_compiler();
  if (compiler.headers.empty()) {
    throw ds4::Error("add", "expected the headers of ds4 beside the module, found none");
  }
  if (backend != "simd" && backend != "reference") {
    throw ds4::Error("backend",
                     "expected simd or reference, found " + ds4::detail::in_quotes(backend));
  }
  ds4::PluginKey key{ds4::read_config(config_file), backend, trainable};
  key.config.name = name.empty() ? ds4::plugin_name(config_file) : name;
  Interrupts interrupts;
  try {
    const nb::gil_scoped_release released;
    return ds4::add_plugin(ds4::plugin_folder(true), key, compiler,
                           [&](double) { return !interrupts(); })
        .path.native();
  } catch (const ds4::Stopped&) {
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    throw;
  }
}

Ids encode_chat(const ds4::Tokenizer& tokenizer, const std::string& request_json) {
  constexpr std::array<std::string_view, 3> kEfforts{"low", "high", "max"};
  const ds4::PythonJson request = ds4::PythonJson::parse(request_json);
  const ds4::PythonJson* const list = ds4::detail::member(request, "messages");
  if (list == nullptr || list->kind != ds4::PythonJson::Kind::array) {
    ds4::detail::refuse("messages", "a list", list);
  }
  std::vector<ds4::ChatMessage> messages;
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    messages.push_back(ds4::chat_message(list->items[i], "messages[" + std::to_string(i) + "]"));
  }
  ds4::ChatOptions options;
  options.thinking = ds4::detail::is_true(ds4::detail::member(request, "thinking"));
  options.keep_reasoning = ds4::detail::is_true(ds4::detail::member(request, "keep_reasoning"));
  if (ds4::detail::member(request, "effort") != nullptr) {
    const std::string effort = ds4::detail::string_member(request, "effort", "chat");
    options.effort =
        static_cast<ds4::ChatEffort>(ds4::detail::number_of(effort, kEfforts, "effort"));
  }
  if (const ds4::PythonJson* const tools = ds4::detail::member(request, "tools")) {
    options.tools.functions = ds4::tool_functions(*tools, "tools");
  }
  return ds4::ChatEncoding(tokenizer).encode(messages, options);
}

std::string_view kind_name(ds4::ErrorKind kind) {
  constexpr std::array<std::string_view, 6> kNames{"input", "context", "file",
                                                   "lost",  "memory",  "stopped"};
  return kNames[static_cast<std::size_t>(kind)];
}

}  // namespace

NB_MODULE(_ds4, m) {
  m.doc() = "The compiled part of ds4.";
  m.attr("__version__") = std::string(ds4::kLibraryVersion);

  static PyObject* const error_type = PyErr_NewExceptionWithDoc(
      "ds4.Error",
      "Every failure of ds4: one line, where, what was expected and found. "
      "kind: input, context, file, lost, memory or stopped.",
      PyExc_RuntimeError, nullptr);
  PyObject_SetAttrString(error_type, "kind", nb::str("input").ptr());
  m.attr("Error") = nb::borrow(error_type);
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const ds4::Error& failure) {
      nb::object exception = nb::borrow(error_type)(std::string(failure.what()));
      exception.attr("kind") = std::string(kind_name(failure.kind()));
      PyErr_SetObject(error_type, exception.ptr());
    }
  });

  nb::class_<PyState>(m, "State",
                      "What one sequence keeps between passes: a value. state.fork() is a "
                      "second sequence with the same past.")
      .def_prop_ro(
          "position",
          [](const PyState& s) {
            return without_gil(*s.shared, [&] { return s.shared->model->position(s.state); });
          },
          "Tokens that are taken in.")
      .def(
          "fork",
          [](const PyState& s) { return without_gil(*s.shared, [&] { return PyState(s); }); },
          "A copy, which goes on independently.")
      .def(
          "rollback",
          [](PyState& s, std::size_t tokens) {
            without_gil(*s.shared, [&] { s.shared->model->rollback(s.state, tokens); });
          },
          "tokens"_a,
          "Takes back the last tokens: what follows is what would have followed without them.")
      .def(
          "keep_drafts",
          [](PyState& s, std::size_t length) {
            if (s.shared->model->drafter() == ds4::DrafterKind::none) {
              throw ds4::Error("drafts", "expected a checkpoint with a drafter, found none");
            }
            if (length > ds4::DraftLength::kMost) {
              throw ds4::Error("length", "found " + std::to_string(length) + ", expected at most " +
                                             std::to_string(ds4::DraftLength::kMost));
            }
            without_gil(*s.shared, [&] { s.shared->model->keep_drafts(s.state); });
            s.drafts =
                length == 0 ? ds4::DraftLength::automatic() : ds4::DraftLength::fixed(length);
          },
          "length"_a = 0,
          "Keeps from now on what the checkpoint's drafter needs; drafts of `length` tokens, 0: as "
          "many as pay.")
      .def(
          "save",
          [](const PyState& s, nb::handle ids, const std::string& file) {
            const Ids tokens = ids_of(ids);
            without_gil(*s.shared, [&] { s.shared->model->save_session(file, tokens, s.state); });
          },
          "ids"_a, "file"_a,
          "Writes the state with the ids of its sequence to a file, for Model.load_state().");

  nb::class_<ds4::Sampler>(m, "Sampler",
                           "Draws token ids from softmax(logits / temperature), 0: the likeliest; "
                           "with top_p of the fewest whose probability reaches it, with top_k of "
                           "that many.")
      .def(
          "__init__",
          [](ds4::Sampler* self, float temperature, float top_p, std::int32_t top_k,
             std::uint64_t seed, std::vector<std::int32_t> never) {
            new (self) ds4::Sampler({.temperature = temperature,
                                     .top_p = top_p,
                                     .top_k = top_k,
                                     .seed = seed,
                                     .never = std::move(never)});
          },
          "temperature"_a = 1.0f, "top_p"_a = 1.0f, "top_k"_a = 0, "seed"_a = 0,
          "never"_a = std::vector<std::int32_t>())
      .def(
          "__call__",
          [](ds4::Sampler& self,
             const nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>& logits) {
            return self(std::span(logits.data(), logits.size()));
          },
          "logits"_a, "The next token for logits [V].");

  nb::class_<PyModel>(m, "Model", "A model on a backend; ds4.load() gives one.")
      .def_prop_ro(
          "vocab_size", [](const PyModel& p) { return p.shared->model->config().vocab_size; },
          "V: token ids are below it.")
      .def_prop_ro(
          "max_position_embeddings",
          [](const PyModel& p) { return p.shared->model->config().max_position_embeddings; },
          "Tokens that the context has room for.")
      .def_prop_ro(
          "num_hidden_layers",
          [](const PyModel& p) { return p.shared->model->config().num_hidden_layers; },
          "Decoder layers.")
      .def_prop_ro(
          "bos_token_id", [](const PyModel& p) { return p.shared->model->config().bos_token_id; },
          "The begin-of-sequence token, if the configuration states one.")
      .def_prop_ro(
          "eos_token_ids", [](const PyModel& p) { return p.shared->model->config().eos_token_ids; },
          "Tokens that end a text.")
      .def_prop_ro(
          "config_json",
          [](const PyModel& p) { return ds4::config_json(p.shared->model->config()); },
          "The configuration, as the text of a config.json.")
      .def_prop_ro(
          "backend", [](const PyModel& p) { return p.shared->backend; },
          "\"simd\" or \"reference\".")
      .def_prop_ro(
          "path", [](const PyModel& p) { return p.shared->dir.native(); },
          "The folder of the checkpoint.")
      .def_prop_ro(
          "drafter",
          [](const PyModel& p) { return std::string(ds4::name_of(p.shared->model->drafter())); },
          "The checkpoint's drafter.")
      .def(
          "new_state",
          [](const PyModel& p, std::size_t rollback_limit) {
            return without_gil(*p.shared, [&] {
              return PyState{p.shared, p.shared->model->new_state(rollback_limit), {}};
            });
          },
          "rollback_limit"_a = ds4::kDefaultRollbackLimit,
          "The state of an empty sequence, which can take back its last `rollback_limit` tokens.")
      .def(
          "prefill",
          [](const PyModel& p, PyState& s, nb::handle ids) {
            const Ids tokens = ids_of(ids);
            ds4::AnyModel& model = *p.shared->model;
            const ds4::Logits logits = interruptible(*p.shared, [&](const ds4::StopCheck& stop) {
              return model.prefill(state_of(p, s), tokens, nullptr, stop);
            });
            return array_of(logits, {model.config().vocab_size});
          },
          "state"_a, "ids"_a,
          "Takes in tokens, a list or an array [S]; float32 logits [V] of the last one.")
      .def(
          "decode",
          [](const PyModel& p, PyState& s, std::int64_t id) {
            const std::int32_t token = id_of(id);
            ds4::AnyModel& model = *p.shared->model;
            const ds4::Logits logits =
                without_gil(*p.shared, [&] { return model.decode(state_of(p, s), token); });
            return array_of(logits, {model.config().vocab_size});
          },
          "state"_a, "id"_a, "Takes in one token; its float32 logits [V].")
      .def(
          "forward",
          [](const PyModel& p, const nb::list& batch) {
            std::vector<Ids> ids;
            std::vector<ds4::AnyModel::Sequence> sequences;
            std::size_t count = 0;
            for (const nb::handle item : batch) {
              ids.push_back(ids_of(nb::cast<nb::tuple>(item)[1]));
              count += ids.back().size();
            }
            for (std::size_t i = 0; i < ids.size(); ++i) {
              PyState& state = nb::cast<PyState&>(nb::cast<nb::tuple>(batch[i])[0]);
              sequences.push_back({&state_of(p, state), ids[i]});
            }
            ds4::AnyModel& model = *p.shared->model;
            const ds4::Logits logits = interruptible(*p.shared, [&](const ds4::StopCheck& stop) {
              return model.forward(sequences, nullptr, stop);
            });
            return array_of(logits, {count, model.config().vocab_size});
          },
          "batch"_a,
          "Several sequences in one pass: a list of (state, ids); float32 logits [tokens, V] of "
          "every token, sequence after sequence.")
      .def(
          "decode_with_drafts",
          [](const PyModel& p, PyState& s, std::int64_t id, ds4::Sampler& sampler,
             std::size_t limit) {
            if (!s.drafts) {
              throw ds4::Error("state", "found one without drafts, expected keep_drafts() before");
            }
            if (limit == 0) throw ds4::Error("limit", "found 0, expected at least 1");
            const std::int32_t token = id_of(id);
            return without_gil(*p.shared, [&] {
              return p.shared->model->decode_with_drafts(state_of(p, s), token, sampler, *s.drafts,
                                                         limit);
            });
          },
          "state"_a, "id"_a, "sampler"_a, "limit"_a = 64,
          "Takes in a token and what the drafter has guessed to follow; the tokens that follow, of "
          "which the last is not taken in yet.")
      .def(
          "generate",
          [](const nb::object& self, const nb::args& args, const nb::kwargs& kwargs) {
            return nb::module_::import_("ds4").attr("generate")(self, *args, **kwargs);
          },
          nb::sig("def generate(self, prompt: str | list[int], *, max_tokens: int = 256, "
                  "temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, "
                  "seed: int | None = None, draft: int | None = None) -> "
                  "collections.abc.Iterator[str]"),
          "See ds4.generate().")
      .def(
          "load_state",
          [](const PyModel& p, const std::string& file) {
            auto session =
                without_gil(*p.shared, [&] { return p.shared->model->load_session(file); });
            return std::pair(PyState{p.shared, std::move(session.state), {}},
                             std::move(session.ids));
          },
          "file"_a, "What State.save() wrote: the state, and the ids of its sequence.");

  nb::class_<ds4::Tokenizer>(m, "Tokenizer", "Between texts and token ids; reads a tokenizer.json.")
      .def(
          "__init__",
          [](ds4::Tokenizer* self, const std::string& path) {
            new (self) ds4::Tokenizer(ds4::Tokenizer::load(path));
          },
          "path"_a, "path: a folder of a checkpoint, or the file itself.")
      .def(
          "encode", [](const ds4::Tokenizer& t, const std::string& text) { return t.encode(text); },
          "text"_a,
          "The ids of a text, in which special tokens that are spelled out count as such.")
      .def(
          "encode_plain",
          [](const ds4::Tokenizer& t, const std::string& text) { return t.encode_plain(text); },
          "text"_a, "The ids of a text that may come from anybody: without special tokens.")
      .def(
          "decode",
          [](const ds4::Tokenizer& t, nb::handle ids, bool skip_special) {
            return t.decode(ids_of(ids), skip_special);
          },
          "ids"_a, "skip_special"_a = false, "The text of ids.")
      .def(
          "token_to_id",
          [](const ds4::Tokenizer& t, const std::string& token) { return t.token_to_id(token); },
          "token"_a, "The id of a token as tokenizer.json spells it, if there is one.")
      .def("is_special", &ds4::Tokenizer::is_special, "id"_a, "Whether decode() can leave it out.")
      .def("ids_without_token", &ds4::Tokenizer::ids_without_token, "size"_a,
           "The ids below `size` that no token has: a model is not to choose them.")
      .def_prop_ro("vocab_size", &ds4::Tokenizer::vocab_size, "Largest id + 1.");

  nb::class_<ds4::StreamDecoder>(m, "StreamDecoder",
                                 "Turns a stream of ids into text, in whole characters.")
      .def(nb::init<const ds4::Tokenizer&, bool>(), "tokenizer"_a, "skip_special"_a = false,
           nb::keep_alive<1, 2>())
      .def("push", &ds4::StreamDecoder::push, "id"_a, "The text that an id completes, maybe none.")
      .def("finish", &ds4::StreamDecoder::finish, "What is left at the end.");

  nb::class_<ds4::StageCheck>(m, "StageCheck", "What a comparison found at one stage.")
      .def_prop_ro(
          "name", [](const ds4::StageCheck& c) { return c.name(); },
          "\"layer 3 attn.output\", \"head logits\".")
      .def_prop_ro(
          "largest", [](const ds4::StageCheck& c) { return c.clean.largest; },
          "The largest error, in units of the stage's root mean square, of logits in standard "
          "deviations.")
      .def_prop_ro(
          "largest_token", [](const ds4::StageCheck& c) { return c.clean.largest_token; },
          "Where it is.")
      .def_prop_ro(
          "mean", [](const ds4::StageCheck& c) { return c.clean.mean; }, "The mean error.")
      .def_prop_ro(
          "differing", [](const ds4::StageCheck& c) { return c.clean.differing; },
          "Rows with any error; of picks, with other picks.")
      .def_ro("tolerance", &ds4::StageCheck::tolerance, "Of the largest error.")
      .def_ro("picks", &ds4::StageCheck::picks, "Whether it is indices.")
      .def_ro("problem", &ds4::StageCheck::problem, "What is past the tolerance, or \"\".");
  nb::class_<ds4::CheckReport>(m, "Comparison", "What ds4.compare() found; true if nothing.")
      .def("__bool__", &ds4::CheckReport::passed)
      .def("__str__", &verdict)
      .def("__repr__", &verdict)
      .def_ro("stages", &ds4::CheckReport::stages, "In the order of a pass.")
      .def_prop_ro(
          "first",
          [](const ds4::CheckReport& r) -> std::optional<ds4::StageCheck> {
            const ds4::StageCheck* const first = r.first_past();
            return first != nullptr ? std::optional(*first) : std::nullopt;
          },
          "The first stage that is past its tolerance, or None.");

  m.def(
      "load",
      [](const std::string& path, const std::string& backend, std::optional<std::size_t> threads,
         bool exact, std::optional<double> memory_budget) {
        return load(nullptr, path, backend, threads, exact, memory_budget);
      },
      "path"_a, "backend"_a, "threads"_a.none(), "exact"_a, "memory_budget"_a.none());
  m.def("load_from_memory", &load_from_memory, "config_json"_a, "tensors"_a, "backend"_a,
        "threads"_a.none(), "exact"_a, "memory_budget"_a.none());
  m.def("stages", &stages, "model"_a, "ids"_a, "layers"_a.none() = nb::none(),
        "names"_a.none() = nb::none(),
        "Every stage of a pass over a sequence from its beginning, as a dict of arrays with a row "
        "per token: \"layers.3.attn.output\" [S, D], ... \"final_norm\", \"logits\" [S, V]. "
        "`layers` and `names` (\"attn.output\", or whole) choose among them.");
  m.def("compare", &compare, "model"_a, "ids"_a, "stages"_a, "tolerance"_a);
  m.attr("FLOAT32_TOLERANCE") = ds4::kFloat32Tolerance;
  m.def("gradients", &gradients, "model"_a, "sequences"_a);
  m.def("plan", &plan_of, "config"_a, "context"_a = 4096, "batch"_a = 1, "threads"_a = 1,
        "exact"_a = false,
        "What a configuration takes, before anything is loaded: of a config.json, its folder, or a "
        "release, as \"flash\".");
  m.def("add", &add, "config"_a, "name"_a, "backend"_a, "trainable"_a);
  m.def("encode_chat", &encode_chat, "tokenizer"_a, "request_json"_a);
}
