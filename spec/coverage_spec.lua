-- coverage_spec.lua - nothing is left behind: every op is bound, documented and has cases, every
-- layer has its constructor, every kernel its name in all places, and the maintainers' checks
-- of the tree pass. One source for each fact, held against what was made from it.
local pf = require "performer"
local cases = require "spec.support.cases"
local judge = require "spec.support.attention"
local support = require "spec.support"

--- Runs a check of .ci/ in this build; its exit code and what it printed.
local function run(command)
  local setting = ("PF_BUILD='%s' LUA_PATH='%s' LUA_CPATH='%s' "):format(support.build,
    package.path, package.cpath)
  local code, out, err = support.shell(setting .. command)
  return code, out .. err
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function is_text(value) return type(value) == "string" and #value > 3 end

-- ---- ops -------------------------------------------------------------------------------

describe("every op", function()
  local t = pf.ones(1)

  for _, op in ipairs(pf.ops()) do
    it(op.name .. " is bound, documented and has cases", function()
      assert.is_function(pf[op.name])
      assert.is_function(t[op.name], "as a method")
      assert.is_true(is_text(op.doc), "doc")
      assert.is_true(op.doc:match "%.$" ~= nil, "the doc is a sentence")
      assert.is_table(cases[op.name], "spec/support/cases.lua")
    end)

    it(op.name .. " has arguments, results and attributes that can be read", function()
      local required, optional, after_optional = 0, 0, false
      for part in (op.args .. ","):gmatch "%s*([^,]+)," do
        if part:match "^%[[%a][%w_]*%]$" then
          optional, after_optional = optional + 1, true
        else
          assert.matches("^%a[%w_]*$", part)
          assert.is_false(after_optional, "a required input after an optional one")
          required = required + 1
        end
      end
      assert.equal(op.min_inputs, required)
      local any = op.name == "concat" or op.name == "stack"
      if not any then assert.equal(op.max_inputs, required + optional) end
      local results = 0
      for name in op.results:gmatch "[^,]+" do
        assert.matches("^%s*%a[%w_]*%s*$", name)
        results = results + 1
      end
      assert.equal(op.outputs, results)
      for _, attr in ipairs(op.attrs) do
        assert.is_true(is_text(attr.doc), attr.name)
        assert.is_true(attr.kind ~= "choice" or is_text(attr.choices), attr.name)
      end
    end)
  end
end)

-- ---- kernels ---------------------------------------------------------------------------

describe("every kernel", function()
  local names = {}
  for i, map in ipairs(pf.kernels().maps) do names[i] = map.name end

  it("has one name in the registry and in the choices of the ops", function()
    local seen = 0
    for _, op in ipairs(pf.ops()) do
      for _, attr in ipairs(op.attrs) do
        if attr.name == "map" then
          assert.equal(table.concat(names, "|"), attr.choices, op.name)
          seen = seen + 1
        end
      end
    end
    assert.is_true(seen >= 2)
  end)

  it("is documented, has a constructor, a definition and cases", function()
    local tried = {}
    for _, case in ipairs(cases.favor.good) do tried[case[2].map or "softmax"] = true end
    for _, case in ipairs(cases.features.good) do
      tried["features of " .. (case[2] and case[2].map or "softmax")] = true
    end
    for _, map in ipairs(pf.kernels().maps) do
      assert.is_true(is_text(map.doc), map.name)
      assert.is_function(pf.kernel[map.name])
      assert.is_table(judge.maps[map.name], "spec/support/attention.lua")
      assert.equal(judge.maps[map.name].eps, map.eps)
      assert.equal(judge.maps[map.name].projected or false, map.softmax)
      assert.is_true(tried[map.name] and tried["features of " .. map.name], "cases: " .. map.name)
    end
  end)

  it("is listed by the option that takes its name, and options are documented", function()
    for _, option in ipairs(pf.kernels().options) do
      assert.is_true(is_text(option.doc), option.name)
      for _, name in ipairs(option.name == "name" and names or {}) do
        assert.is_truthy(option.doc:find(name, 1, true), "the doc of `name` lacks " .. name)
      end
    end
  end)
end)

-- ---- kinds of attention ----------------------------------------------------------------

