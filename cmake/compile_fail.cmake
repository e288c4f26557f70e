# cmake -DCOMPILER=.. -DCOMPILER_ID=.. -DFLAGS=.. -DINCLUDES=.. -DSOURCE=.. -P compile_fail.cmake
#
# Compiles SOURCE twice, syntax only: as it is, which must succeed, and with
# DS4_EXPECT_COMPILE_ERROR defined, which must fail and print every text that SOURCE lists:
#   // expect: text            on any compiler
#   // expect-gcc: text        on GCC only
#   // expect-clang: text      on Clang only
# Quoted source lines are switched off, so that only what the compiler itself says can match. Types
# of template arguments are taken out of the output: "long unsigned int n = 7" reads "n = 7" and
# "7UL" reads "7".
if(COMPILER_ID MATCHES "Clang")
  set(compiler clang)
  set(options -fno-caret-diagnostics -ferror-limit=0 -ftemplate-backtrace-limit=0)
else()
  set(compiler gcc)
  set(options -fno-diagnostics-show-caret -ftemplate-backtrace-limit=0)
endif()
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
list(TRANSFORM INCLUDES PREPEND -I)
list(REMOVE_DUPLICATES INCLUDES)
set(command "${COMPILER}" ${flags} -std=c++20 -fsyntax-only ${options} ${INCLUDES} "${SOURCE}")
set(ENV{LC_ALL} C)

execute_process(COMMAND ${command} RESULT_VARIABLE result ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "must compile without DS4_EXPECT_COMPILE_ERROR:\n${output}")
endif()

execute_process(COMMAND ${command} -DDS4_EXPECT_COMPILE_ERROR
                RESULT_VARIABLE result ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "compiles with DS4_EXPECT_COMPILE_ERROR, but must not")
endif()
string(REGEX REPLACE "(long )?unsigned (long|int) (int )?([a-z_]+ = )" "\\4" output "${output}")
string(REGEX REPLACE "([0-9])UL" "\\1" output "${output}")

file(STRINGS "${SOURCE}" lines REGEX "^// expect")
set(expectations 0)
set(missing "")
foreach(line IN LISTS lines)
  if(line MATCHES "^// expect(-${compiler})?: (.+)$")
    math(EXPR expectations "${expectations} + 1")
    string(FIND "${output}" "${CMAKE_MATCH_2}" found)
    if(found EQUAL -1)
      string(APPEND missing "  ${CMAKE_MATCH_2}\n")
    endif()
  endif()
endforeach()
if(expectations EQUAL 0)
  message(FATAL_ERROR "${SOURCE} has no line '// expect: text'")
elseif(missing)
  message(FATAL_ERROR "the compiler does not say:\n${missing}but:\n${output}")
endif()
