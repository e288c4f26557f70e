# ds4_add_definitions(<target>): compiles the functions of ds4 that are no templates into a target, once,
# so that sources of it and of what links it read only their declarations: without nlohmann-json and
# Eigen a source that includes <ds4/model.hpp> takes seconds less. See ds4/core/linkage.hpp.
# ds4_add_model() calls it, unless the target links one that has them.

include_guard(GLOBAL)

function(ds4_add_definitions target)
  set(others ${target})
  get_target_property(libraries ${target} LINK_LIBRARIES)
  if(libraries)
    list(APPEND others ${libraries})
  endif()
  foreach(other IN LISTS others)
    if(TARGET "${other}")
      get_target_property(there ${other} DS4_DEFINITIONS)
      if(there)
        return()
      endif()
    endif()
  endforeach()
  set_target_properties(${target} PROPERTIES DS4_DEFINITIONS ON)
  target_sources(${target} PRIVATE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/definitions.cpp")
  target_compile_definitions(${target} PUBLIC DS4_COMPILED)
endfunction()
