-- living_spec.lua - engine/LIVING_IN_A_HOST.md: each sentence has a tag, each tag a test, and no
-- test speaks of a sentence that is not there. The tests are C programs; what needs a compiler or a
-- folder of its own stands here.
local lfs = require "lfs"
local support = require "spec.support"

local PAGE = "engine/LIVING_IN_A_HOST.md"

--- The sentences of the page: tag -> text; and what stands there without a tag.
local function sentences()
  local found, loose, text = {}, {}, support.read(PAGE)
  local body = text:sub(text:find "\n## " + 1)
  for block in body:gsub("\n  ", " "):gmatch "[^\n]+" do
    local tag, sentence = block:match "^%* %[([a-z]+%.%d+)%] (.*)$"
    if tag then
      assert.is_nil(found[tag], tag .. " stands there twice")
      found[tag] = sentence
    elseif not block:find "^## " then
      loose[#loose + 1] = block
    end
  end
  return found, loose
end

--- Tags in the tests: tag -> the file that has it.
local function tags()
  local found = {}
  local function read(path)
    for tag in support.read(path):gmatch "%[([a-z]+%.%d+)%]" do found[tag] = path end
  end
  for _, folder in ipairs { "spec", "spec/c" } do
    for name in lfs.dir(folder) do
      if name:find "_test%.c$" or name:find "_spec%.lua$" then read(folder .. "/" .. name) end
    end
  end
  return found
end

describe("living in a host", function()
  local said, loose = sentences()

  it("is told in sentences with tags, one each", function()
    assert.same({}, loose)
    for tag, sentence in pairs(said) do
      assert.is_nil(sentence:find "[%.!?] %u", tag .. " has more than one sentence")
      assert.matches("%.$", sentence, 1, false, tag)
    end
  end)

  it("is tested, sentence by sentence", function()
    local tested, missing = tags(), {}
    for tag in pairs(said) do
      if not tested[tag] then missing[#missing + 1] = "no test has [" .. tag .. "]" end
    end
    for tag, path in pairs(tested) do
      if not said[tag] then missing[#missing + 1] = path .. " has [" .. tag .. "]" end
    end
    assert.same({}, missing)
  end)
end)

-- ---- what needs a compiler -----------------------------------------------------------

-- [callbacks.5]: exceptions of a layer and of a logger are kept, and thrown again behind the call.
local CPP = [[
#include "performer.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

static long held;
static void *resize(void *, void *block, size_t old_bytes, size_t bytes) {
    void *moved = bytes ? std::realloc(block, bytes) : nullptr;
    if (!bytes) std::free(block);
    if (moved || !bytes) held += (long)bytes - (long)old_bytes;
    return moved;
}

static std::exception_ptr kept;

static int forward(void *, pf_engine *, pf_tensor *, const pf_pass *, pf_tensor **) noexcept {
    try {
        throw std::runtime_error("the valve is shut");
    } catch (const std::exception &problem) {
        kept = std::current_exception();
        return pf_set_error(PF_EHOST, problem.what());
    }
}

static int work(pf_engine *engine) {
    const int64_t shape[] = {2, 3};
    pf_host_layer layer = pf_host_layer();
    layer.size = sizeof layer, layer.forward = forward;
    pf_module *module = nullptr;
    pf_tensor *x = nullptr, *y = nullptr;
    std::string caught;
    if (pf_tensor_full(&x, engine, PF_F32, 2, shape, 1) < 0) return 1;
    if (pf_module_host(&module, engine, "valve", &layer, nullptr, 0) < 0) return 2;
    int status = pf_module_forward(&y, engine, module, x, nullptr);
    if (status != PF_EHOST || y || !std::strstr(pf_last_error(), "the valve is shut")) return 3;
    try {
        std::rethrow_exception(kept);
    } catch (const std::runtime_error &problem) {
        caught = problem.what();
    }
    pf_tensor *const two[] = {x, x};
    if (pf_op_apply(engine, pf_op_find(engine, "mul"), two, 2, nullptr, &y) < 0) return 4;
    pf_tensor_release(&x), pf_tensor_release(&y), pf_module_release(&module);
    return caught == "the valve is shut" ? 0 : 5;
}

int main() {
    pf_allocator allocator = pf_allocator();
    allocator.size = sizeof allocator, allocator.resize = resize;
    pf_options options = pf_options_default();
    options.allocator = &allocator;
    pf_engine *engine = nullptr;
    if (pf_engine_open(&engine, &options) < 0) return 6;
    int failed = work(engine);
    pf_engine_close(&engine);
    return failed ? failed : held != 0 ? 7 : 0;
}
]]

-- A library of a name that the engine or the program loads, which tells that it was loaded.
local TRAP = [[
#include <fcntl.h>
__attribute__((constructor)) static void sprung(void) { open("sprung", O_CREAT | O_WRONLY, 0600); }
]]

describe("a host", function()
  local build = support.build
  local folder
  setup(function() folder = support.folder() end)
  teardown(function() support.remove(folder) end)

  local function good(command)
    local code, out, err = support.shell(command)
    assert.equal(0, code, command .. ": " .. out .. err)
  end

  it("in C++ keeps what its callbacks throw", function()
    if support.shell "command -v g++" ~= 0 then return pending "no C++ compiler" end
    support.write(folder .. "/host.cpp", CPP)
    good(("env -u LD_PRELOAD g++ -std=c++11 -Wall -Wextra -Werror -Iengine/include -o %s/host "
      .. "%s/host.cpp -L%s/lib -lperformer -Wl,-rpath,%s/lib"):format(folder, folder, build, build))
    good(folder .. "/host")
  end)

  -- [process.7]
  it("that stands in a stranger's folder loads nothing from it", function()
    local script = folder .. "/script.lua"
    support.write(folder .. "/trap.c", TRAP)
    support.write(folder .. "/performer.lua", "io.open('sprung', 'w'):close()")
    support.write(script, "local pf = require 'performer' pf.randn(99, 99):matmul(pf.ones(99, 99))")
    support.library(folder .. "/trap.so", folder .. "/trap.c")
    good(("cd %s && for name in "
      .. "libopenblas.so.0 libz.so.1 libxxhash.so.0 libperformer.so liblua5.4.so.0; do "
      .. "cp trap.so $name; done && mkdir -p performer && cp trap.so performer.so && cp trap.so "
      .. "performer/core.so"):format(folder))
    os.rename(script, folder .. "/performer/script.lua") -- a script's own folder is its own
    good(("cd %s && PF_CPU=generic %s/bin/performer performer/script.lua"):format(folder, build))
    good(("cd %s && %s/examples/embed nothing; [ $? -eq 1 ]"):format(folder, build))
    assert.is_nil(lfs.attributes(folder .. "/sprung"))
    -- It would have sprung.
    good(("cd %s && LD_LIBRARY_PATH=. %s/bin/performer --version; true"):format(folder, build))
    assert.is_table(lfs.attributes(folder .. "/sprung"))
  end)
end)
