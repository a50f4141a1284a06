-- lua_layers_spec.lua - a layer written in Lua is a full citizen: one layer with a memory, a child,
-- a buffer and an input goes through all that a model goes through, held against the whole forward;
-- and what it gets wrong is told in one sentence with its file and line.
local array = require "spec.support.array"
local child = require "spec.support.child"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local B, D, V = 2, 6, 7
local i32 = { dtype = "i32" }

--- A leaky sum: h_t = a h_(t-1) + up(x_t), y = h * gain; what is hidden adds nothing, and every
--- document begins with nothing. h (B, D).
local function leaky()
  local layer = { name = "leaky", leak = pf.full({ D }, 0.3), inputs = { "[gain]" }, width = D,
                  up = nn.linear { from = D, to = D }, buffers = { steps = pf.zeros(1) } }

  --- y (B, L, D) and the last h, from h (nil: nothing).
  local function walk(self, x, h, pass)
    local length, rows = x:size(2), {}
    local up, a = self.up(x), self.leak:sigmoid()
    local keep = pass.mask and pf.tensor(pass.mask:reshape(x:size(1), length, 1):totable())
    if keep then up = up * keep end
    local documents = pass.documents and pass.documents:totable()
    for t = 1, length do
      local new = up:slice(2, t, t):reshape(x:size(1), D)
      if h and documents and t > 1 then -- the engine cuts at the slices' own beginnings
        local goes_on = {}
        for b = 1, x:size(1) do
          goes_on[b] = { documents[b][t] == documents[b][t - 1] and 1 or 0 }
        end
        h = h * pf.tensor(goes_on)
      end
      h = h and h * a + new or new
      rows[t] = h:reshape(x:size(1), 1, D)
    end
    local y = pf.concat(rows, 2)
    return pass.gain and y * pass.gain or y, h
  end

  function layer.forward(self, x, pass) return (walk(self, x, nil, pass)) end
  function layer.part(self, x, entry, pass)
    local y, h = walk(self, x, entry and entry[1], pass)
    return y, { h }
  end
  function layer.step(self, x, state)
    local new = self.up(x)
    state.h = state.h and state.h * self.leak:sigmoid() + new or new
    return state.gain and state.h * state.gain:reshape(-1, D) or state.h
  end
  function layer.after_step(self, step)
    self.buffers.steps:copy_(self.buffers.steps + step)
  end
  return layer
end
nn.define("leaky", leaky)

local function model(more)
  pf.seed(3)
  local o = { nn.embedding { vocab = V, dim = D }, leaky(),
    nn.block { dim = D, heads = 2, causal = true, kernel = { features = 8 }, dropout = 0.2 },
    nn.layernorm(D), nn.linear { from = D, to = V } }
  for key, value in pairs(more or {}) do o[key] = value end
  return nn.chain(o)
end

local function ids(seed, length)
  return array.tensor(array.random(seed):whole({ B, length or 12 }, 0, V - 1))
end

local function gradients(m, walk)
  m:clear_grad()
  local loss = walk()
  local list = {}
  for i, t in ipairs((m:parameters())) do list[i] = t:grad() and t:grad():detach() or false end
  return list, loss
end

--- Gradients of a tape's step.
local function whole(m, batch, pass)
  return gradients(m, function()
    local tape <close> = pf.tape()
    local loss = m:loss(batch, pass)
    tape:backward(loss)
    return loss:item()
  end)
end

local function same(m, a, b, tolerance)
  for i, name in ipairs(select(2, m:parameters())) do
    local off = support.distance(a[i], b[i])
    assert.is_true(off and off <= tolerance, ("%s is off by %s"):format(name, tostring(off)))
  end
end

