# The host application in README.md is examples/host.cpp, which the tests build and run.
file(READ "${CMAKE_CURRENT_LIST_DIR}/../../examples/host.cpp" host)
file(READ "${CMAKE_CURRENT_LIST_DIR}/../../README.md" readme)
string(FIND "${readme}" "```cpp\n${host}```" at)
if(at EQUAL -1)
  message(FATAL_ERROR "README.md: expected the text of examples/host.cpp, found another")
endif()

# And that of docs/c.md is examples/host.c.
file(READ "${CMAKE_CURRENT_LIST_DIR}/../../examples/host.c" host)
file(READ "${CMAKE_CURRENT_LIST_DIR}/../../docs/c.md" document)
string(FIND "${document}" "```c\n${host}```" at)
if(at EQUAL -1)
  message(FATAL_ERROR "docs/c.md: expected the text of examples/host.c, found another")
endif()
