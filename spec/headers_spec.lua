-- The public headers and the example host programs compile without a warning in every standard that
-- a host may be written in, by whichever of GCC and clang is there.
local lfs = require "lfs"
local support = require "spec.support"
local directory = os.tmpname()
os.remove(directory)

-- What a host writes: the defaults either way, a struct of its own, the call that sees versions.
local HOST = [[
#include "performer.h"
#include "performer_attention.h"
#include "performer_lua.h"
int host(void);
int host(void) {
    pf_options options = PF_OPTIONS_DEFAULT, same = pf_options_default();
    pf_engine *engine = %s;
    pf_info info;
    info.size = sizeof info;
    options.threads = same.threads;
    if (pf_engine_open(&engine, &options) < 0) return pf_set_error(PF_EHOST, "no engine");
    return pf_engine_info(engine, &info);
}
]]
local FLAGS = "-fsyntax-only -pedantic -Wall -Wextra -Wundef -Werror -Iengine/include -Ibindings"

local function there(compiler) return support.shell("command -v " .. compiler) == 0 end

--- Compiles `files` by each compiler that is there, in each standard that it knows.
local function compile(files, language, compilers, standards, more)
  local compiled = 0
  for _, compiler in ipairs(compilers) do
    for _, standard in ipairs(there(compiler) and standards or {}) do
      -- A sanitizer's library is for the engine, not for compilers.
      local command = "env -u LD_PRELOAD %s -std=%s -x %s %s %s %s"
      local code, _, said = support.shell(command:format(compiler, standard, language, FLAGS,
        more or "", files))
      if not said:find "std=" then -- unrecognized, or an invalid value
        assert.equal(0, code, compiler .. " " .. standard .. ": " .. said)
        compiled = compiled + 1
      end
    end
  end
  return compiled
end

local function write(name, text)
  local file = assert(io.open(directory .. "/" .. name, "w"))
  file:write(text)
  file:close()
  return directory .. "/" .. name
end

describe("the public headers", function()
  setup(function() assert(lfs.mkdir(directory)) end)
  teardown(function() support.shell("rm -r " .. directory) end)

  local c = { "gcc", "clang" }

  -- [versions.5] of engine/LIVING_IN_A_HOST.md
  it("are C99, C11, C17 and C23", function()
    local n = compile(write("host.c", HOST:format "0"), "c", c, { "c99", "c11", "c17", "c2x" })
    assert.is_true(n > 0)
  end)

  it("are C++11 to C++23", function()
    local host = write("host.cpp", HOST:format "nullptr")
    local n = compile(host, "c++", { "g++", "clang++" },
      { "c++11", "c++14", "c++17", "c++20", "c++23" },
      "-Wold-style-cast -Wzero-as-null-pointer-constant")
    if n == 0 then pending "no C++ compiler" end
  end)

  it("stand for themselves, each one", function()
    local pages = {}
    for _, folder in ipairs { "engine/include", "bindings" } do
      for name in lfs.dir(folder) do
        if name:find "^performer.*%.h$" then
          pages[#pages + 1] = write(name .. ".c", ("#include \"%s\"\nint x;\n"):format(name))
        end
      end
    end
    assert.is_true(compile(table.concat(pages, " "), "c", c, { "c99" }) > 0)
  end)

  it("serve the example hosts", function()
    assert.is_true(compile("examples/hosts/embed.c", "c", c, { "c99" }) > 0)
    assert.is_true(compile("examples/hosts/*.c", "c", c, { "c11", "c17" }) > 0)
    compile("examples/hosts/*.cpp", "c++", { "g++", "clang++" }, { "c++11", "c++17", "c++20" })
  end)
end)
