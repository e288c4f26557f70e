// Tests of ds4/core/processors.hpp.
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <ds4/core/processors.hpp>
#include <support/files.hpp>

namespace {

using ds4::one_processor_per_core;
using ds4::processor_quota;
using ds4::usable_processors;
using Processors = std::vector<int>;

// A made-up machine: the folder that has its proc/ and sys/.
class Machine {
 public:
  void write(const std::string& name, std::string_view content) {
    std::filesystem::create_directories((dir_.path() / name).parent_path());
    dir_.write(name, content);
  }
  void siblings(int processor, std::string_view list, const std::string& name = "core_cpus_list") {
    write("sys/devices/system/cpu/cpu" + std::to_string(processor) + "/topology/" + name,
          std::string(list) + "\n");
  }
  // The hierarchies of control groups: where they are mounted, and which groups the process is in.
  void version1(const std::string& path, const std::string& mounted = "/") {
    write("proc/self/cgroup", "5:memory:/else\n3:cpuset:/else\n2:cpuacct,cpu:" + path + "\n0::/\n");
    write("proc/self/mountinfo",
          "20 1 0:3 / /proc rw - proc proc rw\n"
          "31 20 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
          "32 20 0:31 " +
              mounted +
              " /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpuacct,cpu\n");
  }
  void version2(const std::string& path, const std::string& mounted = "/",
                const std::string& point = "/sys/fs/cgroup") {
    write("proc/self/cgroup", "0::" + path + "\n");
    write("proc/self/mountinfo", "20 1 0:3 / /proc rw - proc proc rw\n31 20 0:30 " + mounted + " " +
                                     point + " rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  void quota1(const std::string& group, std::string_view quota, std::string_view period) {
    const std::string folder = "sys/fs/cgroup/cpu,cpuacct" + group;
    write(folder + "/cpu.cfs_quota_us", std::string(quota) + "\n");
    write(folder + "/cpu.cfs_period_us", std::string(period) + "\n");
  }
  void quota2(const std::string& group, std::string_view line) {
    write("sys/fs/cgroup" + group + "/cpu.max", std::string(line) + "\n");
  }

  std::filesystem::path root() const { return dir_.path(); }
  std::optional<double> quota() const { return processor_quota(root()); }
  std::size_t usable(const Processors& allowed) const { return usable_processors(allowed, root()); }

 private:
  ds4::test::TempDir dir_;
};

const Processors kEight{0, 1, 2, 3, 4, 5, 6, 7};

TEST_CASE("processors: one of each core, of those that are allowed") {
  Machine machine;
  for (int i = 0; i < 4; ++i) {
    const std::string pair = std::to_string(i) + "," + std::to_string(i + 4);
    machine.siblings(i, pair);
    machine.siblings(i + 4, pair);
  }
  CHECK(one_processor_per_core(kEight, machine.root()) == Processors{0, 1, 2, 3});
  // A mask that has only one of two siblings, and one that has both.
  CHECK(one_processor_per_core({5, 6}, machine.root()) == Processors{5, 6});
  CHECK(one_processor_per_core({1, 3, 5}, machine.root()) == Processors{1, 3});
  CHECK(one_processor_per_core({6}, machine.root()) == Processors{6});
  CHECK(one_processor_per_core({}, machine.root()).empty());
  CHECK(machine.usable(kEight) == 4);
  CHECK(machine.usable({1, 5}) == 1);
}

TEST_CASE("processors: siblings as ranges, and under their older name") {
  Machine machine;
  for (int i = 0; i < 4; ++i) machine.siblings(i, "0-3", "thread_siblings_list");
  for (int i = 4; i < 8; ++i) machine.siblings(i, i < 6 ? "4-5" : "6,7", "thread_siblings_list");
  CHECK(one_processor_per_core(kEight, machine.root()) == Processors{0, 4, 6});
}

TEST_CASE("processors: where siblings cannot be read, each processor is a core") {
  Machine machine;
  CHECK(one_processor_per_core(kEight, machine.root()) == kEight);
  for (const std::string_view list : {"", "0-", "-", "x", "0,1,x", "1-0", "0--1", "0-1-2", "0;1",
                                      " 0-7", "-1-7", "0-99999999999999999999"}) {
    CAPTURE(list);
    for (int i = 0; i < 8; ++i) machine.siblings(i, list);
    CHECK(one_processor_per_core(kEight, machine.root()) == kEight);
  }
  for (int i = 0; i < 8; ++i) machine.siblings(i, "0-9000000000000000000");  // as good as any
  CHECK(one_processor_per_core(kEight, machine.root()) == Processors{0});
}

TEST_CASE("processors: a quota of version 2, and of the groups above") {
  Machine machine;
  machine.version2("/a/b/c");
  CHECK(!machine.quota());
  machine.quota2("/a/b/c", "max 100000");
  CHECK(!machine.quota());
  machine.quota2("/a/b/c", "600000 100000");
  CHECK(machine.quota() == 6.0);
  machine.quota2("/a/b", "max 100000");
  machine.quota2("/a", "350000 100000");
  CHECK(machine.quota() == 3.5);
  CHECK(machine.usable(kEight) == 3);
  CHECK(machine.usable({0, 1}) == 2);
  machine.quota2("/a", "8000000 100000");
  CHECK(machine.quota() == 6.0);
  machine.quota2("", "50000 100000");  // as in a container, whose own group is the top
  CHECK(machine.quota() == 0.5);
  CHECK(machine.usable(kEight) == 1);
}

TEST_CASE("processors: a quota of version 1, and of the groups above") {
  Machine machine;
  machine.version1("/a/b");
  CHECK(!machine.quota());
  machine.quota1("", "-1", "100000");
  machine.quota1("/a/b", "-1", "100000");
  CHECK(!machine.quota());
  machine.quota1("/a/b", "150000", "50000");
  CHECK(machine.quota() == 3.0);
  machine.quota1("/a", "150000", "100000");
  CHECK(machine.quota() == 1.5);
  CHECK(machine.usable(kEight) == 1);
}

TEST_CASE("processors: groups that are mounted in part, or seen from within") {
  Machine machine;
  // Without a view of its own: the container's group is what is mounted.
  machine.version1("/docker/x/inner", "/docker/x");
  machine.quota1("/inner", "400000", "100000");
  CHECK(machine.quota() == 4.0);
  machine.quota1("", "200000", "100000");
  CHECK(machine.quota() == 2.0);
  // A group that is not below the mounted one: this is all that can be seen.
  for (const std::string path : {"/other", "/../other", "/", "/docker/xy/inner"}) {
    CAPTURE(path);
    machine.version1(path, "/docker/x");
    CHECK(machine.quota() == 2.0);
  }
  machine.version2("/../outside");
  machine.quota2("", "300000 100000");
  CHECK(machine.quota() == 3.0);
  // A folder with a blank in its name.
  machine.version2("/", "/", "/my\\040groups");
  machine.write("my groups/cpu.max", "500000 100000\n");
  CHECK(machine.quota() == 5.0);
}

TEST_CASE("processors: quotas that are malformed say nothing") {
  Machine machine;
  machine.version2("/a");
  machine.quota2("", "700000 100000");
  for (const std::string_view line :
       {"", "max", "100000", "0 100000", "100000 0", "-5 100000", "x 100000", "100000 x",
        "100000 100000 1", "1e5 100000", "99999999999999999999 100000"}) {
    CAPTURE(line);
    machine.quota2("/a", line);
    CHECK(machine.quota() == 7.0);
  }
  machine.version1("/a");
  machine.quota1("/a", "abc", "100000");
  CHECK(!machine.quota());
  machine.quota1("/a", "200000", "");
  CHECK(!machine.quota());
}

TEST_CASE("processors: lists of groups and mounts that are malformed say nothing") {
  Machine machine;
  CHECK(!machine.quota());
  CHECK(machine.usable(kEight) == 8);
  machine.version2("/");
  machine.quota2("", "200000 100000");
  REQUIRE(machine.quota() == 2.0);
  for (const std::string_view text : {"", "\n", "0", "0:", ":::", "0:/", "1:memory:/\n"}) {
    CAPTURE(text);
    machine.write("proc/self/cgroup", text);
    CHECK(!machine.quota());
  }
  machine.version2("/");
  for (const std::string_view text :
       {"", "-", "- cgroup2", "1 2 3 / /sys/fs/cgroup - cgroup2", "\n\n",
        "1 2 3 / /sys/fs/cgroup rw - cgroup2 x", "1 2 3 / /sys/fs/cgroup rw cgroup2 x rw"}) {
    CAPTURE(text);
    machine.write("proc/self/mountinfo", text);
    CHECK(!machine.quota());
  }
  machine.write("proc/self/mountinfo", "1 2 3 / /sys/fs/cgroup\\04 rw - cgroup2 cgroup2 rw\n");
  CHECK(!machine.quota());
}

TEST_CASE("processors: of this thread, and not of the machine") {
  const Processors allowed = ds4::allowed_processors();
  const std::size_t usable = usable_processors();
  CHECK(usable >= 1);
#if defined(__linux__)
  REQUIRE(!allowed.empty());
  CHECK(usable <= allowed.size());
  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(allowed.back(), &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(ds4::allowed_processors() == Processors{allowed.back()});
  CHECK(usable_processors() == 1);
  REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
  CHECK(ds4::allowed_processors() == allowed);
#endif
}

}  // namespace
