// Standard output, input files and interrupts, as every verb treats them.
#pragma once

#include <string>
#include <string_view>

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

bool output_is_terminal();
bool error_is_terminal();

/// The content of a file, which may also be a pipe. Throws ds4::Error if it cannot be read.
std::string read_file(const std::string& path);
std::string read_input();

/// From now on the first Ctrl-C (or SIGTERM) only makes interrupted() true; a second one ends the
/// program as usual.
void catch_interrupts();
bool interrupted();

}  // namespace ds4::cli
