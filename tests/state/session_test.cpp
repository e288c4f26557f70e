// Sessions: what is saved continues bit for bit in another instance of the model; damaged, foreign
// and hostile files are refused.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/models/tiny_pro_yarn.hpp>
#include <ds4/state/session.hpp>
#include <support/files.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::content_of;
using ds4::test::edges;
using ds4::test::error_text;
using ds4::test::feed;
using ds4::test::model_of;
using ds4::test::random_ids;
using ds4::test::TempDir;
using Ids = std::vector<std::int32_t>;

using TinyFlash = ds4::Model<ds4::models::tiny_flash>;
using TinyFlashSimd = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;
using TinyProYarn = ds4::Model<ds4::models::tiny_pro_yarn>;

constexpr std::uint64_t kWeights = 0x0123456789abcdef;

template <class M>
auto load(const std::filesystem::path& file, std::uint64_t weights = kWeights) {
  return ds4::load_session<typename M::State>(file, weights);
}

/// What the error of loading these bytes says behind the file's name; "" if there is none.
template <class M>
std::string load_error(const TempDir& dir, const std::string& bytes) {
  const auto file = dir.write("session", bytes);
  const std::string prefix = "ds4: " + file.string() + ": ";
  const std::string text = error_text([&] { load<M>(file); }).c_str();
  if (text.empty()) return text;
  CHECK(text.starts_with(prefix));
  return text.substr(prefix.size());
}

}  // namespace

TEST_CASE_TEMPLATE("session: another instance of the model continues bit for bit", M, TinyFlash,
                   TinyFlashSimd) {
  const TempDir dir;
  const auto file = dir.path() / "session";
  const Ids ids = random_ids(530, 20);
  const std::span<const std::int32_t> all = ids;
  auto model = model_of<M>();
  auto never = model.new_state();
  const auto logits = feed(model, never, all, {256});
  auto state = model.new_state();
  for (const std::size_t edge : edges<typename M::Config>()) {
    INFO(edge, " tokens");
    feed(model, state, all.subspan(state.position(), edge - state.position()), {64});
    ds4::save_session(file, all.first(edge + 2), state, kWeights);  // replaces the one before

    auto other = model_of<M>();
    auto session = load<M>(file);
    CHECK(session.ids == Ids(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(edge + 2)));
    CHECK(session.state.position() == edge);
    REQUIRE(session.pending().size() == 2);
    auto rows = feed(other, session.state, session.pending(), {2});
    const auto more = feed(other, session.state, all.subspan(edge + 2, 5), {1});
    rows.insert(rows.end(), more.begin(), more.end());
    CHECK(std::ranges::equal(rows, std::span(logits).subspan(edge * M::V, 7 * M::V)));
  }
  CHECK(std::ranges::distance(std::filesystem::directory_iterator(dir.path()),
                              std::filesystem::directory_iterator()) == 1);
}

TEST_CASE("session: an empty one, and more tokens than a piece of the file") {
  const TempDir dir;
  const auto file = dir.path() / "session";
  auto model = model_of<TinyFlash>();
  ds4::save_session(file, {}, model.new_state(), kWeights);
  CHECK(load<TinyFlash>(file).ids.empty());
  for (const std::size_t count : {4095u, 4096u, 4097u, 10000u}) {
    const Ids ids = random_ids(count, 21);
    ds4::save_session(file, ids, model.new_state(), kWeights);
    CHECK(load<TinyFlash>(file).ids == ids);
    CHECK(load<TinyFlash>(file).pending().size() == count);
  }
}

TEST_CASE("session: every truncation and every flipped byte is refused in one line") {
  const TempDir dir;
  auto model = model_of<TinyFlashSimd>();
  auto state = model.new_state(0);
  const Ids ids = random_ids(3, 22);
  model.prefill(state, std::span(ids).first(1));
  ds4::save_session(dir.path() / "session", ids, state, kWeights);
  const std::string bytes = content_of(dir.path() / "session");
  CHECK(load_error<TinyFlashSimd>(dir, bytes).empty());
  CHECK(bytes.size() < 20'000);

  std::size_t accepted = 0;
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const std::string text = load_error<TinyFlashSimd>(dir, bytes.substr(0, length));
    if (!text.starts_with("found the end after ")) ++accepted;
  }
  CHECK(accepted == 0);
  std::mt19937 random(23);
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    std::string flipped = bytes;
    flipped[at] = static_cast<char>(flipped[at] ^ static_cast<char>(1 + random() % 255));
    if (load_error<TinyFlashSimd>(dir, flipped).empty()) ++accepted;
  }
  CHECK(accepted == 0);
  CHECK(load_error<TinyFlashSimd>(dir, bytes + '\0') ==
        "found more behind the end of the session, expected nothing");
}

