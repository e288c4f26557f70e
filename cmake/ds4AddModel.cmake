# Configuration types from config.json.
#
#   ds4_add_model(<target> CONFIG <config.json>... NAME <cpp_identifier> [BACKENDS <backend>...])
#     gives <target> the header <ds4/models/NAME.hpp> with struct ds4::models::NAME, a configuration
#     as ds4::Flash is one, and compiles ds4::Model for it into <target>, once for each backend
#     (reference alone by default). <target> has to link ds4::reference, ds4::simd, ds4::kokkos or ds4::mpi
#     accordingly and compiles sources of its own. With simd it gets the kernels of every instruction
#     set as well: see ds4AddSimdKernels.cmake. Several files are of one model whose checkpoints have
#     different drafters: the type allows for all of them.
#   ds4_add_model_config(<target> CONFIG <config.json>... NAME <cpp_identifier>)
#     the struct alone, <ds4/models/NAME_config.hpp>. It is written when <target>, or what links it,
#     is built; a target that only has its include directory depends on <target>_NAME_config.
#   cmake "-DCONFIG=<config.json>;..." -DNAME=<cpp_identifier> [-DBACKENDS=reference] -DOUT=<folder> -P ds4AddModel.cmake
#     for other build systems: writes OUT/ds4/models/NAME.hpp and NAME_on_*.cpp, which are to be
#     compiled with -I OUT. Takes the compiler of the environment's CXX, or c++, with its CPPFLAGS.
#
# The file is read by model_header.cpp, a program that is compiled first, once for all models. Where
# the project is compiled for another machine, CMake runs it on CMAKE_CROSSCOMPILING_EMULATOR; without
# one, use the script with a compiler for this machine.

