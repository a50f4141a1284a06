-- search_spec.lua - where programs and modules look for what they load: never in the folder that
-- they happen to be called in.
local lfs = require "lfs"
local support = require "spec.support"

local build = support.build
local folder

local function path(name) return folder .. "/" .. name end

--- Runs a command in folder `name` of the spec's.
local function run_in(name, command)
  return support.shell(("cd '%s' && OMP_WAIT_POLICY=passive %s"):format(path(name), command))
end

--- Every program, library and module of the build: those that begin as ELF does.
local function binaries()
  local found = {}
  for _, part in ipairs { "bin", "lib", "lua", "examples" } do
    if lfs.attributes(build .. "/" .. part, "mode") == "directory" then
      for name in lfs.dir(build .. "/" .. part) do
        local file = ("%s/%s/%s"):format(build, part, name)
        local text = lfs.attributes(file, "mode") == "file" and io.open(file, "rb")
        if text and text:read(4) == "\127ELF" then found[#found + 1] = file end
        if text then text:close() end
      end
    end
  end
  return found
end

describe("what is loaded", function()
  setup(function()
    folder = support.folder()
    for _, name in ipairs { "here", "there", "prefix", "prefix/lib", "prefix/lib/lua",
                            "prefix/lib/lua/5.4", "prefix/share", "prefix/share/lua",
                            "prefix/share/lua/5.4" } do
      assert(lfs.mkdir(path(name)))
    end
  end)
  teardown(function() support.remove(folder) end)

  it("has no empty and no relative element in any binary's search path", function()
    local list = binaries()
    assert.is_true(#list >= 6, "only " .. #list .. " binaries in " .. build)
    for _, file in ipairs(list) do
      local code, out, err = support.shell(("readelf -d '%s'"):format(file))
      assert.are.equal(0, code, err)
      for elements in out:gmatch "%(R[UN]*PATH%)[^\n]*%[([^\n]*)%]" do
        for element in (elements .. ":"):gmatch "(.-):" do
          assert.is_truthy(element:find "^/" or element:find "^%$ORIGIN",
            ("%s looks in '%s' (of [%s])"):format(file, element, elements))
        end
      end
    end
  end)

  it("is no library of the current folder", function()
    for _, name in ipairs { "libz.so.1", "libxxhash.so.0", "libgomp.so.1",
                            "liblua5.4.so.0", "libperformer.so.0", "libopenblas.so.0" } do
      support.write(path("here/" .. name), "no library: whoever looks here says so")
    end
    local code, out, err = run_in("here", build .. "/bin/performer --version")
    assert.are.equal(0, code, err)
    assert.is_truthy(out:find "^performer ")
    code, out, err = run_in("here", ("LUA_CPATH='%s/lua/?.so' LUA_PATH='' lua5.4 -e '%s'"):format(
      build, 'local pf = require "performer" print(pf.info().blas)'))
    assert.are.equal(0, code, err)
    assert.is_nil(out:find "no OpenBLAS")
  end)

  it("is a script's neighbour, and nothing of the current folder", function()
    support.write(path "here/stray.lua", "error 'run'")
    support.write(path "here/stray_too.so", "no library")
    support.write(path "there/beside.lua", "return 'found'")
    support.write(path "there/main.lua", [[
      assert(require "beside" == "found")
      for _, name in ipairs { "stray", "stray_too" } do
        local good, message = pcall(require, name)
        assert(not good and message:find("module '" .. name .. "' not found", 1, true), message)
      end]])
    local code, _, err = run_in("here", build .. "/bin/performer ../there/main.lua")
    assert.are.equal(0, code, err)
    code, _, err = run_in("there", build .. "/bin/performer main.lua")
    assert.are.equal(0, code, err)
  end)

  it("is a model file's neighbour", function()
    support.write(path "there/width.lua", "return 16")
    support.write(path "there/model.lua", [[
      local dim = require "width"
      return function(o)
        return require "performer".nn.performer { vocab = o.vocab, dim = dim, layers = 1, heads = 2,
          length = 32, causal = true }
      end]])
    support.write(path "there/t.txt", ("to be or not to be, "):rep(60))
    local code, _, err = run_in("here", build .. "/bin/performer train --data ../there/t.txt " ..
      "--model ../there/model.lua --length 32 --batch 2 --steps 1 --out run")
    assert.are.equal(0, code, err)
  end)

  it("is found from performer.so alone, in a build and installed", function()
    local say = [[lua5.4 -e 'print(require "performer".ones(2):sum():item())']]
    assert(lfs.link(build .. "/lua/performer.so", path "prefix/lib/lua/5.4/performer.so", true))
    assert(lfs.link(build .. "/lua/performer", path "prefix/share/lua/5.4/performer", true))
    for _, place in ipairs { build .. "/lua", path "prefix/lib/lua/5.4" } do
      local code, out, err = run_in("here", ("LUA_PATH='' LUA_CPATH='%s/?.so' %s"):format(
        place, say))
      assert.are.equal(0, code, err)
      assert.are.equal("2.0\n", out)
    end
    os.remove(path "prefix/share/lua/5.4/performer")
    local code, _, err = run_in("here", ("LUA_PATH='' LUA_CPATH='%s/?.so' %s"):format(
      path "prefix/lib/lua/5.4", say))
    assert.are.equal(1, code)
    assert.is_truthy(err:find("no performer/init.lua", 1, true), err)
  end)
end)
