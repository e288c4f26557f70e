# cmake -DNM=<nm> -DOBJECTS=<a,b,...> [-DOPTIMISED=ON] -P kernel_symbols.cmake: what the objects of kernels
# share with others. The linker keeps one of the functions that have one name: one that was compiled for
# another instruction set must name this set. Of functions that are not ds4's only those of optimised
# builds count, where compilers have nothing of them left; of xsimd's not those for NEON, which are the same
# in both of Arm's sets: these differ by instructions that compilers take where they are told to.
cmake_minimum_required(VERSION 3.25)

# Sets ${out} to the weak functions of an object that do not name an instruction set.
function(find_shared out object)
  execute_process(COMMAND "${NM}" --demangle --defined-only "${object}" OUTPUT_VARIABLE text
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE ";" "," text "${text}")
  string(REPLACE "[" "{" text "${text}")
  string(REPLACE "]" "}" text "${text}")
  string(REPLACE "\n" ";" lines "${text}")
  set(shared "")
  foreach(line IN LISTS lines)
    if(NOT line MATCHES "^[0-9a-f]+ [Ww] (.*)$")
      continue()
    endif()
    set(symbol "${CMAKE_MATCH_1}")
    if(symbol MATCHES "simd::Avx|xsimd::avx|xsimd::fma3|kernels_of_avx|simd::NeonBf16|kernels_of_neon" OR
       symbol MATCHES "^xsimd::kernel::wrap::v|xsimd::neon64" OR
       NOT (OPTIMISED OR symbol MATCHES "ds4::"))
      continue()
    endif()
    list(APPEND shared "${symbol}")
  endforeach()
  set(${out} "${shared}" PARENT_SCOPE)
endfunction()

string(REPLACE "," ";" objects "${OBJECTS}")
set(kernels 0)
set(seen "")
foreach(object IN LISTS objects)
  if(object MATCHES "/(training_)?(avx[0-9]+|neon_bf16)\\.cpp")
    math(EXPR kernels "${kernels} + 1")
    find_shared(shared "${object}")
    foreach(symbol IN LISTS shared)
      message(SEND_ERROR "${object}: found ${symbol}, expected a function of its instruction set or none")
    endforeach()
  elseif(object MATCHES "/dispatch\\.cpp")
    find_shared(seen "${object}")
  endif()
endforeach()
if(kernels EQUAL 0)
  message("SKIPPED: this family of processors has one instruction set")
elseif(NOT seen MATCHES "ds4::[a-z0-9_]+::Error::Error\\(")  # no kernel: it would be found
  message(FATAL_ERROR "expected ds4::Error among the shared functions of the dispatch, found '${seen}'")
endif()
