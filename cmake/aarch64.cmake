# A toolchain file: compiles for 64-bit Arm on another Linux, and runs what was compiled with QEMU. For
# Debian's packages g++-aarch64-linux-gnu and qemu-user; DS4_ARM_ROOT is a folder with the libraries,
# as scripts/test-arm makes it. QEMU_CPU in the environment chooses the processor.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)  # GCC's notes on what GCC 10 changed
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DS4_ARM_ROOT)
set(CMAKE_FIND_ROOT_PATH "${DS4_ARM_ROOT}" /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
