# cmake -DCASE=<name of a function case_* below> -DSOURCE_DIR=.. -DBINARY_DIR=.. -DOUT=<folder> -DCOMPILER=..
#       -DFLAGS=.. -DGENERATOR=.. -DVERSION=.. -P package_test.cmake
# ds4 as others use it: installed, and in projects outside of its tree. `install` has to be first.
# Names of folders have spaces in them.
cmake_minimum_required(VERSION 3.25)

set(here "${CMAKE_CURRENT_LIST_DIR}")
set(prefix "${OUT}/a prefix")
set(project "${OUT}/${CASE} project")
set(austen "${SOURCE_DIR}/models/austen")

# Runs a command that must succeed. Sets `output`.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\nexpected success, found ${result}:\n${output}${errors}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# run() of a program whose output must match.
function(run_expecting pattern)
  run(${ARGN})
  if(NOT output MATCHES "${pattern}")
    message(FATAL_ERROR "${ARGN}: expected '${pattern}', found: ${output}")
  endif()
endfunction()

# Runs a command that must fail, with a line that matches.
function(run_failing pattern)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(result EQUAL 0 OR NOT "${output}${errors}" MATCHES "${pattern}")
    message(FATAL_ERROR "${ARGN}: expected '${pattern}', found ${result} and: ${output}${errors}")
  endif()
endfunction()

# Writes a config.json without a field that is needed.
function(write_broken_config file)
  file(READ "${austen}/config.json" json)
  string(JSON json REMOVE "${json}" hidden_size)
  file(WRITE "${file}" "${json}")
endfunction()

set(configure ${CMAKE_COMMAND} -S "${project}" -B "${project}/build" "-DCMAKE_CXX_COMPILER=${COMPILER}"
    "-DCMAKE_PREFIX_PATH=${prefix}")

# Configures and builds the project, without a build type.
function(build generator)
  run(${configure} -G "${generator}" "-DCMAKE_CXX_FLAGS=${FLAGS}" ${ARGN})
  run(${CMAKE_COMMAND} --build "${project}/build" --parallel 2)
endfunction()

# Starts the project anew, from a folder of the tests.
function(copy_project name)
  file(REMOVE_RECURSE "${project}")
  file(COPY "${here}/${name}/" DESTINATION "${project}")
endfunction()

# Fails unless a folder has exactly these files.
function(expect_files folder)
  file(GLOB_RECURSE found LIST_DIRECTORIES NO RELATIVE "${folder}" "${folder}/*")
  set(missing ${ARGN})
  list(REMOVE_ITEM missing ${found})
  list(REMOVE_ITEM found ${ARGN})
  if(missing OR found)
    message(FATAL_ERROR "${folder}: missing '${missing}', unexpected '${found}'")
  endif()
endfunction()

# The headers and what build systems read: the same list of headers as in the source.
function(case_install)
  file(REMOVE_RECURSE "${prefix}")
  run(${CMAKE_COMMAND} --install "${BINARY_DIR}" --prefix "${prefix}" --component development)
  file(GLOB_RECURSE headers RELATIVE "${SOURCE_DIR}/include" "${SOURCE_DIR}/include/*")
  expect_files("${prefix}/include" ${headers})
endfunction()

# README.md's lines for CMake, and its host application, without a word more.
function(case_readme)
  file(READ "${SOURCE_DIR}/README.md" text)
  string(FIND "${text}" "```cmake\nfind_package(ds4" begin)
  if(begin EQUAL -1)
    message(FATAL_ERROR "README.md: expected CMake's lines for an application, found none")
  endif()
  math(EXPR begin "${begin} + 9")
  string(SUBSTRING "${text}" ${begin} -1 text)
  string(FIND "${text}" "```" end)
  string(SUBSTRING "${text}" 0 ${end} lines)
  file(REMOVE_RECURSE "${project}")
  file(COPY "${SOURCE_DIR}/examples/host.cpp" DESTINATION "${project}")
  file(COPY "${austen}/config.json" DESTINATION "${project}/austen")
  file(WRITE "${project}/CMakeLists.txt"
       "cmake_minimum_required(VERSION 3.25)\nproject(host LANGUAGES CXX)\n${lines}")
  build("${GENERATOR}")
  run_expecting("^She was not .*next logits: [0-9.]+\n$" "${project}/build/host" "${austen}")
  # The kernels are those of the machine, though the compiler was told no instruction set.
  set(sets "baseline")
  if(EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo flags REGEX "^(flags|Features)" LIMIT_COUNT 1)
    if("${flags} " MATCHES " fma .* avx2 ")
      set(sets "avx2, baseline")
    endif()
    if("${flags} " MATCHES " avx512_bf16 " AND "${flags} " MATCHES " avx512vbmi ")
      set(sets "avx512, avx2, baseline")
    endif()
    if("${flags} " MATCHES " bf16 ")
      set(sets "neon_bf16, baseline")
    endif()
  endif()
  run_failing("DS4_SIMD: found \"none\", expected one of ${sets}\n"
              ${CMAKE_COMMAND} -E env DS4_SIMD=none "${project}/build/host" "${austen}")
