-- luarocks --lua-version 5.4 make: the Lua module alone, for a stock lua5.4. Needs cmake, pkg-config and the
-- libraries that the README names.
rockspec_format = "3.0"
package = "performer"
version = "scm-1"
source = { url = "git+file://." }
description = {
  summary = "Performers (transformers with linear attention) on CPUs",
  license = "MIT",
}
dependencies = { "lua >= 5.4, < 5.5" }
build = {
  type = "command",
  build_command = "cmake -S . -B build/rock -DCMAKE_BUILD_TYPE=Release -DPERFORMER_TESTS=OFF"
    .. " -DPERFORMER_EXAMPLES=OFF -DPERFORMER_LUA_LIBDIR='$(LIBDIR)'"
    .. " -DPERFORMER_LUA_SHAREDIR='$(LUADIR)'"
    .. " && cmake --build build/rock --parallel 4 --target performer_module",
  install_command = "cmake --install build/rock --component lua",
}
