# cmake -DCOMPILER=... -DFLAGS=... -DINCLUDES=... -P light_host.cmake: a source that is compiled with
# DS4_COMPILED, as one of a host that links a compiled model, reads neither Eigen nor nlohmann-json, and
# without it both.
cmake_minimum_required(VERSION 3.25)
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
list(TRANSFORM INCLUDES PREPEND -I OUTPUT_VARIABLE includes)
set(source "${OUT}/light_host.cpp")
file(WRITE "${source}" "#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/tokenizer.hpp>
")
foreach(definition IN ITEMS "" -DDS4_COMPILED)
  execute_process(COMMAND ${COMPILER} ${flags} -std=c++20 ${definition} ${includes} -M "${source}"
                  OUTPUT_VARIABLE headers COMMAND_ERROR_IS_FATAL ANY)
  foreach(header IN ITEMS "/Eigen/Core" "nlohmann/json.hpp")
    string(FIND "${headers}" "${header}" at)
    if(definition AND NOT at EQUAL -1)
      message(SEND_ERROR "with DS4_COMPILED: expected no ${header}, found it")
    elseif(NOT definition AND at EQUAL -1)
      message(SEND_ERROR "without DS4_COMPILED: expected ${header}, found none")
    endif()
  endforeach()
endforeach()
