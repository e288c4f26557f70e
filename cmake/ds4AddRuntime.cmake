# Models behind ds4::AnyModel, whose configuration and backend a program chooses at run time; see
# ds4/runtime/compiled_model.hpp.
#
#   ds4_add_runtime_model(<target> TYPE <type> BACKENDS <backend>... [TRAINING <backend>...])
#     compiles ds4::AnyModel for one configuration type into <target>, once for each backend, and with
#     TRAINING ds4::AnyTrainable for those of them. The type is ds4::models::NAME of ds4_add_model(), whose
#     target <target> is or links, or one that <ds4/config/config.hpp> defines. A source for each.
#   ds4_add_compiled_models(<target> <models>...)
#     gives <target> the definition of ds4::compiled_models(): all that was added to the targets <models>,
#     in this order, which are linked.

include_guard(GLOBAL)
include("${CMAKE_CURRENT_LIST_DIR}/ds4Backends.cmake")

function(ds4_add_runtime_model target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TYPE" "BACKENDS;TRAINING")
  if(NOT arg_TYPE OR NOT arg_BACKENDS OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR
      "ds4_add_runtime_model: expected <target> TYPE <type> BACKENDS <backend>..., found ${ARGV}")
  endif()
  set(templates "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/runtime")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/ds4_runtime/${target}")
  set(DS4_RUNTIME_TYPE ${arg_TYPE})
  set(DS4_RUNTIME_INCLUDE "")
  if(arg_TYPE MATCHES "^ds4::models::(.*)$")
    set(DS4_RUNTIME_INCLUDE "\n#include <ds4/models/${CMAKE_MATCH_1}.hpp>\n")
  endif()
  foreach(DS4_RUNTIME_BACKEND IN LISTS arg_BACKENDS)
    set(DS4_RUNTIME_BACKEND_TYPE ${ds4_type_${DS4_RUNTIME_BACKEND}})
    string(REGEX REPLACE "[^A-Za-z0-9]+" "_" DS4_RUNTIME_ENTRY "${arg_TYPE}_on_${DS4_RUNTIME_BACKEND}")
    set(DS4_RUNTIME_TRAINABLE "")
    set(DS4_RUNTIME_TRAINABLE_DECLARATION "")
    if(DS4_RUNTIME_BACKEND IN_LIST arg_TRAINING)
      set(DS4_RUNTIME_TRAINABLE "&${DS4_RUNTIME_ENTRY}_trainable")
      set(DS4_RUNTIME_TRAINABLE_DECLARATION
          "std::unique_ptr<AnyTrainable> ${DS4_RUNTIME_ENTRY}_trainable(const TrainableSource&);\n")
      configure_file("${templates}/trainable.cpp.in" "${folder}/${DS4_RUNTIME_ENTRY}_trainable.cpp" @ONLY)
      target_sources(${target} PRIVATE "${folder}/${DS4_RUNTIME_ENTRY}_trainable.cpp")
    endif()
    configure_file("${templates}/model.cpp.in" "${folder}/${DS4_RUNTIME_ENTRY}.cpp" @ONLY)
    target_sources(${target} PRIVATE "${folder}/${DS4_RUNTIME_ENTRY}.cpp")
    set_property(TARGET ${target} APPEND PROPERTY DS4_RUNTIME_ENTRIES ${DS4_RUNTIME_ENTRY})
  endforeach()
endfunction()

function(ds4_add_compiled_models target)
  set(DS4_RUNTIME_DECLARATIONS "")
  set(DS4_RUNTIME_CALLS "")
  foreach(models IN LISTS ARGN)
    get_target_property(entries ${models} DS4_RUNTIME_ENTRIES)
    foreach(entry IN LISTS entries)
      string(APPEND DS4_RUNTIME_DECLARATIONS "CompiledModel ${entry}();\n")
      string(APPEND DS4_RUNTIME_CALLS "      runtime::${entry}(),\n")
    endforeach()
  endforeach()
  set(source "${CMAKE_CURRENT_BINARY_DIR}/ds4_runtime/${target}_compiled_models.cpp")
  configure_file("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/runtime/compiled_models.cpp.in" "${source}" @ONLY)
  target_sources(${target} PRIVATE "${source}")
  target_link_libraries(${target} PRIVATE ${ARGN})
endfunction()
