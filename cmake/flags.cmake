# Flags of every target made after this file is read, third-party sources too: what parses strangers' bytes must be
# hardened and watched whoever wrote it.
if(CMAKE_BUILD_TYPE STREQUAL "Release" OR CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
  add_compile_options(-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection)
  add_link_options(-pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)
endif()
if(FAIRLEAD_SANITIZE)
  add_compile_options(-fsanitize=${FAIRLEAD_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${FAIRLEAD_SANITIZE})
endif()

# Flags for our own code (target fairlead_flags), never for third-party sources.
add_library(fairlead_flags INTERFACE)
target_include_directories(fairlead_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(fairlead_flags INTERFACE _GNU_SOURCE FAIRLEAD_VERSION="${PROJECT_VERSION}")
target_compile_options(fairlead_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla
  -Wimplicit-fallthrough -Werror -fno-omit-frame-pointer -fno-common -g)