TEST_CASE("session: foreign files and sessions of others are refused") {
  const TempDir dir;
  auto model = model_of<TinyFlash>();
  auto state = model.new_state();
  const Ids ids = random_ids(9, 24);
  model.prefill(state, ids);
  const auto file = dir.path() / "saved";
  ds4::save_session(file, ids, state, kWeights);
  const std::string bytes = content_of(file);

  CHECK(load_error<TinyFlash>(dir, "") == "found the end after 0 bytes, expected more");
  CHECK(load_error<TinyFlash>(dir, std::string(1000, 'x')) ==
        "found something else, expected a session that ds4 saved");
  std::string other = bytes;
  other[8] = 7;
  CHECK(load_error<TinyFlash>(dir, other) == "found version 7, expected 2");
  CHECK(load_error<TinyProYarn>(dir, bytes) ==
        "found one of another configuration, expected one of tiny_pro_yarn");
  // The beginning of what version 1 wrote: nothing behind the version is looked at.
  CHECK(load_error<TinyFlash>(dir, bytes.substr(0, 8) + std::string("\1\0\0\0", 4)) ==
        "found version 1, expected 2");
  // A number of tokens that would need exabytes ends with the file.
  other = bytes;
  const std::size_t count_at = bytes.size() - 8 - ids.size() * 4 - 8;
  REQUIRE(other[count_at] == 9);
  other[count_at + 7] = 0x7f;
  CHECK(load_error<TinyFlash>(dir, other).starts_with("found the end after "));

  CHECK(error_text([&] { load<TinyFlash>(dir.path() / "none"); }) ==
        ("ds4: " + (dir.path() / "none").string() + ": cannot open: No such file or directory")
            .c_str());
  const auto fifo = dir.path() / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  for (const auto& no_file : {dir.path(), fifo, std::filesystem::path("/dev/zero")}) {
    CHECK(
        error_text([&] { load<TinyFlash>(no_file); }) ==
        ("ds4: " + no_file.string() + ": expected a session file, found something that is no file")
            .c_str());
  }

  // Ids beyond the vocabulary, and a state that is ahead of them, do not get into a model.
  ds4::save_session(file, random_ids(9, 24), model.new_state(), kWeights);
  Ids wild = ids;
  wild[4] = 256;
  ds4::save_session(file, wild, state, kWeights);
  CHECK(load_error<TinyFlash>(dir, content_of(file)) == "found id 256, expected 0 to 255");
  CHECK(error_text([&] { ds4::save_session(file, std::span(ids).first(8), state, kWeights); }) ==
        ("ds4: " + file.string() +
         ": found a state of 9 tokens, expected at most the 8 of the sequence")
            .c_str());
}

TEST_CASE("session: one of other weights is refused, behind errors that say more") {
  const TempDir dir;
  auto model = model_of<TinyFlash>();
  auto state = model.new_state();
  const Ids ids = random_ids(9, 26);
  model.prefill(state, ids);
  const auto file = dir.path() / "session";
  ds4::save_session(file, ids, state, model.fingerprint());
  const auto error = [&]<class M>(const M&, std::uint64_t weights) {
    return error_text([&] { load<M>(file, weights); });
  };
  CHECK(error(model, model_of<TinyFlash>().fingerprint()) == "");
  // Another backend reads the same files, even if it keeps state rows of another type.
  CHECK(model_of<TinyFlashSimd>().fingerprint() == model.fingerprint());
  CHECK(error(model, model.fingerprint() + 1) ==
        ("ds4: " + file.string() +
         ": found a session of other weights, expected one saved with this checkpoint")
            .c_str());
  CHECK(error(model_of<TinyProYarn>(), kWeights) ==
        doctest::Contains("found one of another configuration"));
}

TEST_CASE("session: one that cannot be written leaves what was there") {
  const TempDir dir;
  auto model = model_of<TinyFlash>();
  const Ids ids = random_ids(5, 25);
  CHECK(std::string_view(error_text([&] {
                           ds4::save_session(dir.path() / "no/session", ids, model.new_state(),
                                             kWeights);
                         }).c_str())
            .find("/no/session: cannot create: ") != std::string_view::npos);
  std::filesystem::create_directory(dir.path() / "folder");
  CHECK(std::string_view(error_text([&] {
                           ds4::save_session(dir.path() / "folder", ids, model.new_state(),
                                             kWeights);
                         }).c_str())
            .find("folder: cannot create: found a folder ") != std::string_view::npos);
  CHECK(std::ranges::distance(std::filesystem::directory_iterator(dir.path()),
                              std::filesystem::directory_iterator()) == 1);
}
