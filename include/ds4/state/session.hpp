// Sessions: a sequence's tokens and its state in a file, for another process to continue.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <istream>
#include <ostream>
#include <span>
#include <streambuf>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/core/checked_stream.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/layers/decoder_layer.hpp>
#include <ds4/state/state.hpp>

namespace ds4::inline v0_1 {

/// A sequence to continue: its tokens, and the state that has taken in the first state.position()
/// of them. The others, if any, are still to be taken in: prefill(state, pending()).
template <class State>
struct Session {
  std::vector<std::int32_t> ids;  ///< all tokens
  State state;                    ///< has taken in the first state.position() of them.

  /// The tokens that are still to be taken in.
  std::span<const std::int32_t> pending() const { return std::span(ids).subspan(state.position()); }
};

/// Writes a session to a file, which appears only when it is complete and replaces one that is
/// there: a version, the fingerprint of the weights that the state has come from
/// (Model::fingerprint()), the state with the configuration's, the tokens, and checksums. Throws
/// ds4::Error if the state has taken in more than ids or the file cannot be written.
template <ModelConfig C, Backend B>
void save_session(const std::filesystem::path& file, std::span<const std::int32_t> ids,
                  const State<C, B>& state, std::uint64_t weights);

/// Reads what save_session wrote, in any process:
/// load_session<typename Model::State>(file, model.fingerprint()). The logits that follow are
/// bitwise those that would have followed, on the same backend with the same options; see
/// State::deserialise. Throws ds4::Error for anything else: no file, another version, configuration
/// or fingerprint of the weights, a damaged or truncated file, or one with something behind its
/// end. Memory grows with what the file holds, not with what it announces.
template <class State>
Session<State> load_session(const std::filesystem::path& file, std::uint64_t weights);

namespace detail {

inline constexpr std::array<char, 8> kSessionMagic{'d', 's', '4', 's', 'e', 's', 's', 'n'};
inline constexpr std::uint32_t kSessionVersion = 2;
/// Tokens to a piece of the file: a wrong number of them costs no more memory than this.
inline constexpr std::size_t kSessionPiece = 4096;

/// Collects what a stream writes and puts it into a NewFile.
class NewFileBuffer final : public std::streambuf {
 public:
  explicit NewFileBuffer(NewFile& file) : file_(&file), buffer_(std::size_t{1} << 16) {
    setp(buffer_.data(), buffer_.data() + buffer_.size());
  }

 protected:
  int sync() override {
    file_->write_at(written_, std::as_bytes(std::span(pbase(), pptr())));
    written_ += static_cast<std::size_t>(pptr() - pbase());
    setp(buffer_.data(), buffer_.data() + buffer_.size());
    return 0;
  }
  int_type overflow(int_type character) override {
    sync();
    return traits_type::eq_int_type(character, traits_type::eof())
               ? traits_type::not_eof(character)
               : sputc(traits_type::to_char_type(character));
  }

 private:
  NewFile* file_;
  std::vector<char> buffer_;
  std::size_t written_ = 0;
};

/// Opens a regular file: others could keep us waiting. Throws ds4::Error.
inline std::ifstream open_session(const std::filesystem::path& file) {
  std::error_code ignored;
  const auto status = std::filesystem::status(file, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw Error(ErrorKind::file, printable_path(file),
                "expected a session file, found something that is no file");
  }
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw_errno(file, "open", errno);
  return stream;
}

/// load_session from a stream that is the file; errors begin with `where`.
template <class State>
Session<State> read_session(std::istream& stream, const std::string& where, std::uint64_t weights) {
  CheckedReader in(stream, where);
  if (in.value<std::array<char, 8>>() != kSessionMagic) {
    in.fail("found something else, expected a session that ds4 saved");
  }
  if (const auto version = in.value<std::uint32_t>(); version != kSessionVersion) {
    in.fail("found version " + std::to_string(version) + ", expected " +
            std::to_string(kSessionVersion));
  }
  const auto saved_with = in.value<std::uint64_t>();
  Session<State> session{{}, State::deserialise(stream, where)};
  if (saved_with != weights) {  // said behind the state's own error about another configuration
    in.fail("found a session of other weights, expected one saved with this checkpoint");
  }
  const auto count = in.value<std::uint64_t>();
  while (session.ids.size() < count) {
    const std::size_t done = session.ids.size();
    session.ids.resize(done + std::min<std::uint64_t>(count - done, kSessionPiece));
    in.bytes(std::as_writable_bytes(std::span(session.ids).subspan(done)));
  }
  in.finish();
  if (stream.peek() != std::istream::traits_type::eof()) {
    in.fail("found more behind the end of the session, expected nothing");
  }
  if (session.state.position() > session.ids.size()) {
    in.fail("found a state of " + std::to_string(session.state.position()) +
            " tokens, expected at most " + std::to_string(session.ids.size()));
  }
  in.expect_ids(session.ids, State::Config::vocab_size);
  return session;
}

}  // namespace detail

template <ModelConfig C, Backend B>
void save_session(const std::filesystem::path& file, std::span<const std::int32_t> ids,
                  const State<C, B>& state, std::uint64_t weights) {
  const std::string where = detail::printable_path(file);
  if (state.position() > ids.size()) {
    throw Error(where, "found a state of " + std::to_string(state.position()) +
                           " tokens, expected at most the " + std::to_string(ids.size()) +
                           " of the sequence");
  }
  NewFile out(file);
  detail::NewFileBuffer buffer(out);
  std::ostream stream(&buffer);
  stream.exceptions(std::ios::badbit);  // the file's own error gets through
  detail::CheckedWriter writer(stream, where);
  writer.value(detail::kSessionMagic);
  writer.value(detail::kSessionVersion);
  writer.value(weights);
  state.serialise(stream, where);
  writer.value(static_cast<std::uint64_t>(ids.size()));
  for (; !ids.empty(); ids = ids.subspan(std::min(ids.size(), detail::kSessionPiece))) {
    writer.bytes(std::as_bytes(ids.first(std::min(ids.size(), detail::kSessionPiece))));
  }
  writer.finish();
  out.finish();
}

template <class State>
Session<State> load_session(const std::filesystem::path& file, std::uint64_t weights) {
  std::ifstream stream = detail::open_session(file);
  return detail::read_session<State>(stream, detail::printable_path(file), weights);
}

}  // namespace ds4::inline v0_1
