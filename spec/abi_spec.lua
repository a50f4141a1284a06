-- abi_spec.lua - the libraries as a loader and an older program see them: SONAME, the names that
-- they export and import, and prototypes, structs and constants that programs were compiled with.
-- Sentences of engine/LIVING_IN_A_HOST.md have their tags here.
local support = require "spec.support"

local LIBRARIES = { "libperformer.so", "libperformer_lua.so" }

local function run(command)
  local code, out, err = support.shell(command)
  assert.equal(0, code, command .. ": " .. err)
  return out
end

local function path(name) return support.build .. "/lib/" .. name end

--- Names of a library's symbols: defined ones, or those that it takes from elsewhere.
local function symbols(name, which)
  local set = {}
  for line in run(("nm -D --%s-only %s"):format(which, path(name))):gmatch "[^\n]+" do
    set[line:match "([^%s@]+)[^%s]*$"] = true
  end
  return set
end

--- Functions that the headers have, those that are inline and stand in the library too among them.
local function prototypes(headers)
  local set = {}
  for _, header in ipairs(headers) do
    local text = support.read(header):gsub("/%*.-%*/", " "):gsub("%s+", " ")
    for name in text:gmatch "PF_API [%w_ *]-(pf_[%w_]+)%(" do set[name] = true end
  end
  return set
end

local function core_headers()
  local list = {}
  for name in run("ls engine/include/*.h"):gmatch "[^\n]+" do list[#list + 1] = name end
  return list
end

describe("the libraries", function()
  local sanitized = run("nm -D " .. path "libperformer.so"):find "__[at]san_" ~= nil

  it("have the number of the ABI in their SONAME", function() -- [versions.2]
    local abi = support.read("engine/include/performer.h"):match "#define PF_ABI_VERSION%s+(%d+)"
    for _, name in ipairs(LIBRARIES) do
      local soname = run("readelf -d " .. path(name)):match "SONAME[^%[]*%[([^%]]*)%]"
      assert.equal(name .. "." .. abi, soname)
    end
  end)

  it("export what the headers have, and nothing else", function() -- [versions.3]
    local headers = { ["libperformer.so"] = core_headers(),
                      ["libperformer_lua.so"] = { "bindings/performer_lua.h" } }
    for _, name in ipairs(LIBRARIES) do
      local exported, said = symbols(name, "defined"), prototypes(headers[name])
      exported.luaopen_performer_core, exported.luaopen_performer = nil, nil
      exported.pf_engine_open = nil -- for who finds functions by name (performer.h)
      for symbol in pairs(exported) do
        if not symbol:find "^__" then -- a sanitizer's
          assert.is_true(said[symbol], name .. " exports " .. symbol)
        end
      end
      for symbol in pairs(said) do
        assert.is_true(exported[symbol], name .. " lacks " .. symbol)
      end
    end
  end)

  it("import nothing that ends, prints, or changes the process", function() -- [ends.1]
    if sanitized then return end -- whose run-time library does
    for _, name in ipairs(LIBRARIES) do
      local imported = symbols(name, "undefined")
      for _, word in ipairs { "abort", "exit", "_exit", "_Exit", "quick_exit", "__assert_fail",
        "raise", "printf", "__printf_chk", "vprintf", "puts", "putchar", "putc", "perror", "signal",
        "sigaction", "setlocale", "rand", "random", "srand", "fork", "vfork", "system", "popen",
        "execve", "chdir", "umask", "setenv", "putenv", "atexit", "errx", "warn", "syslog",
        "openblas_set_num_threads", "omp_set_dynamic", "omp_set_max_active_levels" } do
        assert.is_nil(imported[word], name .. " imports " .. word)
      end
    end
  end)

  it("keep what programs were compiled with", function() -- [versions.6]
    local code, out = support.shell("lua5.4 .ci/abi.lua --check")
    assert.equal(0, code, out)
  end)
end)

-- [versions.4]
describe("a struct that crosses the border", function()
  -- Without a size: elements of arrays, or parts of what is one call's alone.
  local plain = { pf_named = "elements of arrays", pf_attr = "elements of arrays",
                  pf_attr_info = "elements of arrays", pf_served = "elements of arrays",
                  pf_value = "elements of arrays" }

  it("begins with its size, but for elements of arrays", function()
    local headers, n = core_headers(), 0
    headers[#headers + 1] = "bindings/performer_lua.h"
    for _, header in ipairs(headers) do
      local text = support.read(header):gsub("/%*.-%*/", " "):gsub("%s+", " ")
      for body, name in text:gmatch "typedef struct [%w_]*%s*(%b{}) (pf_[%w_]+);" do
        n = n + 1
        local sized = body:find "^{ size_t size;" ~= nil
        assert.equal(plain[name] == nil, sized, name)
      end
    end
    assert.is_true(n > 20)
  end)
end)
