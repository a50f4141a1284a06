# install.cmake - what `cmake --install` lays down, and the ways in for a host program:
# find_package(performer), pkg-config performer. The tree may be moved: paths in it are
# relative to the files that hold them. Included last, when every target exists.
#
# Components: `engine` for hosts; `lua` for a stock lua5.4; `program`, the commands.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(PF_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/performer)
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME engine)

# The static libraries have a set of their own: only their users need the libraries below them.
set_target_properties(performer_static PROPERTIES EXPORT_NAME static)
set(PF_SHARED performer)
set(PF_STATIC performer_static)
if(PERFORMER_LUA)
  set_target_properties(performer_lua PROPERTIES EXPORT_NAME lua)
  set_target_properties(performer_lua_static PROPERTIES EXPORT_NAME lua_static)
  list(APPEND PF_SHARED performer_lua)
  list(APPEND PF_STATIC performer_lua_static)
  install(FILES ${PROJECT_SOURCE_DIR}/bindings/performer_lua.h
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()
install(TARGETS ${PF_SHARED} EXPORT performer LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS ${PF_STATIC} EXPORT performer_static
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/engine/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "performer*.h")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md
              ${PROJECT_SOURCE_DIR}/CHANGELOG.md ${PROJECT_SOURCE_DIR}/SECURITY.md
        DESTINATION ${CMAKE_INSTALL_DOCDIR})
file(GLOB_RECURSE PF_PAGES RELATIVE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/engine/*.md
     ${PROJECT_SOURCE_DIR}/bindings/*.md)
foreach(page ${PF_PAGES})
  get_filename_component(folder ${page} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${page} DESTINATION ${CMAKE_INSTALL_DOCDIR}/${folder})
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DOCDIR}
        PATTERN "CMakeLists.txt" EXCLUDE)
install(CODE "set(PF_DOC \"${CMAKE_INSTALL_DOCDIR}\")
              set(PF_INCLUDE \"${CMAKE_INSTALL_INCLUDEDIR}\")")
install(SCRIPT ${CMAKE_CURRENT_LIST_DIR}/install_links.cmake)

# The plugin, and its source for a cluster with an MPI of its own: performer_transport.h has the line.
if(TARGET performer_mpi)
  install(TARGETS performer_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(FILES ${CMAKE_CURRENT_LIST_DIR}/plugins/mpi.c
        DESTINATION ${CMAKE_INSTALL_DATADIR}/performer)

# For a stock lua5.4: where LuaRocks or a distribution wants them, and by default where Lua of
# the same prefix looks.
set(PERFORMER_LUA_LIBDIR ${CMAKE_INSTALL_LIBDIR}/lua/5.4 CACHE STRING "for performer.so")
set(PERFORMER_LUA_SHAREDIR ${CMAKE_INSTALL_DATADIR}/lua/5.4 CACHE STRING "for performer/*.lua")
if(PERFORMER_LUA)
  install(TARGETS performer_module COMPONENT lua LIBRARY DESTINATION ${PERFORMER_LUA_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/bindings/performer COMPONENT lua
          DESTINATION ${PERFORMER_LUA_SHAREDIR} FILES_MATCHING PATTERN "*.lua")

  # The program and libperformer_lua find the Lua files from their own place, so each component has
  # them; performer.so is among them for busted, and for editors what they read.
  set(PF_HOME ${CMAKE_INSTALL_DATADIR}/performer)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/bindings/performer COMPONENT engine
          DESTINATION ${PF_HOME}/lua FILES_MATCHING PATTERN "*.lua")
  install(TARGETS performer_program COMPONENT program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(TARGETS performer_module COMPONENT program LIBRARY DESTINATION ${PF_HOME}/lua)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/bindings/performer COMPONENT program
          DESTINATION ${PF_HOME}/lua FILES_MATCHING PATTERN "*.lua")
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/scripts COMPONENT program
          DESTINATION ${PF_HOME} FILES_MATCHING PATTERN "*.lua")
  install(PROGRAMS ${PROJECT_SOURCE_DIR}/scripts/again COMPONENT program
          DESTINATION ${PF_HOME}/scripts)
  install(FILES ${PROJECT_SOURCE_DIR}/bindings/annotations/performer.lua COMPONENT program
          DESTINATION ${PF_HOME}/annotations)
  install(DIRECTORY ${PROJECT_BINARY_DIR}/share/man/ COMPONENT program OPTIONAL
          DESTINATION ${CMAKE_INSTALL_MANDIR})
  foreach(shell bash-completion zsh fish)
    install(DIRECTORY ${PROJECT_BINARY_DIR}/share/${shell} COMPONENT program OPTIONAL
            DESTINATION ${CMAKE_INSTALL_DATADIR})
  endforeach()
endif()

# cmake --build BUILD --target uninstall: what the last `cmake --install` of it laid down.
add_custom_target(uninstall COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR}
                                    -P ${CMAKE_CURRENT_LIST_DIR}/uninstall.cmake)

# find_package(performer [COMPONENTS static lua])
install(EXPORT performer NAMESPACE performer:: DESTINATION ${PF_CMAKE_DIR}
        FILE performer-targets.cmake)
install(EXPORT performer_static NAMESPACE performer:: DESTINATION ${PF_CMAKE_DIR}
        FILE performer-static.cmake)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/performer-config.cmake.in
                              ${PROJECT_BINARY_DIR}/performer-config.cmake
                              INSTALL_DESTINATION ${PF_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/performer-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/performer-config.cmake
              ${PROJECT_BINARY_DIR}/performer-config-version.cmake
        DESTINATION ${PF_CMAKE_DIR})

# pkg-config: the prefix is found from the place of the .pc file. A linked BLAS lies beside the
# one the system prefers, so its folder is named.
file(RELATIVE_PATH PF_PC_PREFIX /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
string(REGEX REPLACE "/$" "" PF_PC_PREFIX "${PF_PC_PREFIX}")
set(PF_PC_BLAS "-ldl")
if(NOT PF_BLAS_FILE)
  get_filename_component(PF_OPENBLAS_DIR ${PF_OPENBLAS} DIRECTORY)
  pf_target_path(PF_OPENBLAS_DIR "${PF_OPENBLAS_DIR}")
  set(PF_PC_BLAS "-L${PF_OPENBLAS_DIR} -Wl,-rpath,${PF_OPENBLAS_DIR} -lopenblas")
endif()
set(PF_PC_FILES performer)
set(PF_PC_LUA ${LUA_MODULE_NAME})
if(PERFORMER_LUA)
  list(APPEND PF_PC_FILES performer_lua)
endif()
foreach(name ${PF_PC_FILES})
  configure_file(${CMAKE_CURRENT_LIST_DIR}/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
