-- check_spec.lua - pf.check, which users' own specs call, passes what is right and tells what is
-- wrong: streaming, bits, checkpoints, kernels. (Gradients: binding_model_spec.)
local pf = require "performer"
local models = require "spec.support.models"
require "spec.support"

local nn = pf.nn

--- A layer that adds what `add(self, x, seen)` gives, where `seen` is how many positions a stream
--- has had, or nil in the parallel forward.
local function adding(add)
  return nn.module {
    name = "adding", scale = pf.ones(1),
    forward = function(self, x) return x + add(self, x) end,
    step = function(self, x, state)
      state.seen = (state.seen or 0) + 1
      return x + add(self, x, state.seen)
    end,
  }
end
nn.define("adding", function() return adding(function(self) return self.scale end) end)

local ids = models.ids(3, 20, 19)
local rows = pf.randn(3, 9, 4)

describe("check.streaming", function()
  it("passes models, blocks and layers in Lua, and says how close they are", function()
    for _, o in ipairs { {}, { kernel = "exact", conv = 3 }, { kernel = { name = "elu" } } } do
      local off = pf.check.streaming(models.new(o), ids)
      assert.is_true(off < 1e-5)
    end
    assert.is_true(pf.check.streaming(models.new {}, ids, { prefill = 0 }) > 0)
    assert.is_true(pf.check.streaming(nn.block { dim = 4, heads = 1, causal = true }, rows) < 1e-5)
    assert.equal(0, pf.check.streaming(adding(function(self) return self.scale end), rows))
  end)

  it("tells what a stream does otherwise", function()
    local late = adding(function(_, _, seen) return seen and seen > 7 and 0.5 or 0.25 end)
    assert.raises("check.streaming: after 4 positions at once and 5 steps, item %d is off by %d",
      function() pf.check.streaming(late, rows) end)
    local off, why = pf.check.streaming(late, rows, { raise = false })
    assert.is_nil(off)
    assert.truthy(why:find("at most 1e%-05 is close"))
    assert.is_true(pf.check.streaming(late, rows, { tolerance = 1 }) > 0.01)
    assert.is_nil((pf.check.streaming(adding(function(_, _, seen) return seen and 0 / 0 or 1 end),
      rows, { raise = false })))
  end)

  it("says what it needs", function()
    local model = models.new {}
    assert.raises("a model or a layer is needed, got number",
      function() pf.check.streaming(1, ids) end)
    assert.raises("an input %(B, L, ...%) is needed, got %[3%]",
      function() pf.check.streaming(model, pf.zeros(3)) end)
    assert.raises("at least 2 positions",
      function() pf.check.streaming(model, ids:slice(2, 1, 1)) end)
    assert.raises("prefill is 20, but must be a whole number from 0 to 19",
      function() pf.check.streaming(model, ids, { prefill = 20 }) end)
    assert.raises("unknown option 'prefil' %(did you mean 'prefill'%?%)",
      function() pf.check.streaming(model, ids, { prefil = 2 }) end)
    assert.raises("only a causal model can stream",
      function() pf.check.streaming(models.new { causal = false }, ids) end)
  end)
end)

describe("check.bits", function()
  it("passes what keeps the promises", function()
    assert.is_true(pf.check.bits(models.new { conv = 3 }, ids))
    assert.is_true(pf.check.bits(models.new { causal = false }, ids))
    assert.is_true(pf.check.bits(nn.layernorm(4), rows))
    assert.is_true(pf.check.bits(models.new { kernel = "exact" }, ids, { at = { 7 } }))
  end)

  it("tells a layer that looks ahead, into the batch, or at the clock", function()
    local function held(add, o)
      o = o or {}
      o.raise = false
      return select(2, pf.check.bits(adding(add), rows, o))
    end
    local mean = held(function(_, x) return x:mean(2, { keep = true }) end)
    assert.truthy(mean:find("inputs after position 1 are changed: %d+ of 12 numbers differ"), mean)
    assert.is_nil(held(function(_, x) return x:mean(2, { keep = true }) end, { causal = false }))
    local length = held(function(_, x) return x:size(2) end, { at = { 5 } })
    assert.truthy(length:find("inputs after position 5 are cut off", 1, true), length)
    local batch = held(function(_, x) return x:size(1) end)
    assert.truthy(batch:find("item 1 alone is not what it is in the batch", 1, true), batch)
    local count = 0
    local drift = held(function() count = count + 1 return count end)
    assert.truthy(drift:find("the same call twice: 108 of 108 numbers differ, by up to 1", 1, true),
      drift)
    assert.raises("look ahead give {causal = false}", function()
      pf.check.bits(models.new { causal = false }, ids, { causal = true })
    end)
  end)

  it("does not pass an input that says nothing", function()
    assert.raises("all ids of the input are alike",
      function() pf.check.bits(models.new {}, pf.zeros(1, 6, { dtype = "i32" })) end)
    assert.raises("positions from 1 to 19, got 20",
      function() pf.check.bits(models.new {}, ids, { at = { 20 } }) end)
    assert.raises("has no place for each position of the input",
      function() pf.check.bits({ name = "last", forward = function(_, x)
        return x:slice(2, -1, -1) end }, rows) end)
  end)
end)

