# Configuration types from config.json, at configure time and without Python.
#
#   ds4_add_model(<target> CONFIG <config.json> NAME <cpp_identifier> [BACKENDS reference simd kokkos])
#     gives <target> the header <ds4/models/NAME.hpp> with struct ds4::models::NAME, a configuration
#     as ds4::Flash is one, and compiles ds4::Model for it into <target>, once for each backend
#     (reference alone by default). Configures again when the file changes. <target> has to link
#     ds4::reference, ds4::simd or ds4::kokkos and compiles sources of its own.
#   ds4_add_model_config(<target> CONFIG <config.json> NAME <cpp_identifier>)
#     the struct alone, <ds4/models/NAME_config.hpp>.
#   ds4_model_header(<variable> <config.json> <cpp_identifier>)
#     the text of that header; also for cmake -P.
#   cmake -DCONFIG=<config.json> -DNAME=<cpp_identifier> [-DBACKENDS=reference] -DOUT=<folder> -P ds4AddModel.cmake
#     for other build systems: writes OUT/ds4/models/NAME.hpp and NAME_on_*.cpp, which are to be
#     compiled with -I OUT.
#
# Reads what ds4::read_config() (ds4/config/config_json.hpp) reads and refuses what it refuses:
# keep the two in step. Relations between fields are left to ds4::checked_config().

