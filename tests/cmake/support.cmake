# What the tests of this folder share that read sources, line by line.

# ds4_choose_tree(<out>): the tree to read, -DTREE or the one that the test is in. It needs -DOUT for
# what it tries on copies.
function(ds4_choose_tree out)
  if(NOT TREE AND NOT OUT)
    message(FATAL_ERROR "expected -DOUT=<folder> or -DTREE=<folder>, found none")
  endif()
  set(tree "${TREE}")
  if(NOT TREE)
    cmake_path(SET tree NORMALIZE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../..")
  endif()
  set(${out} "${tree}" PARENT_SCOPE)
endfunction()

# ds4_read_lines(<out> <file>): the lines of a file as a list, empty ones too. What a list cannot
# hold is replaced: ";" by ",", "\" by "/", "[" by "{" and "]" by "}".
function(ds4_read_lines out file)
  file(READ "${file}" text)
  string(REPLACE ";" "," text "${text}")
  string(REPLACE "\\" "/" text "${text}")
  string(REPLACE "[" "{" text "${text}")
  string(REPLACE "]" "}" text "${text}")
  string(REPLACE "\n" ";" text "${text}")
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

# ds4_expect_failure(<name> <tree> <text>): the calling test, run on another tree, fails with this
# text in its message.
function(ds4_expect_failure name tree expected)
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DTREE=${tree}" -P "${CMAKE_SCRIPT_MODE_FILE}"
                  RESULT_VARIABLE result ERROR_VARIABLE text OUTPUT_QUIET)
  string(REGEX REPLACE "[ \n]+" " " text "${text}") # CMake wraps lines
  string(FIND "${text}" "${expected}" at)
  if(result EQUAL 0 OR at EQUAL -1)
    message(SEND_ERROR "${name}: expected a failure with '${expected}', found ${result} and: ${text}")
  endif()
endfunction()
