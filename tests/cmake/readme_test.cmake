# The host application in README.md is examples/host.cpp, which the tests build and run.
file(READ "${CMAKE_CURRENT_LIST_DIR}/../../examples/host.cpp" host)
file(READ "${CMAKE_CURRENT_LIST_DIR}/../../README.md" readme)
string(FIND "${readme}" "```cpp\n${host}```" at)
if(at EQUAL -1)
  message(FATAL_ERROR "README.md: expected the text of examples/host.cpp, found another")
endif()
