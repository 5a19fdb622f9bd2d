# The SDK for reward plugins (include/unigrpo) and what is installed: `cmake --install build --prefix P`, then
# find_package(unigrpo) with P on CMAKE_PREFIX_PATH gives the target unigrpo::sdk.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(unigrpo_sdk INTERFACE)
set_target_properties(unigrpo_sdk PROPERTIES EXPORT_NAME sdk)
target_include_directories(unigrpo_sdk INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                                 $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(unigrpo_sdk INTERFACE cxx_std_17)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/unigrpo)
configure_package_config_file(cmake/unigrpoConfig.cmake.in ${CMAKE_BINARY_DIR}/package/unigrpoConfig.cmake
                              INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/package/unigrpoConfigVersion.cmake COMPATIBILITY SameMajorVersion
                                 ARCH_INDEPENDENT)
install(DIRECTORY include/unigrpo DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS unigrpo_sdk EXPORT unigrpo)
install(EXPORT unigrpo NAMESPACE unigrpo:: DESTINATION ${package} FILE unigrpoTargets.cmake)
install(FILES ${CMAKE_BINARY_DIR}/package/unigrpoConfig.cmake ${CMAKE_BINARY_DIR}/package/unigrpoConfigVersion.cmake
        DESTINATION ${package})
