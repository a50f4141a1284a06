-- streaming_spec.lua - what can be done with a stream of a model besides moving it on: batches,
-- forks, other orders, files, calls that fail; also with layers written in Lua. States of attention
-- alone: attention_forks_spec.
local pf = require "performer"

local nn = pf.nn

local path
before_each(function() path = os.tmpname() end)
after_each(function() os.remove(path) end)

-- ---- models ----------------------------------------------------------------------------

local function model_of(seed, more)
  pf.seed(seed)
  local options = { vocab = 11, dim = 16, layers = 2, heads = 2, causal = true, conv = 3,
                    kernel = { features = 16 } }
  for key, value in pairs(more or {}) do options[key] = value end
  return nn.performer(options)
end

describe("a stream of a batch", function()
  local prompt = { { 1, 2, 3, 4 }, { 5, 6, 7, 8 }, { 9, 10, 0, 1 } }

  for _, kernel in ipairs { { name = "softmax", features = 16 }, { name = "exact" } } do
    it(kernel.name .. ": each sequence gets what it gets alone, bit for bit", function()
      local model = model_of(1, { kernel = kernel })
      local all = model:stream { batch = 3 }
      all:feed(prompt)
      all:feed { { 1 }, { 2 }, { 3 } }
      assert.are.same({ 3, 11 }, { table.unpack(all:logits():shape()) })
      for row = 1, 3 do
        local one = model:stream { batch = 1 }
        one:feed(prompt[row]):feed { row }
        assert.is_true(one:logits():tobytes() == all:logits():slice(1, row, row):tobytes())
      end
      local greedy = all:sample()
      assert.are.equal(3, #greedy)
      for row = 1, 3 do assert.are.equal(all:logits():argmax(2):totable()[row] - 1, greedy[row]) end
      assert.are.equal(3, #all:next(greedy, { temperature = 1, seed = 1 }))
      assert.are.equal(6, all:position())
    end)
  end

  it("is fed and asked by rows only", function()
    local stream = model_of(1):stream { batch = 3 }
    assert.has_error(function() stream:feed { 1, 2, 3, 4 } end)
    assert.has_error(function() stream:feed(pf.zeros(2, 3, { dtype = "i32" })) end)
    stream:feed(prompt)
    assert.has_error(function() stream:next(1) end)
    assert.has_error(function() stream:next { 1, 2 } end)
    assert.has_error(function() model_of(1):stream { batch = 0 } end)
  end)

  it("knows its vocabulary before the first token, but behind a layer in Lua", function()
    local stream = model_of(1):stream { batch = 3 }
    stream:allow { 4, 2 }
    assert.error_matches(function() stream:allow { 11 } end, "no token 11")
    stream:feed(prompt)
    for _, id in ipairs(stream:sample { temperature = 9 }) do assert.is_true(id == 4 or id == 2) end
    local last = { forward = function(_, x) return x end, step = function(_, x) return x end }
    stream = nn.chain { model_of(1), last }:stream { batch = 3 }
    assert.error_matches(function() stream:allow { 4 } end, "feed the stream first")
    stream:feed(prompt):allow { 4 }
    assert.are.same({ 4, 4, 4 }, stream:sample { temperature = 1 })
  end)

  it("forks and reorders", function()
    local stream = model_of(2):stream { batch = 3 }
    stream:feed(prompt)
    local fork, judge = stream:fork(), stream:fork()
    assert.is_true(fork:logits():tobytes() == stream:logits():tobytes())
    fork:next { 1, 1, 1 }
    assert.is_true(judge:logits():tobytes() == stream:logits():tobytes())
    assert.are.equal(stream, stream:reorder { 2, 2 })
    assert.are.equal(2, stream:batch())
    assert.is_true(stream:logits():slice(1, 2, 2):tobytes() ==
      judge:logits():slice(1, 2, 2):tobytes())
    stream:feed { { 4 }, { 5 } }
    judge:feed { { 0 }, { 5 }, { 0 } }
    assert.is_true(stream:logits():slice(1, 2, 2):tobytes() ==
      judge:logits():slice(1, 2, 2):tobytes())
    assert.has_error(function() stream:reorder { 3 } end)
  end)

  it("saves and goes on with the same bits, in the same model only", function()
    local model = model_of(3)
    local stream = model:stream { batch = 3 }
    stream:feed(prompt)
    stream:next { 1, 2, 3 }
    assert.is_true(stream:save(path))
    local loaded = assert(model:load_stream(path))
    assert.are.equal(stream:position(), loaded:position())
    assert.is_true(stream:logits():tobytes() == loaded:logits():tobytes())
    local o = { temperature = 1, seed = 5 }
    assert.are.same(stream:sample(o), loaded:sample(o))
    assert.are.same(stream:next({ 3, 2, 1 }, o), loaded:next({ 3, 2, 1 }, o))
    local others = { model_of(4), model_of(3, { layers = 1 }), model_of(3, { conv = 0 }) }
    for _, other in ipairs(others) do
      local none, message, code = other:load_stream(path)
      assert.is_nil(none)
      assert.truthy(message:find("another model", 1, true), message)
      assert.are.equal("PF_EFORMAT", code)
    end
    local _, w = next(model:tensors())
    w:copy_(w * 1.001)
    assert.is_nil((model:load_stream(path)))
    assert.is_nil((pf.attention.load_state(path)))
  end)

  it("saves what an n-gram layer remembers, too", function()
    local model = model_of(6, { ngrams = { dim = 16, longest = 3, buckets = 8, width = 4 } })
    for name, t in pf.sorted(model:tensors()) do -- rows begin at 0
      if name:find "ngrams" then t:copy_(pf.randn(table.unpack(t:shape()))) end
    end
    local stream = model:stream { batch = 3 }
    stream:feed(prompt)
    assert.is_true(stream:save(path))
    local loaded = assert(model:load_stream(path))
    stream:feed { { 7 }, { 8 }, { 9 } }
    loaded:feed { { 7 }, { 8 }, { 9 } }
    assert.is_true(stream:logits():tobytes() == loaded:logits():tobytes())
  end)

  it("a model's state does the same", function()
    local model = model_of(5)
    local ids = pf.tensor(prompt, { dtype = "i32" })
    local state = model:state { batch = 3 }
    model:prefill(ids, state)
    assert.is_true(state:save(path))
    local loaded = assert(model:load_state(path))
    local next_ids = pf.tensor({ 1, 2, 3 }, { dtype = "i32" })
    local fork = state:fork():reorder { 3, 2, 1 }
    local want = model:step(next_ids, state)
    assert.is_true(want:tobytes() == model:step(next_ids, loaded):tobytes())
    local turned = model:step(pf.tensor({ 3, 2, 1 }, { dtype = "i32" }), fork)
    assert.is_true(turned:slice(1, 1, 1):tobytes() == want:slice(1, 3, 3):tobytes())
    assert.has_error(function() state:merge(loaded) end)
  end)
end)

-- ---- layers written in Lua ---------------------------------------------------------------

describe("a layer written in Lua", function()
  local function counting(extra)
    local layer = { name = "counting", scale = pf.ones(1) }
    function layer:forward(x) return x * self.scale end
    function layer.step(_, x, state)
      state.sum = state.sum and state.sum + x or x:detach()
      state.seen = (state.seen or 0) + 1
      state.deep = state.deep or { list = { x:detach() }, note = "first" }
      if extra then extra(state, x) end
      return x + 0.1 * state.sum + state.deep.list[1]
    end
    return nn.chain { nn.embedding { vocab = 11, dim = 4 }, layer, nn.linear { from = 4, to = 11 } }
  end
  local prompt = { { 1, 2, 3 }, { 4, 5, 6 } }

  it("is forked, reordered, saved and loaded with all its state holds", function()
    local model = counting()
    local stream = model:stream { batch = 2 }
    stream:feed(prompt)
    local fork = stream:fork()
    local other = stream:fork():reorder { 2, 1, 2 }
    assert.is_true(stream:save(path))
    stream:feed { { 7 }, { 8 } }
    fork:feed { { 7 }, { 8 } }
    other:feed { { 8 }, { 7 }, { 8 } }
    local bits = stream:logits():tobytes()
    assert.is_true(bits == fork:logits():tobytes())
    assert.is_true(bits:sub(1, #bits // 2) == other:logits():slice(1, 2, 2):tobytes())
    assert.is_true(bits:sub(#bits // 2 + 1) == other:logits():slice(1, 3, 3):tobytes())
    local loaded = assert(model:load_stream(path))
    loaded:feed { { 7 }, { 8 } }
    assert.is_true(bits == loaded:logits():tobytes())
  end)

  it("may keep a state of attention, forked with it", function()
    local kernel = pf.kernel.custom { map = function(x) return x:elu() + 1 end }
    local function keep(state, x)
      state.sums = state.sums or pf.attention.state { kernel = kernel }
      local row = x:reshape(x:size(1), 1, 1, 4)
      state.sum = state.sum + state.sums:step(row, row, row):reshape(x:size(1), 4)
    end
    local stream = counting(keep):stream { batch = 2 }
    stream:feed(prompt)
    local fork = stream:fork():reorder { 2, 1 }
    stream:feed { { 7 }, { 8 } }
    fork:feed { { 8 }, { 7 } }
    assert.is_true(stream:logits():slice(1, 1, 1):tobytes() ==
      fork:logits():slice(1, 2, 2):tobytes())
    assert.has_error(function() stream:save(path) end)
  end)

  it("may keep a state of attention, saved and loaded with it", function()
    for _, kernel in ipairs { "exact", "softmax", "relu" } do
      local function keep(state, x)
        local B, options = x:size(1), { kernel = kernel, batch = x:size(1), head_dim = 4 }
        state.kept = state.kept or { pf.attention.state(options) }
        local row = x:reshape(B, 1, 1, 4)
        state.sum = state.sum + state.kept[1]:step(row, row, row):reshape(B, 4)
      end
      local model = counting(keep)
      local stream = model:stream { batch = 2 }
      stream:feed(prompt)
      assert.is_true(stream:save(path))
      local loaded = assert(model:load_stream(path))
      for _, s in ipairs { stream, loaded } do s:feed { { 7, 1 }, { 8, 2 } } end
      assert.is_true(stream:logits():tobytes() == loaded:logits():tobytes())
    end
  end)

  it("is what it was before a call that fails, and so is all beside it", function()
    local fails, calls = false, 0
    local kernel = pf.kernel.custom { map = function(x)
      calls = calls + 1
      if fails and calls == 4 then error("no more rows", 0) end -- the keys of the second layer
      return x:elu() + 1
    end }
    local function keep(state)
      state.own, state.note = state, 0 / 0 -- what holds itself is copied, too
    end
    local options = { kernel = kernel, dim = 4, heads = 1, causal = true }
    local counted = counting(keep):children()
    local model = nn.chain { counted[1], counted[2], nn.attention(options), nn.attention(options),
      nn.linear { from = 4, to = 11 } }
    local stream, state = model:stream { batch = 2 }, model:state { batch = 2 }
    stream:feed(prompt)
    local ids = pf.tensor({ 1, 2 }, { dtype = "i32" })
    model:step(ids, state)
    local judge, twin = stream:fork(), state:fork()
    for _, call in ipairs {
      function() stream:feed { { 1, 2 }, { 3, 4 } } end, function() stream:next { 1, 2 } end,
      function() model:step(ids, state) end,
      function() model:prefill(pf.tensor({ { 1 }, { 2 } }, { dtype = "i32" }), state) end,
    } do
      fails, calls = true, 0
      assert.error_matches(call, "no more rows")
      fails = false
      assert.are.equal(judge:position(), stream:position())
      assert.are.equal(1, state:position())
      assert.is_true(stream:logits():tobytes() == judge:logits():tobytes())
    end
    assert.is_true(model:step(ids, state):tobytes() == model:step(ids, twin):tobytes())
    stream:feed { { 7 }, { 8 } }
    judge:feed { { 7 }, { 8 } }
    assert.is_true(stream:logits():tobytes() == judge:logits():tobytes())
  end)

  it("says where two of its names are one in a file", function()
    local stream = counting(function(state) state["deep.list.#1"] = state.sum end):stream {}
    stream:feed { { 1 } }
    assert.error_matches(function() stream:save(path) end,
      "two tensors that a file would call 'deep%.list%.#1'")
  end)

  it("says what it can't reorder", function()
    local stream = counting(function(state) state.wide = pf.ones(5) end):stream { batch = 2 }
    stream:feed(prompt)
    local fine, message = pcall(function() stream:reorder { 1 } end)
    assert.is_false(fine)
    assert.truthy(tostring(message):find("wide", 1, true), message)
  end)

  it("with a custom kernel in nn.attention streams, forks and saves", function()
    local kernel = pf.kernel.custom { map = function(x) return x:elu() + 1 end }
    local model = nn.chain { nn.embedding { vocab = 11, dim = 8 },
      nn.attention { kernel = kernel, dim = 8, heads = 2, causal = true, rotary = true },
      nn.linear { from = 8, to = 11 } }
    local stream = model:stream { batch = 2 }
    stream:feed(prompt)
    assert.is_true(stream:save(path))
    local loaded = assert(model:load_stream(path))
    local fork = stream:fork()
    for _, s in ipairs { stream, loaded, fork } do s:feed { { 1 }, { 2 } } end
    assert.is_true(stream:logits():tobytes() == loaded:logits():tobytes())
    assert.is_true(stream:logits():tobytes() == fork:logits():tobytes())
  end)
end)
