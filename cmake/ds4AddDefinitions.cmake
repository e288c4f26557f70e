# ds4_add_definitions(<target>): compiles the functions of ds4 that are no templates into a target, once,
# so that sources of it and of what links it read only their declarations: without nlohmann-json and
# Eigen a source that includes <ds4/model.hpp> takes seconds less. See ds4/core/linkage.hpp.
# ds4_add_model() calls it. Does nothing if the target links one that has them.

include_guard(GLOBAL)

# Sets ${out} to whether a target has a property, or something that it links.
function(_ds4_has out property target seen)
  set(${out} NO PARENT_SCOPE)
  if(NOT TARGET "${target}" OR target IN_LIST seen)
    return()
  endif()
  list(APPEND seen "${target}")
  get_target_property(has ${target} ${property})
  get_target_property(direct ${target} LINK_LIBRARIES)
  get_target_property(handed_on ${target} INTERFACE_LINK_LIBRARIES)
  set(libraries ${direct} ${handed_on})
  list(REMOVE_DUPLICATES libraries)
  foreach(library IN LISTS libraries)
    if(NOT has)
      _ds4_has(has ${property} "${library}" "${seen}")
    endif()
  endforeach()
  if(has)
    set(${out} YES PARENT_SCOPE)
  endif()
endfunction()

function(ds4_add_definitions target)
  _ds4_has(has DS4_DEFINITIONS ${target} "")
  if(has)
    return()
  endif()
  set_target_properties(${target} PROPERTIES DS4_DEFINITIONS ON)
  target_sources(${target} PRIVATE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/definitions.cpp")
  target_compile_definitions(${target} PUBLIC DS4_COMPILED)
endfunction()
