# install.cmake - what `cmake --install` lays down, and the ways in for a host program:
# find_package(performer), pkg-config performer. The tree may be moved: paths in it are
# relative to the files that hold them. Included last, when every target exists.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(PF_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/performer)

# The OpenMP build of OpenBLAS lies beside the one the system prefers: name its folder.
get_filename_component(PF_OPENBLAS_DIR ${PF_OPENBLAS} DIRECTORY)
set(PF_PC_BLAS "-L${PF_OPENBLAS_DIR} -Wl,-rpath,${PF_OPENBLAS_DIR} -lopenblas")
if(PF_BLAS_FILE)
  set(PF_PC_BLAS "-ldl")
endif()
set_target_properties(performer performer_lua PROPERTIES
                      INSTALL_RPATH "$ORIGIN;${PF_OPENBLAS_DIR}")
set_target_properties(performer_program performer_module PROPERTIES
                      INSTALL_RPATH "${PF_OPENBLAS_DIR}")
set_target_properties(performer_static PROPERTIES EXPORT_NAME static)
set_target_properties(performer_lua PROPERTIES EXPORT_NAME lua)

# The static library has a set of its own: only its users need the libraries below it.
install(TARGETS performer performer_lua EXPORT performer
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS performer_static EXPORT performer_static
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS performer_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${CMAKE_SOURCE_DIR}/engine/include/performer.h
              ${CMAKE_SOURCE_DIR}/engine/include/performer_attention.h
              ${CMAKE_SOURCE_DIR}/engine/include/performer_data.h
              ${CMAKE_SOURCE_DIR}/engine/include/performer_extend.h
              ${CMAKE_SOURCE_DIR}/bindings/performer_lua.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# Lua: for a stock lua5.4, and for the executable, which looks beside itself.
install(TARGETS performer_module LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/lua/5.4)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/bindings/performer
        DESTINATION ${CMAKE_INSTALL_DATADIR}/lua/5.4 FILES_MATCHING PATTERN "*.lua")
install(DIRECTORY ${CMAKE_SOURCE_DIR}/bindings/performer
        DESTINATION ${CMAKE_INSTALL_DATADIR}/performer/lua FILES_MATCHING PATTERN "*.lua")
install(DIRECTORY ${CMAKE_SOURCE_DIR}/scripts
        DESTINATION ${CMAKE_INSTALL_DATADIR}/performer FILES_MATCHING PATTERN "*.lua")

# find_package(performer [COMPONENTS static])
install(EXPORT performer NAMESPACE performer:: DESTINATION ${PF_CMAKE_DIR}
        FILE performer-targets.cmake)
install(EXPORT performer_static NAMESPACE performer:: DESTINATION ${PF_CMAKE_DIR}
        FILE performer-static.cmake)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/performer-config.cmake.in
                              ${CMAKE_BINARY_DIR}/performer-config.cmake
                              INSTALL_DESTINATION ${PF_CMAKE_DIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/performer-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/performer-config.cmake
              ${CMAKE_BINARY_DIR}/performer-config-version.cmake
        DESTINATION ${PF_CMAKE_DIR})

# pkg-config: the prefix is found from the place of the .pc file.
file(RELATIVE_PATH PF_PC_PREFIX /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
string(REGEX REPLACE "/$" "" PF_PC_PREFIX "${PF_PC_PREFIX}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/performer.pc.in ${CMAKE_BINARY_DIR}/performer.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/performer.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
