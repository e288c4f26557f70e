// Kokkos::Serial for a library of Kokkos that was built without it, so that the tests can run there
// too: scripts/test-kokkos links this to them. What Kokkos' headers declare of the space and its
// library would define; one thread, and Kokkos' own scratch layout for teams.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <new>
#include <ostream>
#include <string>
#include <vector>

#define KOKKOS_IMPL_PUBLIC_INCLUDE
#include <Kokkos_Core.hpp>
#include <impl/Kokkos_ExecSpaceManager.hpp>

namespace Kokkos::Impl {

namespace {

constexpr std::align_val_t kAlignment{64};
constexpr std::size_t kLeastReduction = 512;  // bytes; Kokkos' teams take them for granted

void release(HostThreadTeamData& team) {
  if (team.scratch_buffer() == nullptr) return;
  team.disband_team();
  team.disband_pool();
  ::operator delete(team.scratch_buffer(), kAlignment);
  team.scratch_assign(nullptr, 0, 0, 0, 0, 0);
}

}  // namespace

HostSharedPtr<SerialInternal> SerialInternal::default_instance;
std::vector<SerialInternal*> SerialInternal::all_instances;
std::mutex SerialInternal::all_instances_mutex;

SerialInternal::SerialInternal() {
  const std::scoped_lock lock(all_instances_mutex);
  all_instances.push_back(this);
}

SerialInternal::~SerialInternal() {
  release(m_thread_team_data);
  const std::scoped_lock lock(all_instances_mutex);
  std::erase(all_instances, this);
}

void SerialInternal::fence(const std::string&) {
  const std::scoped_lock lock(m_instance_mutex);
  memory_fence();
}

void SerialInternal::resize_thread_team_data(std::size_t pool_reduce, std::size_t team_reduce,
                                             std::size_t team_shared, std::size_t thread_local_) {
  auto& team = m_thread_team_data;
  pool_reduce = std::max({pool_reduce, kLeastReduction, team.pool_reduce_bytes()});
  team_reduce = std::max({team_reduce, kLeastReduction, team.team_reduce_bytes()});
  team_shared = std::max(team_shared, team.team_shared_bytes());
  thread_local_ = std::max(thread_local_, team.thread_local_bytes());
  const std::size_t bytes =
      HostThreadTeamData::scratch_size(pool_reduce, team_reduce, team_shared, thread_local_);
  if (bytes <= team.scratch_bytes()) return;

  release(team);
  team.scratch_assign(::operator new(bytes, kAlignment), bytes, static_cast<int>(pool_reduce),
                      static_cast<int>(team_reduce), team_shared, thread_local_);
  HostThreadTeamData* pool[] = {&team};
  HostThreadTeamData::organize_pool(pool, 1);
  team.organize_team(1);
}

// Copies of host memory, where Serial is the default space of the host.
void hostspace_fence(const Serial& space) { space.fence("ds4: fence of host memory"); }

template <>
void hostspace_parallel_deepcopy_async(const Serial&, void* to, const void* from,
                                       std::ptrdiff_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

namespace {
[[maybe_unused]] const int registered = initialize_space_factory<Serial>("100_Serial");
}

}  // namespace Kokkos::Impl

namespace Kokkos {

Serial::Serial() : m_space_instance(Impl::SerialInternal::default_instance) {}
Serial::Serial(NewInstance) : m_space_instance(new Impl::SerialInternal) {}
Serial::~Serial() = default;

void Serial::impl_initialize(const InitializationSettings&) {
  Impl::SerialInternal::default_instance =
      Impl::HostSharedPtr<Impl::SerialInternal>(new Impl::SerialInternal);
}
void Serial::impl_finalize() { Impl::SerialInternal::default_instance = nullptr; }

void Serial::print_configuration(std::ostream& os, bool) const { os << "Serial, of ds4's tests\n"; }
const char* Serial::name() { return "Serial"; }

}  // namespace Kokkos
