# For ctest, behind the tests that ds4_tests has: ds4_tests_TESTS are their names.
if(NOT ds4_tests_TESTS)
  add_test(ds4_tests_not_built ds4_tests_not_built)  # a program that has none would pass
endif()
# Some run on several threads all the time: beside another test, which takes a processor from them, they
# would take ten times as long.
foreach(test IN LISTS ds4_tests_TESTS)
  if(test MATCHES "^simd: one result for any chunks")
    set_tests_properties("${test}" PROPERTIES PROCESSORS 2)
  endif()
endforeach()