endfunction()

# ds4 in a folder of the project; the project installs its own files and none of ds4.
function(case_add_subdirectory)
  copy_project(two_units)
  file(CREATE_LINK "${SOURCE_DIR}" "${project}/ds4" SYMBOLIC)
  file(COPY "${austen}/config.json" DESTINATION "${project}/small")
  find_program(make NAMES make gmake)
  if(make)
    set(GENERATOR "Unix Makefiles")
  endif()
  build("${GENERATOR}" -DBUILD_SHARED_LIBS=ON -DCMAKE_INSTALL_LIBDIR=lib)
  run_expecting("^ds4 ${VERSION}, next token [0-9]+\n$" "${project}/build/main" "${austen}")
  run(${CMAKE_COMMAND} --install "${project}/build" --prefix "${project}/prefix")
  expect_files("${project}/prefix" bin/main lib/libloader.so)
  write_broken_config("${project}/small/config.json")
  run_failing("\nds4: [^\n]*small/config.json: missing hidden_size\n"
              ${CMAKE_COMMAND} --build "${project}/build")
endfunction()

function(case_fetch_content)
  copy_project(fetch_content)
  build("${GENERATOR}" "-DFETCHCONTENT_SOURCE_DIR_DS4=${SOURCE_DIR}" -DFETCHCONTENT_FULLY_DISCONNECTED=ON)
  run_expecting("^ds4 ${VERSION}, layers 7\n$" "${project}/build/main")
endfunction()

# Sets ${out} to what pkg-config says, as a list.
function(ask_pkg_config out)
  find_program(pkg_config NAMES pkg-config pkgconf REQUIRED)
  set(ENV{PKG_CONFIG_PATH} "${prefix}/share/pkgconfig")
  run("${pkg_config}" ${ARGN})
  separate_arguments(words UNIX_COMMAND "${output}")
  set(${out} "${words}" PARENT_SCOPE)
endfunction()

# A compiler and no CMake. The two units of the second program include every header but Kokkos', so
# that a function that is defined twice does not link.
function(case_pkg_config)
  copy_project(two_units)
  separate_arguments(flags UNIX_COMMAND "${FLAGS}")
  set(compile $ENV{CMAKE_CXX_COMPILER_LAUNCHER} "${COMPILER}" ${flags} -std=c++20)

  ask_pkg_config(version --modversion ds4)
  ask_pkg_config(add_model --variable=add_model ds4)
  set(ENV{CXX} "${COMPILER}")
  write_broken_config("${project}/broken.json")
  run_failing("ds4: [^\n]*broken.json: missing hidden_size\n"
              ${CMAKE_COMMAND} "-DCONFIG=${project}/broken.json" -DNAME=broken
              "-DOUT=${project}/broken" -P "${add_model}")
  expect_files("${project}/broken")
  run(${CMAKE_COMMAND} "-DCONFIG=${austen}/config.json" -DNAME=small "-DOUT=${project}/models"
      -P "${add_model}")
  ask_pkg_config(words --cflags --libs ds4)
  list(APPEND words -I "${project}/models")
  run(${compile} "${project}/main.cpp" "${project}/loader.cpp"
      "${project}/models/ds4/models/small_on_reference.cpp" -o "${project}/main" ${words})
  run_expecting("^ds4 ${version}, next token [0-9]+\n$" "${project}/main" "${austen}")

  file(GLOB_RECURSE headers RELATIVE "${prefix}/include" "${prefix}/include/*.hpp")
  list(FILTER headers EXCLUDE REGEX "/(kokkos|mpi)")
  list(TRANSFORM headers REPLACE "(.+)" "#include <\\1>\n")
  list(JOIN headers "" includes)
  file(WRITE "${project}/first.cpp" "${includes}int main() {}\n")
  file(WRITE "${project}/second.cpp" "${includes}")
  ask_pkg_config(words --cflags --libs ds4-simd)
  run(${compile} "${project}/first.cpp" "${project}/second.cpp" -o "${project}/all" ${words})
  run("${project}/all")
