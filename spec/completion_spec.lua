-- completion_spec.lua - what the prompt's Tab completes (bindings/performer/repl/complete.lua).
local complete = require "performer.repl.complete"
local pf = require "performer"
local repl = require "performer.repl"
local support = require "spec.support"

describe("the prompt completes", function()
  local s
  local globals = {}

  before_each(function()
    for name, value in pairs(_G) do globals[name] = value end
    _G.pf, _G.nn = pf, pf.nn
    s = repl.session { clock = function() return 0 end }
    s:feed "spec_tensor = pf.ones(2) local spec_local = { inner = { deep = 1 }, f = print }"
    s:feed "spec_model = nn.linear { from = 2, to = 2 }"
  end)

  after_each(function()
    for name in pairs(_G) do
      if globals[name] == nil then _G[name] = nil end
    end
  end)

  local function found(text) return (complete.find(text, s.environment)) end

  --- What is found, of these options alone.
  local function with(names)
    return function(text)
      local list, kept = found(text), {}
      for _, name in ipairs(list) do
        for _, wanted in ipairs(names) do
          if name == wanted .. " = " then kept[#kept + 1] = name end
        end
      end
      return kept
    end
  end

  it("names, fields and methods", function()
    assert.same({ "spec_local", "spec_model", "spec_tensor" }, found "spec_")
    assert.same({ "pf" }, found "x = pf")
    assert.same({ "function" }, found "funct")
    assert.same({ "log_partition", "log_softmax" }, found "pf.log_")
    assert.same({ "f", "inner" }, found "spec_local.")
    assert.same({ "deep" }, found "(spec_local.inner.de")
    assert.same({ "sub", "sub_", "sum" }, found "spec_tensor:su")
    assert.same({ "children" }, found "spec_model:chi")
    assert.same({ "rep", "reverse" }, found "('x'):re")
    assert.same({ "upper" }, found "string.up")
    assert.same({ "f" }, found "spec_local:")
    assert.same({ "matmul" }, found "?pf.matm")
  end)

  it("methods of what a call gives, by what the reference says of it", function()
    assert.same({ "numel" }, found "pf.ones(2, 3):num")
    assert.same({ "numel" }, found "print(pf.ones({ 2 }):reshape(1, 2):relu():num")
    assert.same({ "children" }, found "nn.linear { from = 2, to = 2 }:chi")
    assert.same({ "numel" }, found "spec_model(spec_tensor):num")
    assert.same({ "backward" }, found "pf.tape():back")
    assert.same({ "keep = " }, found "pf.ones(2):relu():sum { ke")
    assert.same({}, found "print(1):num")
    assert.same({}, found "unknown(1):num")
    assert.same({}, found "(1):num")
  end)

  it("nothing where there is nothing, without calling anybody", function()
    s:feed "spec_odd = setmetatable({}, { __index = function() error 'called' end })"
    for _, text in ipairs { "nope.x", "spec_odd.", "spec_f().a", "'abc", "-- pf.", "1 .. pf.zzz",
                            "pf.matmul(", "[[ pf.ma" } do
      assert.not_has_error(function() found(text) end)
    end
    assert.same({}, found "spec_odd.x")
    assert.same({}, found "[[ pf.ma")
    assert.same({}, found "pf.none.")
  end)

  it("options of a call, and what they may be", function()
    assert.same({ "from = " }, found "nn.linear { fr")
    assert.same({ "from = " }, found "nn.linear({ to = 3, fr")
    assert.same({ "from = " }, found "x = { nn.linear { act = 'relu', fr")
    assert.same({ "decay = " }, found "pf.optim.adamw(spec_model, { lr = 1, dec")
    assert.same({ "threads = " }, found "pf.open { thr")
    assert.same({ "keep = " }, found "spec_tensor:sum { ke")
    assert.same({ "square_relu" }, found "nn.linear { act = 'sq")
    assert.is_truthy(#found "nn.block { " > 20)
    assert.same({ "training = " }, found "spec_model(spec_tensor, { tr")
    assert.same({ "from = ", "to = " }, with { "from", "to" } "nn.linear { act = f { to = 1 }, ")
    assert.same({ "from = " }, with { "from", "to" } "nn.linear { to = 1, ")
    s:feed "local make = nn.linear"
    assert.same({ "from = " }, found "make {\n  to = 3,\n  fr")
    assert.same({}, found "nn.linear { from = zz")
  end)

  it("files in quotes", function()
    local folder = support.folder()
    support.write(folder .. "/one.txt", "")
    support.write(folder .. "/other.txt", "")
    assert.same({ folder .. "/one.txt" }, found("pf.load('" .. folder .. "/on"))
    assert.same({ folder .. "/one.txt", folder .. "/other.txt" },
      found('x = { "a", "' .. folder .. "/o"))
    assert.same({}, found("'" .. folder .. "/none/x"))
    assert.equal('e.txt"', (complete.at('"' .. folder .. "/on", s.environment, 80)))
    support.remove(folder)
  end)

  it("files without running any of the folder that it was called in", function()
    local folder = support.folder()
    support.write(folder .. "/lfs.lua", "print 'ran'")
    local code, out = support.shell(([[performer=$(realpath %s/bin/performer) && cd %s &&
      $performer -e '
        local complete = require "performer.repl.complete"
        print(complete.find("\"lf", {})[1], package.path:match ";(%%./)")'
      ]]):format(support.build, folder))
    assert.equal(0, code)
    assert.equal("lfs.lua\t./\n", out)
    support.remove(folder)
  end)

  it("at Tab by as much as is clear, else shows", function()
    assert.equal("mul", (complete.at("pf.mat", s.environment, 80)))
    assert.equal("_", (complete.at("spec", s.environment, 80)))
    local insert, shown = complete.at("spec_", s.environment, 80)
    assert.is_nil(insert)
    assert.equal("spec_local   spec_model   spec_tensor", shown)
    assert.equal("  ", (complete.at("", s.environment, 80)))
    assert.equal("  ", (complete.at("do\n  ", s.environment, 80)))
    assert.is_nil((complete.at("zzzz", s.environment, 80)))
    s:feed "nn.linear {"
    assert.equal("m = ", (s:complete("fro, x", 3)))
  end)
end)
