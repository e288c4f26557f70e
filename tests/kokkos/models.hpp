// Models that more than one test runs: each is compiled once, in the test of its golden data.
#pragma once

#include <kokkos/spaces.hpp>

#include <ds4/model.hpp>
#include <ds4/models/quant_config.hpp>
#include <ds4/models/tiny_flash_config.hpp>

/// Compiles a configuration's model on every space, or with `extern` says that another file does.
#define DS4_HOST_MODELS(maybe_extern, Config)                                        \
  DS4_ON_SERIAL(maybe_extern template class ds4::Model<Config, DS4_SERIAL_BACKEND>;) \
  DS4_ON_OPENMP(maybe_extern template class ds4::Model<Config, DS4_OPENMP_BACKEND>;)

DS4_HOST_MODELS(extern, ds4::models::quant)
DS4_HOST_MODELS(extern, ds4::models::tiny_flash)
