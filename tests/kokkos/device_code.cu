// A whole model on Kokkos::Cuda, for the configuration DS4_CONFIG: scripts/test-kokkos compiles it.
#include <ds4/kernels/kokkos.hpp>
#include <ds4/model.hpp>

template class ds4::Model<DS4_CONFIG, ds4::KokkosBackend<Kokkos::Cuda>>;