endfunction()

# Fails unless this is a compiler's first error in a header.
function(expect_first_error header pattern)
  execute_process(COMMAND "${COMPILER}" ${ARGN} -w -fsyntax-only -I "${prefix}/include"
                          "${prefix}/include/ds4/${header}.hpp"
                  RESULT_VARIABLE result ERROR_VARIABLE errors)
  string(REGEX MATCH "error[^\n]*" first "${errors}")
  if(result EQUAL 0 OR NOT first MATCHES "${pattern}")
    message(FATAL_ERROR "${header}.hpp, ${ARGN}: expected '${pattern}', found '${first}'")
  endif()
endfunction()

# What a user reads when something is missing.
function(case_messages)
  copy_project(messages)
  execute_process(COMMAND ${configure} -G "${GENERATOR}" RESULT_VARIABLE result
                  OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(NOT output MATCHES "as expected" OR result EQUAL 0
     OR NOT errors MATCHES "unknown component cuda: expected reference, simd, kokkos or mpi")
    message(FATAL_ERROR "${errors}")
  endif()
  string(REGEX MATCHALL "CMake Error" found "${errors}")
  list(LENGTH found count)
  if(NOT count EQUAL 1)
    message(FATAL_ERROR "${errors}")
  endif()
  expect_first_error(model "ds4 needs C\\+\\+20: compile with -std=c\\+\\+20" -std=c++17)
  expect_first_error(core/version "ds4 needs GCC 12 or later" -std=c++20 -U__clang__ -U__GNUC__
                     -D__GNUC__=11)
  expect_first_error(core/version "ds4 needs Clang 16 or later" -std=c++20 -D__clang__=1
                     -U__clang_major__ -D__clang_major__=15)
endfunction()

# cpack's package of the library has the files that `install` installs.
function(case_debian)
  cmake_path(GET CMAKE_COMMAND PARENT_PATH bin)
  find_program(cpack cpack HINTS "${bin}" REQUIRED)
  file(REMOVE_RECURSE "${project}")
  run("${cpack}" --config "${BINARY_DIR}/CPackConfig.cmake" -B "${project}"
      -D CPACK_COMPONENTS_ALL=development)
  set(package "${project}/libds4-dev_${VERSION}_all.deb")
  run_expecting("^libeigen3-dev [^\n]*nlohmann-json3-dev [^\n]*libpcre2-dev\n$"
                dpkg-deb --field "${package}" Depends)
  run(dpkg-deb --extract "${package}" "${project}/root")
  file(GLOB_RECURSE files LIST_DIRECTORIES NO RELATIVE "${prefix}" "${prefix}/*")
  expect_files("${project}/root/usr" ${files})
  foreach(file IN LISTS files)
    file(SHA256 "${prefix}/${file}" expected)
    file(SHA256 "${project}/root/usr/${file}" found)
    if(NOT found STREQUAL expected)
      message(SEND_ERROR "${file}: expected the installed file, found another")
    endif()
  endforeach()
endfunction()

# Both are built of the same objects.
set(shared_build "${OUT}/shared build")

# The C library, installed, and the example of docs/c.md, in the oldest C that it is for.
function(case_c)
  set(build "${shared_build}")
  run(${CMAKE_COMMAND} -S "${SOURCE_DIR}" -B "${build}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
      "-DCMAKE_CXX_FLAGS=${FLAGS}" -DCMAKE_BUILD_TYPE=Release -DDS4_BUILD_C=ON -DDS4_BUILD_PYTHON=OFF
      -DDS4_BUILD_TESTS=OFF -DDS4_BUILD_EXAMPLES=OFF -DDS4_BUILD_BENCH=OFF -DDS4_INSTALL=ON)
  run(${CMAKE_COMMAND} --build "${build}" --parallel 2 --target ds4_c)
  file(REMOVE_RECURSE "${project}/prefix")
  foreach(component IN ITEMS c development)
    run(${CMAKE_COMMAND} --install "${build}" --prefix "${project}/prefix" --component ${component})
  endforeach()
  file(GLOB_RECURSE library "${project}/prefix/*/libds4.so")
  cmake_path(GET library PARENT_PATH folder)
  find_program(nm NAMES nm REQUIRED)
  run("${nm}" -D --defined-only "${library}")
  string(REGEX MATCHALL "[^\n]+" symbols "${output}")
  foreach(symbol IN LISTS symbols)
    if(NOT symbol MATCHES " [AT] (ds4_[a-z_]+@@)?DS4_0.1$")
      message(SEND_ERROR "libds4.so: expected ds4_... alone to be exported, found ${symbol}")
    endif()
  endforeach()
  find_program(cc NAMES cc gcc clang REQUIRED)
  foreach(source IN ITEMS "${SOURCE_DIR}/examples/host.c" "${here}/c/calls.c")
    cmake_path(GET source STEM name)
    run("${cc}" -std=c99 -pedantic -Wall -Wextra -Werror -I "${project}/prefix/include" "${source}"
        -o "${project}/${name}" "${library}" "-Wl,-rpath,${folder}")
  endforeach()
  run("${project}/calls" "${austen}" "${project}/state")
  run_expecting("^She was not [^\n]+\n$" "${project}/host" "${austen}")
  run_failing("^ds4: [^\n]*no such folder/config.json: cannot open: [^\n]*\n$" "${project}/host"
              "${project}/no such folder")
endfunction()

# `pip install` from the sources, and the module's own tests.
function(case_python)
  find_program(python NAMES python3)
  execute_process(COMMAND "${python}" -c "import nanobind, scikit_build_core, numpy, pytest, pip"
                  RESULT_VARIABLE result ERROR_VARIABLE errors)
  if(NOT result EQUAL 0)
    message("SKIPPED: the Python module needs nanobind, scikit-build-core, numpy and pytest: ${errors}")
    return()
  endif()
  file(REMOVE_RECURSE "${project}/site")
  set(ENV{CXX} "${COMPILER}")
  set(ENV{CXXFLAGS} "${FLAGS}")
  run("${python}" -m pip install --quiet --no-build-isolation --no-deps --no-index
      --target "${project}/site" "-Cbuild-dir=${shared_build}"
      "-Ccmake.args=-G${GENERATOR}" "${SOURCE_DIR}")
  set(ENV{PYTHONPATH} "${project}/site")
  set(ENV{XDG_CACHE_HOME} "${project}/cache")
  execute_process(COMMAND "${python}" -m pytest -q -rs -p no:cacheprovider "${SOURCE_DIR}/python/tests"
                  WORKING_DIRECTORY "${SOURCE_DIR}"
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  message("${output}${errors}")
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "python/tests failed")
  endif()
endfunction()

# The installed program finds the model that is installed with it.
function(case_program)
  file(REMOVE_RECURSE "${project}")
  run(${CMAKE_COMMAND} --install "${BINARY_DIR}" --prefix "${project}" --component program)
  run_expecting("^, that it is$" "${project}/bin/ds4" run
                --prompt "It is a truth universally acknowledged" --max-tokens 4
                --temperature 0)
  # A configuration that it has never seen, compiled once. The headers are those of the sources.
  set(ENV{XDG_CACHE_HOME} "${project}/cache")
  foreach(file IN ITEMS config.json model.safetensors)
    file(COPY "${SOURCE_DIR}/tests/data/tiny-flash/${file}" DESTINATION "${project}/unseen")
  endforeach()
  file(WRITE "${project}/ids.json" "[[0, 5, 7]]")
  set(logits "${project}/bin/ds4" logits --model "${project}/unseen" --tokens "${project}/ids.json"
             --out "${project}/logits.safetensors")
  run_failing("no compiled-in model has this configuration; [^\n]*; to add it: ds4 add \"[^\n]*unseen/config.json\"\n" ${logits})
  run_expecting("^unseen on simd: [^\n]*/cache/ds4/models/unseen[.]simd[.]"
                "${project}/bin/ds4" add "${project}/unseen")
  run(${logits})
  run_expecting("\nunseen  simd  " "${project}/bin/ds4" models)
  run("${project}/bin/ds4" models --remove unseen)
  run_failing("to add it" ${logits})
  set(config "${project}/share/ds4/models/austen/config.json")
  file(WRITE "${config}" "{")
  execute_process(COMMAND "${project}/bin/ds4" run --prompt "It is" RESULT_VARIABLE result
                  ERROR_VARIABLE errors)
  string(FIND "${errors}" "${config}" at)
  if(NOT result EQUAL 1 OR at EQUAL -1)
    message(FATAL_ERROR "expected an error in ${config}, found ${result}: ${errors}")
  endif()
endfunction()

cmake_language(CALL case_${CASE})
