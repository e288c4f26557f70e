# ds4_add_simd_kernels(<target> [TRAINING]): compiles the SIMD kernels of every instruction set of this
# processor family into a target, with TRAINING also those for training, and the choice among them at
# run time; see ds4/kernels/simd/dispatch.hpp. The target links ds4::simd. ds4_add_model() calls it where
# BACKENDS has simd; a program that instantiates ds4::Simd itself, or ds4::SimdTraining, calls it. What
# the target has from another that it links is not added again.

include_guard(GLOBAL)
include("${CMAKE_CURRENT_LIST_DIR}/ds4AddDefinitions.cmake")

set(DS4_SIMD_SETS "" CACHE STRING
    "Instruction sets that SIMD kernels are compiled for beside baseline, e.g. avx2; all unless told")

# The kernels of one header: a source for each set and one for the choice. The target and what links it
# are compiled with DS4_<part>_COMPILED.
function(_ds4_add_kernels target part DS4_SIMD_HEADER DS4_SIMD_KERNELS DS4_SIMD_PREFIX)
  _ds4_has(has DS4_${part}_KERNELS ${target} "")
  if(has)
    return()
  endif()
  set_target_properties(${target} PROPERTIES DS4_${part}_KERNELS ON)
  target_compile_definitions(${target} PUBLIC DS4_${part}_COMPILED)

  set(sets "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    # Name, type, what the processor must support, flags. Best first.
    set(avx512_needs avx512f avx512bw avx512dq avx512vl avx512cd avx512bf16 avx512vnni avx512vbmi)
    list(TRANSFORM avx512_needs PREPEND "-m" OUTPUT_VARIABLE avx512_flags)
    list(APPEND avx512_flags -mavx2 -mfma -mf16c -mprefer-vector-width=512)
    set(avx2_needs avx2 fma f16c)
    set(avx2_flags -mavx2 -mfma -mf16c)
    set(sets avx512:Avx512 avx2:Avx2)
    set(has "__builtin_cpu_supports(\"NEED\")")
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64" AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
    set(neon_bf16_needs BF16)
    set(neon_bf16_flags -march=armv8.2-a+bf16)
    set(sets neon_bf16:NeonBf16)
    set(has "(::getauxval(AT_HWCAP2) & HWCAP2_NEED) != 0")
  endif()
  if(DS4_SIMD_SETS)
    list(JOIN DS4_SIMD_SETS "|" chosen)
    list(FILTER sets INCLUDE REGEX "^(${chosen}):")
  endif()
  list(APPEND sets baseline:Baseline)

  set(templates "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/simd")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/ds4_simd/${target}")
  set(DS4_SIMD_DECLARATIONS "")
  set(DS4_SIMD_CHECKS "")
  set(names "")
  foreach(entry IN LISTS sets)
    string(REPLACE ":" ";" entry "${entry}")
    list(GET entry 0 DS4_SIMD_NAME)
    list(GET entry 1 DS4_SIMD_TYPE)
    set(source "${folder}/${DS4_SIMD_PREFIX}${DS4_SIMD_NAME}.cpp")
    configure_file("${templates}/kernels.cpp.in" "${source}" @ONLY)
    # Optimised without a build type and for debugging, too: of each function of the standard library
    # that is not inlined the linker keeps one, which could be that of another instruction set.
    # GCC 12 takes the undefined operand of some AVX-512 intrinsics for a mistake.
    set(flags ${${DS4_SIMD_NAME}_flags}
        $<$<OR:$<NOT:$<BOOL:$<CONFIG>>>,$<CONFIG:Debug>>:-O2>
        $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>)
    set_source_files_properties("${source}" TARGET_DIRECTORY ${target} PROPERTIES
                                COMPILE_OPTIONS "${flags}" SKIP_UNITY_BUILD_INCLUSION ON)
    target_sources(${target} PRIVATE "${source}")

    list(APPEND names "\"${DS4_SIMD_NAME}\"")
    set(kernels ${DS4_SIMD_PREFIX}kernels_of_${DS4_SIMD_NAME})
    string(APPEND DS4_SIMD_DECLARATIONS "const ${DS4_SIMD_KERNELS}& ${kernels}();\n")
    set(supported "")
    foreach(need IN LISTS ${DS4_SIMD_NAME}_needs)
      string(REPLACE NEED "${need}" check "${has}")
      list(APPEND supported "${check}")
    endforeach()
    list(JOIN supported " && " supported)
    if(supported)
      set(supported "if (${supported}) ")
    endif()
    string(APPEND DS4_SIMD_CHECKS "  ${supported}found.push_back({\"${DS4_SIMD_NAME}\", ${kernels}});\n")
  endforeach()
  set(DS4_SIMD_COMPILED_SETS "")
  if(part STREQUAL "SIMD")
    list(JOIN names ", " names)
    set(DS4_SIMD_COMPILED_SETS
        "[[gnu::weak]] std::vector<std::string_view> compiled_sets() { return {${names}}; }\n\n")
  endif()
  set(dispatch "${folder}/${DS4_SIMD_PREFIX}dispatch.cpp")
  configure_file("${templates}/dispatch.cpp.in" "${dispatch}" @ONLY)
  set_source_files_properties("${dispatch}" TARGET_DIRECTORY ${target} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  target_sources(${target} PRIVATE "${dispatch}")
endfunction()

function(ds4_add_simd_kernels target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TRAINING" "" "")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ds4_add_simd_kernels: expected <target> [TRAINING], found ${ARGV}")
  endif()
  _ds4_add_kernels(${target} SIMD kernels.hpp Kernels "")
  if(arg_TRAINING)
    _ds4_add_kernels(${target} SIMD_TRAINING training/table.hpp TrainingKernels training_)
  endif()
endfunction()
