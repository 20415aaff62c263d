# Every outside library, as Debian 12 packages it (deploy/setup.sh installs them).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(ZMQ REQUIRED IMPORTED_TARGET libzmq)
pkg_check_modules(PROTOBUFC REQUIRED IMPORTED_TARGET libprotobuf-c)
pkg_check_modules(EVENT REQUIRED IMPORTED_TARGET libevent libevent_pthreads)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(HWLOC REQUIRED IMPORTED_TARGET hwloc)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl)
pkg_check_modules(UCX REQUIRED IMPORTED_TARGET ucx)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
if(BATON_CUDA)
    find_package(CUDAToolkit 12 REQUIRED)
endif()
find_program(PROTOC_C protoc-c REQUIRED)

# Debian ships llhttp as C sources inside node-llhttp.
set(LLHTTP_DIR /usr/share/llhttp CACHE PATH "Folder of llhttp's C sources")
add_library(llhttp STATIC ${LLHTTP_DIR}/llhttp.c ${LLHTTP_DIR}/api.c ${LLHTTP_DIR}/http.c)
target_include_directories(llhttp SYSTEM PUBLIC /usr/share/include/llhttp)

# baton_library(NAME SUBDIRS... LINK targets...): the .c files of this folder as
# a static library. main.c and *_main.c belong to programs, not to the library.
function(baton_library name)
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
    list(FILTER sources EXCLUDE REGEX "main\\.c$")
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PUBLIC baton_flags ${ARGN})
endfunction()