include_guard(GLOBAL)
cmake_policy(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/ds4AddDefinitions.cmake")

# The functions with a leading underscore see the variables of ds4_model_header(): json, the text of
# the file, and problems and missing, what is wrong with it so far.

# Sets ${out} to the value at a dotted path, "" where it is absent or null. Records a value that is
# not of the kind INTEGER, REAL, STRING, BOOLEAN or ARRAY.
function(_ds4_read out kind path)
  string(REPLACE "." ";" keys "${path}")
  string(JSON type ERROR_VARIABLE error TYPE "${json}" ${keys})
  set(value "")
  if(error STREQUAL "NOTFOUND" AND NOT type STREQUAL "NULL")
    string(JSON value GET "${json}" ${keys})
    set(fits NO)
    if(kind STREQUAL "INTEGER")
      if(type STREQUAL "NUMBER" AND value MATCHES "^[0-9]+$" AND value LESS_EQUAL 2147483647)
        set(fits YES)
      endif()
    elseif(kind STREQUAL "REAL")
      if(type STREQUAL "NUMBER" AND NOT value MATCHES "^-")
        set(fits YES)
      endif()
    elseif(type STREQUAL kind)
      set(fits YES)
    endif()
    if(NOT fits)
      string(APPEND problems "\n  ${path}: expected ${kind}, found ${value}")
      set(value "")
    endif()
  endif()
  set(${out} "${value}" PARENT_SCOPE)
  set(problems "${problems}" PARENT_SCOPE)
endfunction()

# Records a value at a path that is there and not the expected one.
function(_ds4_expect kind path expected)
  _ds4_read(value ${kind} ${path})
  set(equal NO)
  if(kind STREQUAL "REAL" AND value EQUAL expected)
    set(equal YES)
  endif()
  if(NOT value STREQUAL "" AND NOT value STREQUAL expected AND NOT equal)
    string(APPEND problems "\n  ${path}: expected ${expected}, found ${value}")
  endif()
  set(problems "${problems}" PARENT_SCOPE)
endfunction()

# Sets ${out} to the value that is stated at any of the paths, "" if none; they must agree.
function(_ds4_agree out kind)
  set(result "")
  foreach(path IN LISTS ARGN)
    _ds4_read(value ${kind} ${path})
    if(value STREQUAL "")
      continue()
    elseif(result STREQUAL "")
      set(result "${value}")
      set(first ${path})
    elseif(NOT value STREQUAL result AND NOT (kind STREQUAL "REAL" AND value EQUAL result))
      string(APPEND problems "\n  ${path}: expected ${result} as in ${first}, found ${value}")
    endif()
  endforeach()
  set(${out} "${result}" PARENT_SCOPE)
  set(problems "${problems}" PARENT_SCOPE)
endfunction()

# _ds4_agree() that records the last path as missing if none has a value.
function(_ds4_require out kind)
  set(before "${problems}")
  _ds4_agree(value ${kind} ${ARGN})
  if(value STREQUAL "" AND problems STREQUAL before)
    list(GET ARGN -1 path)
    list(APPEND missing ${path})
  endif()
  set(${out} "${value}" PARENT_SCOPE)
  set(problems "${problems}" PARENT_SCOPE)
  set(missing "${missing}" PARENT_SCOPE)
endfunction()

# Sets ${out} to the entries of an array with one per layer, or also one for each of extra layers;
# ${out}_FOUND says whether there is one of this length.
function(_ds4_per_layer out kind path layers extra)
  set(list "")
  set(found NO)
  _ds4_read(array ARRAY ${path})
  if(NOT array STREQUAL "")
    string(JSON length LENGTH "${array}")
    math(EXPR longer "0${layers} + ${extra}")
    if(layers STREQUAL "" OR length EQUAL layers OR length EQUAL longer)
      set(found YES)
      set(i 0)
      while(i LESS length)
        _ds4_read(entry ${kind} ${path}.${i})
        list(APPEND list "${entry}")
        math(EXPR i "${i} + 1")
      endwhile()
    else()
      string(APPEND problems "\n  ${path}: expected ${layers} entries, found ${length}")
    endif()
  endif()
  set(${out} "${list}" PARENT_SCOPE)
  set(${out}_FOUND ${found} PARENT_SCOPE)
  set(problems "${problems}" PARENT_SCOPE)
endfunction()

# Sets ratios, csa and hca (tokens per compressed entry): compress_ratios, or layer_types with
# compress_rates.
function(_ds4_attention_kinds layers extra)
  _ds4_per_layer(ratios INTEGER compress_ratios "${layers}" ${extra})
  _ds4_per_layer(types STRING layer_types "${layers}" 0)
  if(ratios_FOUND)
    list(LENGTH ratios length)
    if(length GREATER layers)
      list(SUBLIST ratios ${layers} -1 behind)
      list(SUBLIST ratios 0 ${layers} ratios)
      if(NOT behind MATCHES "^[0;]*$")
        string(APPEND problems
               "\n  compress_ratios: expected 0 behind the main layers, found ${behind}")
      endif()
    endif()
  endif()

  string(JSON rates ERROR_VARIABLE error GET "${json}" compress_rates)
  if(types_FOUND OR (NOT error AND NOT rates STREQUAL ""))
    _ds4_require(csa INTEGER compress_rates.compressed_sparse_attention)
    _ds4_require(hca INTEGER compress_rates.heavily_compressed_attention)
  else()
    set(used ${ratios})
    list(REMOVE_DUPLICATES used)
    list(REMOVE_ITEM used 0)
    list(SORT used COMPARE NATURAL)
    list(LENGTH used count)
    set(csa 4)
    set(hca 128)
    set(others ${used})
    list(REMOVE_ITEM others 4 128)
    if(count EQUAL 2 AND others)
      list(GET used 0 csa)
      list(GET used 1 hca)
    elseif(count EQUAL 1 AND others LESS_EQUAL 16)
      set(csa ${used})
    elseif(count EQUAL 1 AND others)
      set(hca ${used})
    elseif(count GREATER 2)
      string(APPEND problems "\n  compress_ratios: expected at most two different ratios above 0, or "
             "compress_rates, found ${used}")
    endif()
  endif()

  if(types_FOUND)
    set(of_types "")
    foreach(type IN LISTS types)
      if(type STREQUAL "sliding_attention")
        list(APPEND of_types 0)
      elseif(type STREQUAL "compressed_sparse_attention")
        list(APPEND of_types "${csa}")
      elseif(type STREQUAL "heavily_compressed_attention")
        list(APPEND of_types "${hca}")
      else()
        string(APPEND problems "\n  layer_types: expected sliding_attention, "
               "compressed_sparse_attention or heavily_compressed_attention, found ${type}")
      endif()
    endforeach()
    if(ratios_FOUND AND NOT ratios STREQUAL of_types)
      string(APPEND problems "\n  compress_ratios: expected ${of_types} as in layer_types, found ${ratios}")
    endif()
    set(ratios "${of_types}")
  elseif(NOT ratios_FOUND AND NOT problems MATCHES "compress_ratios:|layer_types:")
    list(APPEND missing compress_ratios)
  endif()
  foreach(variable ratios csa hca problems missing)
    set(${variable} "${${variable}}" PARENT_SCOPE)
  endforeach()
endfunction()

# Sets num_hash_layers: stated, or from mlp_layer_types.
function(_ds4_router_kinds layers)
  _ds4_per_layer(types STRING mlp_layer_types "${layers}" 0)
  if(types_FOUND)
    set(count 0)
    set(learned NO)
    foreach(type IN LISTS types)
      if(type STREQUAL "moe")
        set(learned YES)
      elseif(type STREQUAL "hash_moe" AND NOT learned)
        math(EXPR count "${count} + 1")
      else()
        string(APPEND problems "\n  mlp_layer_types: expected hash_moe, then moe, found ${types}")
        break()
      endif()
    endforeach()
    _ds4_agree(num_hash_layers INTEGER num_hash_layers)
    if(NOT num_hash_layers STREQUAL "" AND NOT num_hash_layers EQUAL count)
      string(APPEND problems "\n  num_hash_layers: expected ${count} as in mlp_layer_types, "
             "found ${num_hash_layers}")
    endif()
    set(num_hash_layers ${count})
  else()
    _ds4_require(num_hash_layers INTEGER num_hash_layers)
  endif()
  foreach(variable num_hash_layers problems missing)
    set(${variable} "${${variable}}" PARENT_SCOPE)
  endforeach()
endfunction()

# Sets ${out} to the members of ds4::RopeScaling that the object at path states.
function(_ds4_rope_scaling out path)
  set(members "")
  _ds4_require(type STRING ${path}.type ${path}.rope_type)
  if(type STREQUAL "yarn")
    foreach(field factor original_max_position_embeddings beta_fast beta_slow)
      _ds4_require(value REAL ${path}.${field})
      list(APPEND members "${value}")
    endforeach()
    _ds4_expect(REAL ${path}.attention_factor 1)
    _ds4_expect(BOOLEAN ${path}.truncate ON)
  elseif(NOT type STREQUAL "" AND NOT type STREQUAL "default")
    string(APPEND problems "\n  ${path}.rope_type: expected default or yarn, found ${type}")
  endif()
  list(JOIN members ", " members)
  set(${out} "${members}" PARENT_SCOPE)
  set(problems "${problems}" PARENT_SCOPE)
  set(missing "${missing}" PARENT_SCOPE)
endfunction()

function(ds4_model_header out config name)
  if(NOT name MATCHES "^[A-Za-z_][A-Za-z0-9_]*$")
    message(FATAL_ERROR "ds4_add_model: NAME: expected a C++ identifier, found ${name}")
  endif()
  cmake_path(ABSOLUTE_PATH config)
  if(NOT EXISTS "${config}" OR IS_DIRECTORY "${config}")
    message(FATAL_ERROR "ds4_add_model: ${config}: expected a config.json, found none")
  endif()
  file(READ "${config}" json)
  string(JSON type ERROR_VARIABLE error TYPE "${json}")
  if(error OR NOT type STREQUAL "OBJECT")
    message(FATAL_ERROR "ds4_add_model: ${config}: expected a JSON object, found ${type} ${error}")
  endif()
  set(problems "")
  set(missing "")

  _ds4_require(ignored STRING model_type)
  _ds4_require(ignored INTEGER num_key_value_heads)
  _ds4_require(ignored INTEGER n_shared_experts)
  _ds4_expect(STRING model_type deepseek_v4)
  _ds4_expect(INTEGER num_key_value_heads 1)
  _ds4_expect(INTEGER n_shared_experts 1)
  _ds4_expect(STRING scoring_func sqrtsoftplus)
  _ds4_expect(STRING hidden_act silu)
  _ds4_expect(BOOLEAN tie_word_embeddings OFF)
  _ds4_expect(BOOLEAN attention_bias OFF)
  _ds4_expect(BOOLEAN mlp_bias OFF)

  set(integers
      vocab_size hidden_size num_hidden_layers num_attention_heads head_dim q_lora_rank o_groups
      o_lora_rank n_routed_experts num_experts_per_tok moe_intermediate_size index_n_heads
      index_head_dim index_topk sliding_window hc_mult hc_sinkhorn_iters max_position_embeddings)
  foreach(field IN LISTS integers)
    _ds4_require(${field} INTEGER ${field})
  endforeach()
  _ds4_agree(num_nextn_predict_layers INTEGER num_nextn_predict_layers)
  if(num_nextn_predict_layers STREQUAL "")
    set(num_nextn_predict_layers 0)
  endif()
  _ds4_attention_kinds("${num_hidden_layers}" ${num_nextn_predict_layers})
  _ds4_router_kinds("${num_hidden_layers}")
  list(APPEND integers num_hash_layers num_nextn_predict_layers)

  set(reals routed_scaling_factor swiglu_limit hc_eps rms_norm_eps)
  foreach(field IN LISTS reals)
    _ds4_require(${field} REAL ${field})
  endforeach()
  _ds4_require(rope_theta REAL rope_parameters.main.rope_theta rope_theta)
  _ds4_require(compress_rope_theta REAL rope_parameters.compress.rope_theta compress_rope_theta)
  list(APPEND reals rope_theta compress_rope_theta)

  # CMake cannot multiply fractions: the compiler does, and compares where both are stated.
  _ds4_agree(factor REAL partial_rotary_factor rope_parameters.main.partial_rotary_factor
             rope_parameters.compress.partial_rotary_factor)
  _ds4_agree(rotary INTEGER qk_rope_head_dim)
  set(rotary_check "")
  if(NOT factor STREQUAL "")
    if(factor GREATER 1)
      string(APPEND problems "\n  partial_rotary_factor: expected a number from 0 to 1, found ${factor}")
    endif()
    set(product "static_cast<std::size_t>(static_cast<double>(head_dim) * ${factor})")
    if(rotary STREQUAL "")
      set(rotary "${product}")
    else()
      set(rotary_check "  static_assert(qk_rope_head_dim == ${product},
                \"${name}: qk_rope_head_dim must be head_dim * partial_rotary_factor\");\n")
    endif()
  elseif(rotary STREQUAL "" AND NOT problems MATCHES "qk_rope_head_dim:|partial_rotary_factor:")
    list(APPEND missing qk_rope_head_dim)
  endif()

  string(JSON parameters ERROR_VARIABLE no_parameters GET "${json}" rope_parameters)
  string(JSON scaling ERROR_VARIABLE no_scaling GET "${json}" rope_scaling)
  set(rope_scaling "")
  if(NOT no_parameters AND NOT parameters STREQUAL "")
    _ds4_rope_scaling(main rope_parameters.main)
    if(NOT main STREQUAL "")
      string(APPEND problems "\n  rope_parameters.main.rope_type: expected default, found yarn")
    endif()
    _ds4_rope_scaling(rope_scaling rope_parameters.compress)
  endif()
  if(NOT no_scaling AND NOT scaling STREQUAL "")
    _ds4_rope_scaling(stated rope_scaling)
    if(NOT no_parameters AND NOT parameters STREQUAL "" AND NOT stated STREQUAL rope_scaling)
      string(APPEND problems "\n  rope_scaling: expected the same as rope_parameters.compress")
    endif()
    set(rope_scaling "${stated}")
  endif()

  if(missing)
    list(JOIN missing ", " missing)
    string(PREPEND problems "\n  missing ${missing}")
  endif()
  if(problems)
    message(FATAL_ERROR "ds4_add_model: ${config}:${problems}")
  endif()

  set(members "")
  foreach(field IN LISTS integers)
    string(APPEND members "  static constexpr std::size_t ${field} = ${${field}};\n")
  endforeach()
  foreach(field IN LISTS reals)
    string(APPEND members "  static constexpr double ${field} = ${${field}};\n")
  endforeach()
  list(LENGTH ratios count)
  list(JOIN ratios ", " ratios)
  cmake_path(GET config PARENT_PATH folder)
  cmake_path(GET folder FILENAME folder)
  cmake_path(GET config FILENAME file)
  set(${out} "// The configuration of ${folder}/${file}; written by ds4_add_model(), do not edit.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <ds4/config/config.hpp>

namespace ds4::models {

struct ${name} {
  static constexpr std::string_view name = \"${name}\";
${members}  static constexpr std::size_t qk_rope_head_dim = ${rotary};
${rotary_check}  static constexpr std::array<std::size_t, ${count}> compress_ratios{${ratios}};
  static constexpr CompressRates compress_rates{${csa}, ${hca}};
  static constexpr RopeScaling rope_scaling{${rope_scaling}};
};
static_assert(checked_config<${name}>());

}  // namespace ds4::models
" PARENT_SCOPE)
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

function(ds4_add_model_config target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "CONFIG;NAME" "")
  if(NOT arg_CONFIG OR NOT arg_NAME OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR
      "ds4_add_model: expected <target> CONFIG <config.json> NAME <cpp_identifier>, found ${ARGV}")
  endif()
  cmake_path(ABSOLUTE_PATH arg_CONFIG)
  ds4_model_header(header "${arg_CONFIG}" "${arg_NAME}")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${arg_CONFIG}")
  set(include_dir "${CMAKE_CURRENT_BINARY_DIR}/ds4_models/${target}")
  _ds4_write("${include_dir}/ds4/models/${arg_NAME}_config.hpp" "${header}")
  target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${include_dir}>")
endfunction()

# Writes NAME.hpp below a folder, and one source for each backend in ARGN; sets ${out} to the sources.
function(_ds4_write_model out folder name)
  set(base "${folder}/ds4/models/${name}")
  set(reference_type "ds4::Reference<float>")
  set(simd_type "ds4::Simd")
  set(kokkos_type "ds4::KokkosBackend<>")
  set(includes "")
  set(declarations "")
  set(sources "")
  foreach(backend IN LISTS ARGN)
    if(NOT backend MATCHES "^(reference|simd|kokkos)$")
      message(FATAL_ERROR "ds4_add_model: BACKENDS: expected reference, simd or kokkos, found ${backend}")
    endif()
    set(model "class ds4::Model<ds4::models::${name}, ${${backend}_type}>")
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
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "CONFIG;NAME" "BACKENDS")
  if(NOT arg_BACKENDS)
    set(arg_BACKENDS reference)
  endif()
  ds4_add_model_config(${target} CONFIG "${arg_CONFIG}" NAME "${arg_NAME}" ${arg_UNPARSED_ARGUMENTS})
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/ds4_models/${target}")
  _ds4_write_model(sources "${folder}" ${arg_NAME} ${arg_BACKENDS})
  target_sources(${target} PRIVATE ${sources})
  ds4_add_definitions(${target})
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
  ds4_model_header(header "${CONFIG}" "${NAME}")
  _ds4_write("${OUT}/ds4/models/${NAME}_config.hpp" "${header}")
  _ds4_write_model(ignored "${OUT}" ${NAME} ${BACKENDS})
endif()