describe("check.saved", function()
  it("passes what comes back as it was", function()
    assert.is_true(pf.check.saved(models.new { conv = 3, ngrams = { dim = 16, width = 4,
      buckets = 8 } }, ids))
    assert.is_true(pf.check.saved(models.new { causal = false }, ids))
    assert.is_true(pf.check.saved(nn.chain { nn.linear { from = 4, to = 4 },
      adding(function(self) return self.scale end) }, rows))
  end)

  it("tells what a layer keeps beside its tensors", function()
    local three = adding(function(self) return 3 * self.scale end) -- comes back with 1
    local none, why = pf.check.saved(three, rows, { raise = false })
    assert.is_nil(none)
    assert.truthy(why:find("the same tensors, but another output", 1, true), why)
    local renamed = nn.module { name = "nameless", forward = function(_, x) return x end }
    assert.raises("check.saved: it can't be loaded: .*layer 'nameless' lives in a script",
      function() pf.check.saved(renamed, rows) end)
    local stateful = adding(function(self, _, seen) return (seen or 1) * self.scale end)
    assert.raises("a state saved in the middle goes on differently: ",
      function() pf.check.saved(stateful, rows) end)
    assert.is_true(pf.check.saved(stateful, rows, { stream = false }))
  end)

  it("leaves no folder behind", function()
    local before = pf.file.list "memory:"
    pcall(pf.check.saved, models.new {}, ids)
    assert.same(before, pf.file.list "memory:")
  end)
end)

describe("check.kernel", function()
  it("passes every map, projected or not, and one in Lua", function()
    for name, make in pf.sorted(pf.kernel) do
      if name ~= "custom" and name ~= "exact" then
        for _, features in ipairs { name:find "softmax" and 16 or 0, 12 } do
          local report = pf.check.kernel(make { features = features > 0 and features or nil,
                                                seed = 3 }, { length = 53 })
          for _, where in ipairs { "full", "causal", "streaming" } do
            assert.is_true(report[where] <= 1e-5, name)
          end
        end
      end
    end
    assert.is_table(pf.check.kernel(pf.kernel.custom { map = function(x) return x:elu() + 1 end }))
  end)

  it("takes a width, a norm and a seed, and leaves the engine's seed alone", function()
    pf.seed(5)
    local want = pf.randn(4):tobytes()
    pf.seed(5)
    local kernel = pf.kernel.softmax { features = 16, seed = 1, head_dim = 5 }
    local one = pf.check.kernel(kernel, { head_dim = 5, length = 20, norm = 2, seed = 1 })
    local two = pf.check.kernel(kernel, { head_dim = 5, length = 20, norm = 2, seed = 2 })
    assert.is_true(one.full ~= two.full)
    assert.equal(want, pf.randn(4):tobytes())
  end)

  it("takes a name, and options with a name", function()
    assert.are.same(pf.check.kernel(pf.kernel.relu {}), pf.check.kernel "relu")
    assert.are.same(pf.check.kernel(pf.kernel.elu { scale = 2 }),
      pf.check.kernel { name = "elu", scale = 2 })
  end)

  it("tells a map that is not one", function()
    local calls = 0
    local moody = pf.kernel.custom { map = function(x)
      calls = calls + 1
      return x:sigmoid() * (calls % 5 + 1) + calls
    end }
    local none, why = pf.check.kernel(moody, { raise = false })
    assert.is_nil(none)
    assert.truthy(why:find("check.kernel: %l+ attention is off by %S+ of its largest number"), why)
    assert.raises("what the map returns must be a tensor, got number",
      function() pf.check.kernel(pf.kernel.custom { map = function() return 1 end }) end)
    assert.raises("there is no kernel 'sofmax'", function() pf.check.kernel "sofmax" end)
    assert.raises("is needed, got tensor", function() pf.check.kernel(rows) end)
  end)
end)