include_guard(GLOBAL)
cmake_policy(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/ds4AddDefinitions.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/ds4AddSimdKernels.cmake")

# Sets ${out} to the absolute paths of CONFIG, in ARGN. Ends the configuration unless NAME can name a
# type and a file, and these are files.
function(_ds4_check_model out name)
  if(NOT name MATCHES "^[A-Za-z_][A-Za-z0-9_]*$")
    message(FATAL_ERROR "ds4_add_model: NAME: expected a C++ identifier, found ${name}")
  endif()
  set(configs "")
  foreach(config IN LISTS ARGN)
    cmake_path(ABSOLUTE_PATH config)
    if(NOT EXISTS "${config}" OR IS_DIRECTORY "${config}")
      message(FATAL_ERROR "ds4_add_model: ${config}: expected a config.json, found none")
    endif()
    list(APPEND configs "${config}")
  endforeach()
  set(${out} "${configs}" PARENT_SCOPE)
endfunction()

function(ds4_add_model_config target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "NAME" "CONFIG")
  if(NOT arg_CONFIG OR NOT arg_NAME OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR
      "ds4_add_model: expected <target> CONFIG <config.json>... NAME <cpp_identifier>, found ${ARGV}")
  endif()
  _ds4_check_model(configs "${arg_NAME}" ${arg_CONFIG})
  if(NOT TARGET ds4_generator)
    add_executable(ds4_generator EXCLUDE_FROM_ALL
                   "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/model_header.cpp")
    target_link_libraries(ds4_generator PRIVATE ds4::ds4)
    target_compile_options(ds4_generator PRIVATE -O0)  # compiles in half the time, runs for a moment
  endif()
  set(include_dir "${CMAKE_CURRENT_BINARY_DIR}/ds4_models/${target}")
  set(header "${include_dir}/ds4/models/${arg_NAME}_config.hpp")
  add_custom_command(OUTPUT "${header}" DEPENDS ds4_generator ${configs}
                     COMMAND ds4_generator ${arg_NAME} "${header}" ${configs}
                     COMMENT "Configuration ${arg_NAME}" VERBATIM)
  # A target, so that whatever links this one waits for the header as well.
  add_custom_target(${target}_${arg_NAME}_config DEPENDS "${header}")
  add_dependencies(${target} ${target}_${arg_NAME}_config)
  target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${include_dir}>")
endfunction()

# Writes a file unless it has this content already: nothing is compiled again then.
function(_ds4_write path content)
  if(EXISTS "${path}")
    file(READ "${path}" present)
    if(present STREQUAL content)
      return()
    endif()
  endif()
  file(WRITE "${path}" "${content}")
endfunction()

# Writes NAME.hpp below a folder, and one source for each backend in ARGN; sets ${out} to the sources.
function(_ds4_write_model out folder name)
  include("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/ds4Backends.cmake")
  set(base "${folder}/ds4/models/${name}")
  set(includes "")
  set(declarations "")
  set(sources "")
  foreach(backend IN LISTS ARGN)
    if(NOT backend IN_LIST ds4_backends)
      message(FATAL_ERROR "ds4_add_model: BACKENDS: expected ${ds4_backends_in_words}, found ${backend}")
    endif()
    set(model "class ds4::Model<ds4::models::${name}, ${ds4_type_${backend}}>")
    string(APPEND includes "#include <ds4/kernels/${backend}.hpp>\n")
    string(APPEND declarations "extern template ${model};\n")
    _ds4_write("${base}_on_${backend}.cpp" "// Written by ds4_add_model(), do not edit.
#include <ds4/kernels/${backend}.hpp>
#include <ds4/model.hpp>

#include <ds4/models/${name}_config.hpp>

template ${model};
")
    list(APPEND sources "${base}_on_${backend}.cpp")
  endforeach()
  _ds4_write("${base}.hpp" "// ds4::Model for ${name}, compiled in ${name}_on_*.cpp; written by ds4_add_model(), do not edit.
#pragma once

${includes}#include <ds4/model.hpp>

#include <ds4/models/${name}_config.hpp>

${declarations}")
  set(${out} "${sources}" PARENT_SCOPE)
endfunction()

function(ds4_add_model target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "NAME" "CONFIG;BACKENDS")
  if(NOT arg_BACKENDS)
    set(arg_BACKENDS reference)
  endif()
  ds4_add_model_config(${target} CONFIG ${arg_CONFIG} NAME "${arg_NAME}" ${arg_UNPARSED_ARGUMENTS})
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/ds4_models/${target}")
  _ds4_write_model(sources "${folder}" ${arg_NAME} ${arg_BACKENDS})
  target_sources(${target} PRIVATE ${sources})
  ds4_add_definitions(${target})
  if("simd" IN_LIST arg_BACKENDS OR "mpi" IN_LIST arg_BACKENDS)
    ds4_add_simd_kernels(${target})
  endif()
endfunction()

# Compiles model_header.cpp, runs it and removes it.
function(_ds4_run_generator name folder)
  set(here "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
  separate_arguments(compiler UNIX_COMMAND "$ENV{CXX}")
  if(NOT compiler)
    set(compiler c++)
  endif()
  separate_arguments(flags UNIX_COMMAND "$ENV{CPPFLAGS}")
  list(PREPEND flags -I "${here}/../include" -I "${here}/../../../include")  # source tree, prefix
  set(generator "${folder}/ds4_generator_${name}")
  file(MAKE_DIRECTORY "${folder}")
  execute_process(COMMAND ${compiler} -std=c++20 -O0 "${here}/model_header.cpp" -o "${generator}"
                          ${flags}
                  RESULT_VARIABLE result ERROR_VARIABLE errors)
  if(result EQUAL 0)
    execute_process(COMMAND "${generator}" ${name} "${folder}/ds4/models/${name}_config.hpp" ${ARGN}
                    RESULT_VARIABLE result ERROR_VARIABLE errors)
  endif()
  file(REMOVE "${generator}")
  if(NOT result EQUAL 0)
    string(STRIP "${errors}" errors)
    string(REPLACE "\n" "\n  " errors "${errors}")  # CMake does not wrap indented lines
    message(FATAL_ERROR "ds4_add_model: ${name}: ${result}\n  ${errors}")
  endif()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  foreach(variable IN ITEMS CONFIG NAME OUT)
    if(NOT ${variable})
      message(FATAL_ERROR "ds4_add_model: expected -D${variable}=..., found none")
    endif()
  endforeach()
  if(NOT BACKENDS)
    set(BACKENDS reference)
  endif()
  cmake_path(ABSOLUTE_PATH OUT)
  _ds4_check_model(configs "${NAME}" ${CONFIG})
  _ds4_run_generator(${NAME} "${OUT}" ${configs})
  _ds4_write_model(ignored "${OUT}" ${NAME} ${BACKENDS})
endif()
