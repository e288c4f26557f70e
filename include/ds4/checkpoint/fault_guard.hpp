// What keeps a program alive whose mapped files are shortened, or cannot be read, while in use.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include <sys/mman.h>
#include <unistd.h>

#include <ds4/core/mapped_file.hpp>

namespace ds4::inline v0_1 {

/// While it lives, bytes of a MappedFile that cannot be read are zeros from then on, instead of the
/// process being killed by SIGBUS; MappedFile::check() tells, and the pass that read them ends in a
/// ds4::Error. Other faults go to the handler that was there before. It is for a program's main():
/// signal handlers belong to the process, so the library installs none by itself. Several may live
/// at once, on any threads: the first puts the handler there, the last one takes it away.
class FaultGuard {
 public:
  FaultGuard() {
    const std::scoped_lock lock(guards().mutex);
    if (guards().count++ > 0) return;
    struct sigaction action{};
    action.sa_sigaction = &handle;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &before());
  }
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
  ~FaultGuard() {
    const std::scoped_lock lock(guards().mutex);
    if (--guards().count == 0) ::sigaction(SIGBUS, &before(), nullptr);
  }

 private:
  /// Everything here may be called in a signal handler.
  static void handle(int signal, siginfo_t* info, void* context) {
    const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
    for (detail::MappedRange& range : detail::mapped_ranges) {
      const std::uintptr_t end = range.end_behind(address);
      if (end == 0) continue;
      range.mark_broken();  // before anybody can read the zeros
      const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
      const std::uintptr_t begin = address / page * page;
      void* const place = static_cast<std::byte*>(info->si_addr) - (address - begin);
      // Of a file that was shortened, nothing behind this page is there either.
      if (::mmap(place, end - begin, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
          place) {
        return;
      }
    }
    if ((before().sa_flags & SA_SIGINFO) != 0 && before().sa_sigaction != nullptr) {
      return before().sa_sigaction(signal, info, context);
    }
    if (before().sa_handler == SIG_DFL || before().sa_handler == SIG_IGN) {
      const bool sent = info->si_code <= 0;  // by a process
      if (sent && before().sa_handler == SIG_IGN) return;
      std::signal(signal, SIG_DFL);
      if (sent) ::raise(signal);
      return;  // a fault comes again, and then ends the process
    }
    before().sa_handler(signal);
  }

  struct Guards {
    std::mutex mutex;
    std::size_t count = 0;  // that live
  };
  static Guards& guards() {
    static Guards guards;
    return guards;
  }

  /// The handler that was there before.
  static struct sigaction& before() {
    static struct sigaction action{};
    return action;
  }
};

}  // namespace ds4::inline v0_1