describe("every kind of attention", function()
  local ids = pf.zeros(1, 32, { dtype = "i32" })

  local function model_of(kind)
    return pf.nn.performer { vocab = 2, dim = 8, layers = 1, heads = 1, causal = true,
                             attention = kind.name,
                             kernel = kind.takes_kernel and { features = 8 } or nil }
  end

  it("counts the work of the pairs that exact attention sees", function()
    local d, dv, L = 16, 24, 101 -- a score takes 2 d flops, its part of the sum 2 dv
    for causal, pairs_seen in pairs { [false] = L * L, [true] = L * (L + 1) / 2 } do
      local forward, backward = pf.attention.flops("exact", { head_dim = d, value_dim = dv,
                                                             length = L, causal = causal })
      assert.are.equal(pairs_seen * (2 * d + 2 * dv), forward * L)
      assert.are.equal(pairs_seen * 5 * (d + dv), backward * L)
    end
  end)

  for _, kind in ipairs(pf.kinds()) do
    it(kind.name .. " is documented, can be called and tells its work", function()
      assert.is_true(is_text(kind.doc) and kind.doc:match "%.$" ~= nil)
      assert.is_function(pf.attention[kind.name])
      local shape = { head_dim = 16, features = 32, length = 100 }
      local forward, backward = pf.attention.flops(kind.name, shape)
      -- Rooms are told forward alone.
      assert.is_true(forward >= 0 and backward >= (kind.table and 0 or forward))
      shape.length = 200
      assert.is_true(pf.attention.flops(kind.name, shape) >= forward)
    end)

    it(kind.name .. " does what its row says of streaming", function()
      local model = model_of(kind)
      if not kind.streams then
        return assert.is_false((pcall(function() model:prefill(ids, model:state()) end)))
      end
      local state = model:state()
      model:prefill(ids, state)
      local before = state:bytes()
      for _ = 1, 4 do model:prefill(ids, state) end
      assert.equal(kind.state_grows, state:bytes() > before)
    end)

    it(kind.name .. " does what its row says of training in parts", function()
      local model = model_of(kind)
      assert.equal(kind.trains_in_parts, (pcall(model.backward_sliced, model,
        { input = ids, target = ids }, { slices = 2 })))
    end)
  end
end)

-- ---- layers ----------------------------------------------------------------------------

describe("every layer", function()
  for _, layer in ipairs(pf.layers()) do
    it(layer.type .. " is in nn and documented, option by option", function()
      assert.is_function(pf.nn[layer.type])
      assert.is_true(is_text(layer.doc) and layer.doc:match "%.$" ~= nil)
      for _, option in ipairs(layer.options) do
        assert.is_true(is_text(option.doc), option.name)
        assert.is_string(option.kind, option.name)
      end
    end)
  end
end)

-- ---- the tree --------------------------------------------------------------------------

local KINDS = { c = true, h = true, def = true, lua = true }

--- Every source file of the tree, a path a line.
local function sources()
  local _, list = support.shell "find bindings engine examples scripts spec .ci -type f"
  return "\n" .. list
end

--- Does a path of the list end with `name`, in which a * stands for anything but a slash?
local function is_there(list, name)
  local pattern = name:gsub("[%.%-]", "%%%0"):gsub("%*", "[^/\n]*")
  return list:find("[/\n]" .. pattern .. "\n") ~= nil
end

describe("the tree", function()
  it("has every source file that its pages name", function()
    local list, seen = sources(), 0
    for page in ("README.md\n" .. list):gmatch "[^\n]*README%.md" do
      for name in support.read(page):gmatch "`([%w_/.*-]+)`" do
        local kind = name:match "[%w*]%.(%l+)$"
        if KINDS[kind] and not name:find "%u%u" then -- NAME stands for any
          assert.is_true(is_there(list, name), page .. " names " .. name)
          seen = seen + 1
        end
      end
    end
    assert.is_true(seen > 60, seen .. " names")
  end)

  local checks = {
    { "floors: no include points upward", ".ci/check_floors.lua", "" },
    { "the Lua reference and the editor's annotations are up to date", ".ci/gen_api.lua",
      " --check" },
  }
  for _, check in ipairs(checks) do
    it(check[1], function()
      if not exists(check[2]) then return pending(check[2] .. " is not there") end
      local code, text = run("lua5.4 " .. check[2] .. check[3])
      assert.equal(0, code, text)
    end)
  end
end)
