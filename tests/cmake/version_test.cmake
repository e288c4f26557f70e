# cmake -P version_test.cmake: the version in <ds4/core/version.hpp>, of the C library and of the Python module
# is the project's, and every header declares everything in the inline namespace of that version.
cmake_minimum_required(VERSION 3.25)
set(top "${CMAKE_CURRENT_LIST_DIR}/../..")

file(READ "${top}/CMakeLists.txt" project)
string(REGEX MATCH "VERSION ([0-9]+)\\.([0-9]+)\\.([0-9]+)" found "${project}")
set(major ${CMAKE_MATCH_1})
set(minor ${CMAKE_MATCH_2})
set(patch ${CMAKE_MATCH_3})

file(READ "${top}/include/ds4/core/version.hpp" header)
foreach(line "#define DS4_VERSION_MAJOR ${major}\n" "#define DS4_VERSION_MINOR ${minor}\n"
        "#define DS4_VERSION_PATCH ${patch}\n" "kLibraryVersion = \"${major}.${minor}.${patch}\"")
  string(FIND "${header}" "${line}" at)
  if(at EQUAL -1)
    message(SEND_ERROR "include/ds4/core/version.hpp: expected ${line}as in CMakeLists.txt, found none")
  endif()
endforeach()

# The C library's symbols, and the Python module.
foreach(entry "c/ds4.map=DS4_${major}.${minor} {" "pyproject.toml=version = \"${major}.${minor}.${patch}\"")
  string(REGEX MATCH "^([^=]+)=(.*)$" found "${entry}")
  file(READ "${top}/${CMAKE_MATCH_1}" text)
  string(FIND "${text}" "${CMAKE_MATCH_2}" at)
  if(at EQUAL -1)
    message(SEND_ERROR "${CMAKE_MATCH_1}: expected ${CMAKE_MATCH_2} as in CMakeLists.txt, found none")
  endif()
endforeach()

set(expected "namespace ds4::inline v${major}_${minor}")
file(GLOB_RECURSE headers RELATIVE "${top}" "${top}/include/ds4/*.hpp")
foreach(name IN LISTS headers)
  file(STRINGS "${top}/${name}" lines REGEX "^namespace ")
  list(FILTER lines EXCLUDE REGEX "^${expected}(::[a-z_]+)* {$")
  list(FILTER lines EXCLUDE REGEX "^namespace ds4::models {$") # in a text that config_header.hpp writes
  list(FILTER lines EXCLUDE REGEX "^namespace (detail|check|detail_indexer) {$")
  if(lines)
    message(SEND_ERROR "${name}: expected ${expected}, found ${lines}")
  endif()
endforeach()
