// Standard output, input files and interrupts, as every verb treats them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <ds4/core/error.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/layers/stop.hpp>

namespace ds4::cli {

/// Thrown to end the program with exit code 1 when there is nothing to say about it.
struct Quit {};

/// At the start of the program: where standard input, output or error is closed, something that can
/// neither be read nor written takes its place, so that no file that is opened later does.
void reserve_standard_files();

/// Writes text to standard output at once. Throws Quit if the reader has closed the pipe, and
/// ds4::Error if the text cannot be written for another reason.
void print(std::string_view text);

/// Writes text to standard error.
void print_error(std::string_view text);
/// The same as one line, whatever it holds.
void complain(std::string_view text);
/// What a file has wrong that changes nothing, a line each.
void warn(std::span<const std::string> warnings);

bool input_is_terminal();
bool output_is_terminal();
bool error_is_terminal();

/// The content of a file, which may also be a pipe. Throws ds4::Error if it cannot be read.
std::string read_file(const std::string& path);
std::string read_input();

/// Writes text as the whole of a new file and finishes it. Throws ds4::Error if it cannot be
/// written.
void write_whole(NewFile& file, std::string_view text);

/// From now on the first Ctrl-C (or SIGTERM) only makes interrupted() true; a second one ends the
/// program as usual.
void catch_interrupts();
bool interrupted();

/// Calls f(), whose passes interrupted() may stop, and throws ds4::Error if it was interrupted:
/// "<where>: interrupted".
template <class F>
void interruptible(std::string_view where, F&& f) {
  try {
    f();
  } catch (const Stopped&) {
  }
  if (interrupted()) throw Error(where, "interrupted");
}

/// From now on every Ctrl-C only makes interrupted() true, until it is forgotten.
void catch_every_interrupt();
void forget_interrupt();

/// The next line of standard input, without its end. Throws ds4::Error if it cannot be read.
/// An interrupt after catch_every_interrupt() stops the wait, or comes before the line.
enum class Input : std::uint8_t { line, end, interrupt };
Input read_line(std::string& line);

}  // namespace ds4::cli
