-- inputs_spec.lua - models of several inputs: what layers read beside x, given by name to a call, a
-- batch, a state and a stream; with gradients through every way of saving memory, and words for
-- what is missing, misspelt or no tensor.
local array = require "spec.support.array"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local B, L, D = 2, 6, 4

local function rows(seed, ...) return array.tensor(array.random(seed):normals { ... }) end

--- x * w + by, then scaled where a scale is given; streams by what it was given.
local function shift(more)
  local layer = { name = "shift", inputs = { "by", "[scale]" }, w = pf.full({ D }, 1.5) }
  function layer.forward(self, x, pass)
    local y = x * self.w + pass.by
    return pass.scale and y * pass.scale or y
  end
  function layer.step(self, x, state)
    local y = x * self.w + state.by:reshape(x:size(1), D)
    return state.scale and y * state.scale or y
  end
  for key, value in pairs(more or {}) do layer[key] = value end
  return layer
end

local function model(more)
  pf.seed(3)
  local o = { nn.linear { from = D, to = D }, shift(), nn.linear { from = D, to = D } }
  for key, value in pairs(more or {}) do o[key] = value end
  return nn.chain(o)
end

describe("an input beside x", function()
  it("reaches the layer that reads it, from a pass, a batch and a layer in Lua", function()
    local m, x, by = model(), rows(1, B, L, D), rows(2, B, 1, D)
    local parts = m:children()
    local wanted = parts[3](parts[1](x) * 1.5 + by):tobytes()
    assert.equal(wanted, m(x, { by = by }):tobytes())
    assert.equal(wanted, m { input = x, by = by, target = "anything" }:tobytes())
    assert.equal(wanted, m({ input = x, by = x }, { by = by }):tobytes()) -- the pass goes before
    local around = nn.module { inner = m, forward = function(self, y, pass)
      assert(pass.by)
      return self.inner(y) + self.inner(y, pass)
    end }
    assert.equal((m(x, { by = by }) * 2):tobytes(), around(x, { by = by }):tobytes())
    local own = nn.module { inputs = { "seen" }, inner = m, forward = function(self, y, pass)
      return self.inner(y, { by = pass.seen }) -- makes its child's input, and hands on its own
    end }
    assert.equal(wanted, own(x, { seen = by, by = x }):tobytes())
  end)

  it("is listed, the required ones first of all by their parents", function()
    local names = {}
    for i, input in ipairs(model():inputs()) do names[i] = { input.name, input.required } end
    assert.are.same({ { "by", true }, { "scale", false } }, names)
    local parent = nn.module { inputs = { "[by]" }, inner = model(), forward = function() end }
    assert.are.same({ name = "by", required = false }, parent:inputs()[1])
    assert.are.same({}, nn.linear { from = 2, to = 2 }:inputs())
  end)

  it("that may be missing is not passed over where its name is misspelt", function()
    local m, x, by = model(), rows(1, B, L, D), rows(2, B, 1, D)
    for name, near in pairs { scales = "scale", byy = "by", documnets = "documents" } do
      assert.raises(("chain: a batch has '%s', which nothing reads %%(did you mean '%s'%%?%%)")
        :format(name, near), function() m { input = x, by = by, [name] = by } end)
    end
    local wanted = m { input = x, by = by }:tobytes() -- a batch may hold more
    assert.equal(wanted, m { input = x, by = by, targets = by, labels = by, scales = 3 }:tobytes())
  end)

  it("may be missing, or it is said which one is", function()
    local m, x, by = model(), rows(1, B, L, D), rows(2, B, 1, D)
    local function fails(text, f, ...)
      local ok, message = pcall(f, ...)
      assert.is_false(ok)
      assert.truthy(message:find(text, 1, true), message)
      assert.truthy(message:find("inputs_spec.lua:", 1, true) or f ~= m, message)
    end
    fails("layer 2: shift: the input 'by' is missing", m, x)
    fails("layer 2: shift: the input 'by' is missing", m, x, { scale = by })
    fails("unknown option 'byy' (did you mean 'by'?)", m, x, { byy = by })
    fails("by must be a tensor, got table", m, x, { by = { 1 } })
    fails("layer 2: shift: the input 'by' is missing", m.state, m)
    fails("layer 2: shift: the input 'by' is missing", m.stream, m, {})
    fails("state: unknown option 'byy' (did you mean 'by'?)", m.state, m, { byy = by })
    fails("stream: unknown option 'byy' (did you mean 'by'?)", m.stream, m, { byy = by })
    fails("no input can be called 'mask'", nn.module, shift { inputs = { "mask" } })
    fails("inputs must be a list of names", nn.module, shift { inputs = "by" })
    fails("the name of an input must be a text", nn.module, shift { inputs = { 1 } })
    fails("shift: its begin must return the table that step gets, got number",
      function() nn.module(shift { begin = function() return 1 end }):state { by = by } end)
  end)

  it("gets its gradient, and so does what made it", function()
    for name, more in pairs { plain = {}, recomputed = { recompute = true } } do
      local m = model(more)
      local function f(x, by, scale)
        return m(x, { by = by * 2, scale = scale:exp() }):square():sum()
      end
      local report = pf.check.gradient(f, { rows(1, B, L, D), rows(2, B, 1, D), rows(3, 1, 1, D) })
      assert.is_true(report.worst < 1e-3, name)
    end
  end)

  it("gives the same bits recomputed, a chain within a chain too", function()
    local function gradients(o, inner)
      pf.seed(3)
      local m = nn.chain { nn.chain { recompute = inner, nn.linear { from = D, to = D }, shift() },
                           nn.dropout(0.3), recompute = o }
      local by = rows(2, B, 1, D):requires_grad()
      local tape <close> = pf.tape()
      tape:backward(m(rows(1, B, L, D), { by = by * 3, step = 2 }):square():sum())
      local text = by:grad():tobytes()
      for _, t in ipairs((m:parameters())) do text = text .. t:grad():tobytes() end
      return text
    end
    local plain = gradients(false, false)
    assert.equal(plain, gradients(true, false))
    assert.equal(plain, gradients(true, true))
    assert.equal(plain, gradients(false, true))
  end)

  it("stands in recompute's function as an input of it", function()
    local m = nn.module { inputs = { "by" }, inner = model(), forward = function(self, x, pass)
      return pf.recompute(function(a, by) return self.inner(a, { by = by }) end, x, pass.by)
    end }
    local report = pf.check.gradient(function(x, by)
      return m(x, { by = by:tanh() }):square():sum()
    end, { rows(1, B, L, D), rows(2, B, 1, D) })
    assert.is_true(report.worst < 1e-3)
  end)
end)