describe("a layer in Lua", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  it("has the gradients that differences have, and the bits that are promised", function()
    local m, x = model(), ids(1)
    local report = pf.check.gradient(function()
      return m:loss({ input = x, target = x }, { training = false })
    end, (m:parameters()), { raise = false })
    assert.is_true(report.worst < 2e-2, report.worst)
    pf.check.bits(m, x)
  end)

  it("streams, is saved in the middle, forked and reordered", function()
    local m, x = model(), ids(1)
    assert.is_true(pf.check.streaming(m, x) < 1e-5)
    pf.check.saved(m, x)
    local stream = m:stream { batch = 2 }
    stream:feed { { 1, 2 }, { 3, 4 } }
    local turned = stream:fork():reorder { 2, 1 }
    stream:feed { { 5 }, { 6 } }
    turned:feed { { 6 }, { 5 } }
    local a, b = stream:logits(), turned:logits()
    assert.is_true(support.distance(a:slice(1, 1, 1), b:slice(1, 2, 2)) < 1e-5)
    assert.is_true(support.distance(a:slice(1, 2, 2), b:slice(1, 1, 1)) < 1e-5)
  end)

  it("generates, is evaluated, and says the vocabulary before it was fed", function()
    local m = model()
    local said = m:generate { prompt = { 1, 2 }, tokens = 5, temperature = 0 }
    local row = pf.tensor({ { 1, 2, table.unpack(said) } }, i32)
    local best = m(row):argmax(-1):totable()[1]
    for t = 1, 5 do assert.equal(said[t], best[t + 1] - 1) end
    local x = ids(2)
    local e = m:evaluate { input = x, target = x }
    assert.near(m:loss({ input = x, target = x }):item(), e.loss / e.tokens, 1e-5)
    local last = nn.chain { nn.embedding { vocab = V, dim = D }, leaky() }
    last:stream():allow { 0, 1 } -- by `width`
    assert.error_matches(function() last:stream():allow { D } end, "no token 6")
  end)

  it("is trained in slices, over documents and masks, with the gradients of the whole", function()
    local m, x = model(), ids(1, 64)
    local documents, mask = {}, {}
    for b = 1, B do
      documents[b], mask[b] = {}, {}
      for t = 1, 64 do
        documents[b][t] = (t > 20 * b and 1 or 0) + (t > 48 and 1 or 0) -- one where a slice begins
        mask[b][t] = (t + b) % 7 == 0 and 0 or 1
      end
    end
    for _, more in ipairs { {}, { documents = pf.tensor(documents, i32) },
                            { mask = pf.tensor(mask, i32) } } do
      local batch = { input = x, target = x, documents = more.documents, mask = more.mask }
      local plain = whole(m, batch, { training = false })
      local sliced = gradients(m, function()
        m:backward_sliced(batch, { slices = 4, training = false })
      end)
      same(m, plain, sliced, 1e-4)
      local e = m:evaluate(batch, { slice_length = 16 })
      assert.near(m:loss(batch):item(), e.loss / e.tokens, 1e-5)
    end
  end)

  it("without a part says that it can't be sliced", function()
    local layer = leaky()
    layer.part = nil
    local m, x = nn.chain { nn.embedding { vocab = V, dim = D }, layer,
                            nn.linear { from = D, to = V } }, ids(1, 64)
    assert.error_matches(function()
      m:backward_sliced({ input = x, target = x }, { slices = 2 })
    end, "leaky: a layer of the host can't be trained in slices.*by_position.*and part")
    layer = leaky()
    layer.step = nil
    m = nn.chain { layer }
    assert.error_matches(function() m:state() end, "leaky: this layer has no step")
  end)

  it("is recomputed, alone or around others, and is told of it", function()
    local x = ids(1)
    local batch, pass = { input = x, target = x }, { step = 4 }
    local plain, loss = whole(model(), batch, pass)
    local again, same_loss = whole(model { recompute = true }, batch, pass)
    assert.equal(loss, same_loss)
    for i = 1, #plain do assert.equal(plain[i]:tobytes(), again[i]:tobytes()) end
    local runs = {}
    local layer = { name = "noted", recompute = true, w = pf.ones(D),
      forward = function(self, h, p)
        runs[#runs + 1] = p.again
        return h * self.w
      end }
    whole(nn.chain { nn.embedding { vocab = V, dim = D }, layer,
      nn.linear { from = D, to = V } }, batch, pass)
    assert.are.same({ false, true }, runs)
  end)

  it("is a branch of a reversible block", function()
    local function make(reversible)
      pf.seed(3)
      local blocks = {}
      for i = 1, 2 do blocks[i] = nn.branches { leaky(), nn.mlp(D) } end
      blocks = reversible and nn.reversible(blocks) or nn.chain(blocks)
      return nn.chain { nn.embedding { vocab = V, dim = D }, blocks,
                        nn.linear { from = D, to = V } }
    end
    local m, x = make(true), ids(1)
    local report = pf.check.gradient(function()
      return m:loss({ input = x, target = x }, { training = false })
    end, (m:parameters()), { raise = false })
    assert.is_true(report.worst < 2e-2, report.worst)
    assert.is_true(pf.check.streaming(m, x) < 1e-5)
  end)

  it("reads inputs, in every way", function()
    local m, x = model(), ids(1, 64)
    local gain = array.tensor(array.random(4):normals { B, 1, D })
    local batch = { input = x, target = x, gain = gain }
    assert.is_false(m(x):tobytes() == m(batch):tobytes())
    local plain = whole(m, batch, { training = false })
    local sliced = gradients(m, function()
      m:backward_sliced(batch, { slices = 4, training = false })
    end)
    same(m, plain, sliced, 1e-4)
    local state = m:state { batch = B, gain = gain }
    local y = m:prefill(x:slice(2, 1, 5), state)
    assert.is_true(support.distance(y, m(batch):slice(2, 1, 5)) < 1e-5)
    assert.is_true(state:save(folder .. "/state"))
    local loaded = assert(m:load_state(folder .. "/state"))
    local one = x:slice(2, 6, 6):reshape(B)
    assert.equal(m:step(one, state):tobytes(), m:step(one, loaded):tobytes())
  end)

  it("is frozen, trained on from a checkpoint to the bit, and inspected", function()
    local m = model()
    assert.equal(2, m:freeze "2.1")
    m:unfreeze()
    assert.equal(1, m:freeze "2.leak")
    local leak = m:tensors()["2.leak"]:tobytes()
    local opt = pf.optim.adamw(m, { lr = 1e-2 })
    local function steps(from, optimizer, first)
      for step = first, first + 1 do
        local x = ids(step)
        local tape <close> = pf.tape()
        tape:backward(from:loss({ input = x, target = x }, { training = true, step = step }))
        optimizer:step { clip = 1 }
      end
    end
    steps(m, opt, 1)
    assert.equal(leak, m:tensors()["2.leak"]:tobytes())
    assert.are.same({ 3 }, m:tensors()["2.buffers.steps"]:totable()) -- after steps 1 and 2
    assert(pf.checkpoint.save(folder .. "/run", { model = m, optimizer = opt }))
    local saved = assert(pf.checkpoint.load(folder .. "/run"))
    steps(m, opt, 3)
    steps(saved.model, saved.optimizer, 3)
    for name, t in pf.sorted(m:tensors()) do
      assert.equal(t:tobytes(), saved.model:tensors()[name]:tobytes(), name)
    end
    assert.are.same({ 10 }, saved.model:tensors()["2.buffers.steps"]:totable())
    local report = pf.inspect(folder .. "/run")
    local names = {}
    for _, t in ipairs(report.tensors) do names[t.name] = true end
    assert.is_true(names["2.leak"] and names["2.1.weight"] and names["2.buffers.steps"])
    assert.matches("lua leaky", tostring(m))
  end)

  it("is trunk, encoder and decoder", function()
    pf.seed(5)
    local trunk = nn.chain { nn.embedding { vocab = V, dim = D }, leaky() }
    local m = nn.classifier { trunk = trunk, classes = 3 } -- by `width`
    assert.are.same({ B, 3 }, { table.unpack(m(ids(1)):shape()) })
    local decoder = nn.chain { nn.embedding { vocab = V, dim = D },
      nn.cross_attention { dim = D, heads = 2, kernel = { features = 8 } }, leaky(),
      nn.linear { from = D, to = V } }
    local both = nn.encoder_decoder { encoder = trunk, decoder = decoder }
    local batch = { input = ids(2), source = ids(3, 5) }
    local state = both:state { batch = B, source = batch.source }
    assert.is_true(support.distance(both:prefill(batch.input, state), both(batch)) < 1e-5)
  end)

  it("goes when nothing else holds it, also if it holds itself", function()
    local seen = setmetatable({}, { __mode = "v" })
    local function gate()
      local layer = { name = "gate", scale = pf.ones(D) }
      layer.forward = function(self, x) return x * self.scale end
      layer.me = nn.module(layer)
      return layer
    end
    local kept = gate()
    do
      local lost = gate()
      seen.layer, seen.scale = lost, lost.scale
      local chain = nn.chain { lost.me, nn.linear { from = D, to = D } }
      chain(pf.ones(1, D))
      seen.chain = chain
    end
    for _ = 1, 2 do nn.build(nn.linear { from = 2, to = 2 }:tree()) end
    assert.is_nil(next(seen))
    assert.bits_equal(pf.ones(1, D), kept.me(pf.ones(1, D)))
  end)

  it("gives the same bits for any number of threads", function()
    local script = [[
      local layer = { name = "own", w = pf.full({ 64 }, 0.5),
        part = function(self, x, entry)
          local h = entry and entry[1] or pf.zeros(x:size(1), 64)
          return x * self.w + h:reshape(x:size(1), 1, 64), { h + x:sum(2) }
        end }
      function layer:forward(x) return (self:part(x)) end
      pf.seed(7)
      local m = pf.nn.chain { pf.nn.embedding { vocab = 11, dim = 64 }, layer,
        pf.nn.linear { from = 64, to = 11 } }
      local x = array.tensor(array.random(1):whole({ 3, 200 }, 0, 10))
      print(m:backward_sliced({ input = x, target = x }, { slices = 5 }))
      for _, t in ipairs((m:parameters())) do print(array.hex(t:grad())) end]]
    local first = child.run(script, "{threads = 1}")
    assert.is_true(first == child.run(script, "{threads = 2}"))
  end)
end)

describe("what a layer in Lua gets wrong", function()
  local here = "^spec/lua_layers_spec.lua:%d+: "
  local inner, only = here .. "layer 1%.1: ", here .. "layer 1: "
  local sliced = here .. "sliced: 1: "

  local function wrong(layer, run)
    layer.name = layer.name or "mine"
    local ok, message = pcall(run or function()
      return nn.chain { nn.chain { layer } }(pf.ones(1, 32, 2))
    end)
    assert.is_false(ok)
    return message
  end

  it("is told with its file and line, and the path of the layer", function()
    local function nothing() end
    assert.matches(inner .. "mine: its forward must return a tensor, got nil",
      wrong { forward = nothing })
    assert.matches(inner .. "attempt to index a nil value",
      wrong { forward = function(self, x) return x * self.gone.w end })
    assert.matches(inner .. "matmul: a is %[1, 32, 2%]",
      wrong { forward = function(_, x) return x:matmul(pf.ones(3, 3)) end })
    local same_x = function(_, x) return x end
    local function at_step(layer)
      return function()
        local m = nn.chain { layer }
        m:step(pf.ones(1, 2), m:state())
      end
    end
    local layer = { name = "mine", forward = same_x, step = nothing }
    assert.matches(only .. "mine: its step must return a tensor, got nil",
      wrong(layer, at_step(layer)))
    layer = { name = "mine", forward = same_x, step = function(_, x) return x, 2 end }
    assert.matches(only .. "mine: its step must return a tensor, and a table or nothing behind " ..
      "it, got number", wrong(layer, at_step(layer)))
    for _, hook in ipairs { "step", "begin", "part", "after_step" } do
      assert.matches("mine: its " .. hook .. " must be a function, got number",
        wrong { forward = same_x, [hook] = 3 })
    end
    for _, exit in ipairs { 1, { 2 }, { pf.ones(1), pf.ones(1), pf.ones(1), pf.ones(1), pf.ones(1),
                                        pf.ones(1) } } do
      layer = { name = "mine", forward = same_x, part = function(_, x) return x, exit end }
      assert.matches(sliced .. "mine: its part must return a tensor and a list of at most 5",
        wrong(layer, function()
          nn.chain { layer }:backward_sliced({ input = pf.ones(1, 32, 2),
            target = pf.zeros(1, 32, i32) }, { slices = 2 })
        end))
    end
    layer.part = function(_, x) return x, { pf.ones(3) } end
    assert.matches("mine: what its part hands on must be tensors of 1 rows",
      wrong(layer, function()
        nn.chain { layer }:backward_sliced({ input = pf.ones(1, 32, 2),
          target = pf.zeros(1, 32, i32) }, { slices = 2 })
      end))
    layer = { name = "mine", w = pf.ones(2), forward = function(self, x) return x * self.w end,
              after_step = function() error "no more" end }
    assert.matches(here .. "no more", wrong(layer, function()
      local m = nn.chain { layer }
      local opt = pf.optim.sgd(m, { lr = 1 })
      local tape <close> = pf.tape()
      tape:backward(m(pf.ones(1, 2)):sum())
      opt:step()
    end))
    nn.define("mistaken", function() return 5 end)
    assert.matches(here .. "nn.define: the function for 'mistaken' must return a layer, got number",
      wrong({}, function() nn.build { type = "lua", name = "mistaken" } end))
  end)

  it("keeps what was thrown, whatever it is", function()
    local thrown = { code = 7 }
    assert.equal("layer 1.1: bare", wrong { forward = function() error("bare", 0) end })
    assert.is_true(rawequal(thrown, wrong { forward = function() error(thrown) end }))
    local long = ("long "):rep(2000)
    assert.equal("layer 1.1: " .. long, wrong { forward = function() error(long, 0) end })
    assert.equal("a:12: layer 1.1: b\nc:3: d", wrong { forward = function()
      error("a:12: b\nc:3: d", 0)
    end })
    local alone = nn.module { name = "mine", forward = function() error "alone" end }
    assert.matches(here .. "alone$", wrong({}, function() alone(pf.ones(1, 2)) end))
    local two = nn.chain { nn.chain {}, nn.linear { from = 3, to = 3 } }
    assert.matches(inner .. "layer 2: linear: x is %[1, 32, 2%]", wrong { two = two,
      forward = function(self, x) return self.two(x) end })
  end)
end)
