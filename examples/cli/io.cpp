#include "cli/io.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include <ds4/checkpoint/mapped_file.hpp>

namespace ds4::cli {

namespace {

volatile std::sig_atomic_t was_interrupted = 0;

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

bool output_is_terminal() { return ::isatty(STDOUT_FILENO) == 1; }
bool error_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

std::string read_file(const std::string& path) {
  const detail::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) detail::throw_errno(path, "open", errno);
  return read_all(file.get(), path);
}

std::string read_input() { return read_all(STDIN_FILENO, "standard input"); }

void catch_interrupts() {
  struct sigaction action{};
  action.sa_handler = [](int) { was_interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return was_interrupted != 0; }

}  // namespace ds4::cli
