#include "cli/io.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>

namespace ds4::cli {

namespace {

volatile std::sig_atomic_t was_interrupted = 0;

/// What a Ctrl-C is written to, so that it ends a wait for input whichever thread it reaches.
std::array<int, 2> interrupt_pipe{-1, -1};

/// False if an error, left in errno, keeps part of text from being written.
bool write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ::ssize_t count = ::write(file, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

std::string read_all(int file, std::string_view name) {
  std::string content;
  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ::ssize_t count = ::read(file, buffer.data(), buffer.size());
    if (count == 0) return content;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) detail::throw_errno(name, "read", errno);
    content.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace

void reserve_standard_files() {
  for (const int file : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(file, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest number that is free is this one: those before it are taken.
    static_cast<void>(::open("/dev/null", file == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

void print(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return;
  if (errno == EPIPE) throw Quit{};
  detail::throw_errno("standard output", "write", errno);
}

void print_error(std::string_view text) { write_all(STDERR_FILENO, text); }

void complain(std::string_view text) {
  print_error(detail::printable(text, std::numeric_limits<std::size_t>::max()) + "\n");
}

void warn(std::span<const std::string> warnings) {
  for (const std::string& warning : warnings) complain("ds4: warning: " + warning);
}

bool input_is_terminal() { return ::isatty(STDIN_FILENO) == 1; }
bool output_is_terminal() { return ::isatty(STDOUT_FILENO) == 1; }
bool error_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

std::string read_file(const std::string& path) {
  const detail::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) detail::throw_errno(path, "open", errno);
  return read_all(file.get(), path);
}

std::string read_input() { return read_all(STDIN_FILENO, "standard input"); }

void write_whole(NewFile& file, std::string_view text) {
  file.write_at(0, std::as_bytes(std::span(text)));
  file.finish();
}

void catch_interrupts() {
  struct sigaction action{};
  action.sa_handler = [](int) { was_interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return was_interrupted != 0; }

void catch_every_interrupt() {
  if (::pipe2(interrupt_pipe.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    detail::throw_errno("a pipe", "create", errno);
  }
  struct sigaction action{};
  action.sa_handler = [](int) {
    const int error = errno;
    was_interrupted = 1;
    [[maybe_unused]] const auto count = ::write(interrupt_pipe[1], "", 1);
    errno = error;
  };
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
}

void forget_interrupt() {
  std::array<char, 64> bytes;
  while (::read(interrupt_pipe[0], bytes.data(), bytes.size()) > 0) {
  }
  was_interrupted = 0;
}

Input read_line(std::string& line) {
  static std::string buffer;  // read and not yet returned
  static bool at_end = false;
  std::size_t searched = 0;
  for (;;) {
    if (interrupted()) return Input::interrupt;
    const std::size_t end = buffer.find('\n', searched);
    if (end != std::string::npos || (at_end && !buffer.empty())) {
      line = buffer.substr(0, end);
      buffer.erase(0, end == std::string::npos ? end : end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return Input::line;
    }
    if (at_end) return Input::end;
    searched = buffer.size();
    std::array<::pollfd, 2> wait{{{STDIN_FILENO, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}}};
    if (::poll(wait.data(), wait.size(), -1) < 0 && errno != EINTR) {
      detail::throw_errno("standard input", "wait for", errno);
    }
    if (wait[0].revents == 0) continue;
    std::array<char, 1 << 16> bytes;
    const ::ssize_t count = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) detail::throw_errno("standard input", "read", errno);
    at_end = count == 0;
    buffer.append(bytes.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace ds4::cli