describe("a stream of several inputs", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  local function position(x, t) return x:slice(2, t, t):reshape(x:size(1), D) end

  it("has them from its opening on: steps, prompts, forks, files", function()
    local m, x, by = model(), rows(1, B, L, D), rows(2, B, 1, D)
    local whole = m(x, { by = by })
    local state = m:state { batch = B, by = by }
    local y = m:prefill(x:slice(2, 1, 3), state)
    assert.is_true(support.distance(y, whole:slice(2, 1, 3)) < 1e-6)
    assert.is_true(state:save(folder .. "/state"))
    local loaded, fork = assert(m:load_state(folder .. "/state")), state:fork()
    local bytes = m:step(position(x, 4), state):tobytes()
    assert.is_true(support.distance(m:step(position(x, 4), fork), position(whole, 4)) < 1e-6)
    assert.equal(bytes, m:step(position(x, 4), loaded):tobytes())
    loaded:reorder { 2, 2 }
    local second = m:step(position(x, 5), loaded)
    assert.equal(second:slice(1, 1, 1):tobytes(), m:step(position(x:slice(1, 1, 1), 5),
      m:state { by = by:slice(1, 2, 2) }):tobytes())
  end)

  it("begins with what begin makes of them", function()
    local made
    local layer = shift { begin = function(self, inputs, batch)
      made = batch
      return { by = inputs.by * self.w, scale = inputs.scale }
    end }
    local m, x, by = nn.chain { layer }, rows(1, B, L, D), rows(2, B, 1, D)
    local y = m:step(position(x, 1), m:state { batch = B, by = by })
    assert.equal(B, made)
    assert.equal((position(x, 1) * layer.w + (by * layer.w):reshape(B, D)):tobytes(), y:tobytes())
  end)
end)

describe("a layer that looks at one position alone", function()
  local function parts(more)
    local layer = { name = "alone", w = pf.full({ D }, 0.5), by_position = true,
      forward = function(self, x) return (x * self.w):tanh() end }
    for key, value in pairs(more or {}) do layer[key] = value end
    pf.seed(4)
    return nn.chain { nn.embedding { vocab = 9, dim = D }, layer,
      nn.attention { dim = D, heads = 2, causal = true, kernel = { features = 8 } },
      nn.linear { from = D, to = 9 } }
  end

  it("streams and is sliced by its forward", function()
    local m, ids = parts(), array.tensor(array.random(5):whole({ B, 64 }, 0, 8))
    assert.is_true(pf.check.streaming(m, ids) < 1e-5)
    local function gradient(slices)
      m:clear_grad()
      local loss
      if slices then
        loss = m:backward_sliced({ input = ids, target = ids }, { slices = slices })
      else
        local tape <close> = pf.tape()
        local l = m(ids):cross_entropy(ids)
        tape:backward(l)
        loss = l:item()
      end
      return loss, m:tensors()["2.w"]:grad():detach()
    end
    local loss, whole = gradient()
    local sliced_loss, sliced = gradient(4)
    assert.near(loss, sliced_loss, 1e-5)
    assert.is_true(support.distance(sliced, whole) < 1e-5)
  end)

  it("says when it made something else of it", function()
    local m = parts { forward = function(_, x) return x:sum(2) end }
    assert.error_matches(function()
      m:step(pf.tensor({ 1 }, { dtype = "i32" }), m:state())
    end, "it looks at one position alone")
  end)
end)
