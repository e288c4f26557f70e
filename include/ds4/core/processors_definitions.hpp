// What processors.hpp declares.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include <ds4/core/linkage.hpp>
#include <ds4/core/processors.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// The whole text as a number, e.g. "-1".
inline std::optional<long long> whole_number(std::string_view text) {
  long long value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size()) return {};
  return value;
}

/// The parts of a text between separators.
inline std::vector<std::string_view> parts_of(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

/// The first line of a file, "" if there is none; of files that the system writes, at most a page.
inline std::string first_line(const std::filesystem::path& file) {
  std::string line(4096, '\0');
  std::ifstream stream(file, std::ios::binary);
  stream.read(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(static_cast<std::size_t>(std::max<std::streamsize>(stream.gcount(), 0)));
  return line.substr(0, line.find('\n'));
}

/// A list of processors as the kernel writes it, "0-3,8", as first and last numbers; none if it is
/// malformed.
inline std::vector<std::pair<long long, long long>> processor_ranges(std::string_view list) {
  std::vector<std::pair<long long, long long>> ranges;
  if (list.empty()) return {};
  for (const std::string_view part : parts_of(list, ',')) {
    const auto ends = parts_of(part, '-');
    const auto first = whole_number(ends.front());
    const auto last = whole_number(ends.back());
    if (ends.size() > 2 || !first || !last || *first < 0 || *last < *first) return {};
    ranges.emplace_back(*first, *last);
  }
  return ranges;
}

/// A path of /proc/self/mountinfo: blanks are "\040" there.
inline std::string mounted_path(std::string_view text) {
  std::string path;
  while (!text.empty()) {
    int code = 0;
    if (text.size() >= 4 && text[0] == '\\' &&
        std::from_chars(text.data() + 1, text.data() + 4, code, 8).ptr == text.data() + 4) {
      path += static_cast<char>(code);
      text.remove_prefix(4);
    } else {
      path += text.front();
      text.remove_prefix(1);
    }
  }
  return path;
}

/// A mounted hierarchy of control groups, of those that limit processors.
struct GroupMount {
  bool version2;
  std::string root;   ///< the group that is mounted
  std::string point;  ///< where
};

inline std::vector<GroupMount> group_mounts(const std::filesystem::path& root) {
  std::vector<GroupMount> mounts;
  std::ifstream stream(root / "proc/self/mountinfo", std::ios::binary);
  for (std::string line; std::getline(stream, line);) {
    // id parent device root point options [tags] - type source options
    const auto words = parts_of(line, ' ');
    const auto dash = std::ranges::find(words, "-");
    if (dash - words.begin() < 6 || words.end() - dash < 4) continue;
    const bool version2 = dash[1] == "cgroup2";
    if (!version2) {
      const auto options = parts_of(dash[3], ',');
      if (dash[1] != "cgroup" || std::ranges::find(options, "cpu") == options.end()) continue;
    }
    mounts.push_back({version2, mounted_path(words[3]), mounted_path(words[4])});
  }
  return mounts;
}

/// The path of the process's group in a hierarchy.
inline std::optional<std::string> group_path(const std::filesystem::path& root, bool version2) {
  std::ifstream stream(root / "proc/self/cgroup", std::ios::binary);
  for (std::string line; std::getline(stream, line);) {
    // id:controllers:path; version 2 has id 0 and names no controllers
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = std::string_view(line).substr(first + 1, second - first - 1);
    const auto names = parts_of(controllers, ',');
    const bool fits = version2 ? controllers.empty() && line.starts_with("0:")
                               : std::ranges::find(names, "cpu") != names.end();
    if (fits) return line.substr(second + 1);
  }
  return {};
}

/// The quota of one group: what it may use of a period.
inline std::optional<double> group_quota(const std::filesystem::path& group, bool version2) {
  std::optional<long long> used;
  std::optional<long long> period;
  if (version2) {
    const std::string line = first_line(group / "cpu.max");  // "max 100000": no limit
    const auto words = parts_of(line, ' ');
    if (words.size() != 2) return {};
    used = whole_number(words[0]);
    period = whole_number(words[1]);
  } else {
    used = whole_number(first_line(group / "cpu.cfs_quota_us"));  // -1: no limit
    period = whole_number(first_line(group / "cpu.cfs_period_us"));
  }
  if (!used || !period || *used <= 0 || *period <= 0) return {};
  return static_cast<double>(*used) / static_cast<double>(*period);
}

}  // namespace detail

DS4_FUNCTION std::vector<int> allowed_processors() {
  std::vector<int> allowed;
#if defined(__linux__)
  // A mask that is too small for the machine is refused.
  for (std::size_t most = CPU_SETSIZE; most <= (std::size_t{1} << 20); most *= 2) {
    cpu_set_t* const mask = CPU_ALLOC(most);
    if (mask == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    const bool told = ::sched_getaffinity(0, bytes, mask) == 0;
    for (std::size_t i = 0; told && i < most; ++i) {
      if (CPU_ISSET_S(i, bytes, mask)) allowed.push_back(static_cast<int>(i));
    }
    CPU_FREE(mask);
    if (told) break;
  }
#endif
  return allowed;
}

DS4_FUNCTION std::vector<int> one_processor_per_core(const std::vector<int>& allowed,
                                                     const std::filesystem::path& root) {
  const auto siblings_of = [&](int processor) {
    const auto folder =
        root / "sys/devices/system/cpu" / ("cpu" + std::to_string(processor)) / "topology";
    auto siblings = detail::processor_ranges(detail::first_line(folder / "core_cpus_list"));
    if (siblings.empty()) {  // the name before Linux 5.4
      siblings = detail::processor_ranges(detail::first_line(folder / "thread_siblings_list"));
    }
    return siblings;
  };
  std::vector<int> cores;
  std::vector<std::pair<long long, long long>> taken;  // processors of these cores
  for (const int processor : allowed) {
    const auto has_it = [&](const auto& range) {
      return processor >= range.first && processor <= range.second;
    };
    if (std::ranges::any_of(taken, has_it)) continue;
    cores.push_back(processor);
    const auto siblings = siblings_of(processor);
    taken.insert(taken.end(), siblings.begin(), siblings.end());
  }
  return cores;
}

DS4_FUNCTION std::optional<double> processor_quota(const std::filesystem::path& root) {
  std::optional<double> smallest;
  for (const detail::GroupMount& mount : detail::group_mounts(root)) {
    const auto path = detail::group_path(root, mount.version2);
    if (!path) continue;
    const std::filesystem::path top = root / std::filesystem::path(mount.point).relative_path();
    // Where the group's path is not below the group that is mounted, as in a container that has a
    // view of its own, the mounted one is all that can be seen.
    const auto below = std::filesystem::path(*path).lexically_relative(mount.root);
    std::filesystem::path group = top;
    if (!below.empty() && *below.begin() != "..") group /= below;
    for (group = group.lexically_normal();; group = group.parent_path()) {
      const auto quota = detail::group_quota(group, mount.version2);
      if (quota && (!smallest || *quota < *smallest)) smallest = quota;
      if (group == top.lexically_normal() || group == group.parent_path()) break;
    }
  }
  return smallest;
}

DS4_FUNCTION std::size_t usable_processors(const std::vector<int>& allowed,
                                           const std::filesystem::path& root) {
  std::size_t count = one_processor_per_core(allowed, root).size();
  if (allowed.empty()) count = std::thread::hardware_concurrency();  // where no mask can be read
  if (const auto quota = processor_quota(root); quota && *quota < static_cast<double>(count)) {
    count = static_cast<std::size_t>(*quota);
  }
  return std::max<std::size_t>(count, 1);
}

}  // namespace ds4::inline v0_1
