-- streaming_spec.lua - what can be done with a state besides moving it on: batches, forks, other
-- orders, merges, files; of attention alone, of whole models, and of layers written in Lua.
local pf = require "performer"
local array = require "spec.support.array"
local trial = require "spec.support.trial"

local nn = pf.nn
local H, D, DV = trial.H, trial.D, trial.DV
local inputs, tensors, assert_close = trial.inputs, trial.tensors, trial.assert_close

--- Every attention, and a kernel written in Lua.
local function attentions()
  local list = trial.attentions()
  list[#list + 1] = { name = "custom", kernel = pf.kernel.custom {
    map = function(x) return pf.concat({ x:softmax(-1), (-x):softmax(-1) }, -1) end } }
  return list
end

local function new_state(a, B, decay)
  return pf.attention.state { kernel = a.kernel or "exact", batch = B, heads = H, head_dim = D,
    value_dim = DV, decay = decay }
end

--- Positions first .. last of q, k, v, of batch rows `rows` (all of them without).
local function part(list, first, last, row)
  local parts = {}
  for i, t in ipairs(list) do
    if row then t = t:slice(1, row, row) end
    parts[i] = t:slice(3, first, last)
  end
  return table.unpack(parts)
end

--- Steps over positions first .. last; their outputs as bytes.
local function steps(state, list, first, last, row)
  local bytes = {}
  for t = first, last do bytes[#bytes + 1] = state:step(part(list, t, t, row)):tobytes() end
  return table.concat(bytes)
end

local path
before_each(function() path = os.tmpname() end)
after_each(function() os.remove(path) end)

for number, a in ipairs(attentions()) do
  describe(a.name .. " states:", function()
    local B, L = 3, 24
    local list = { tensors(inputs(B, L, 100 + number)) }

    it("a batch gives each item what it gets alone, bit for bit", function()
      local all = new_state(a, B)
      all:prefill(part(list, 1, 9))
      local together = {}
      for t = 10, 14 do together[t] = all:step(part(list, t, t)) end
      for row = 1, B do
        local alone = new_state(a, 1)
        alone:prefill(part(list, 1, 9, row))
        for t = 10, 14 do
          assert.is_true(together[t]:slice(1, row, row):tobytes() ==
            alone:step(part(list, t, t, row)):tobytes())
        end
      end
    end)

    it("prefills in a row and steps equal the whole", function()
      local whole = new_state(a, B):prefill(table.unpack(list))
      local state, parts = new_state(a, B), {}
      for _, range in ipairs { { 1, 7 }, { 8, 8 }, { 9, 17 } } do
        parts[#parts + 1] = state:prefill(part(list, table.unpack(range)))
      end
      for t = 18, L do parts[#parts + 1] = state:step(part(list, t, t)) end
      assert_close(array.of(whole), array.of(pf.concat(parts, 3)), L * DV, 1e-5, "the parts")
    end)

    it("reorder takes rows, some of them twice", function()
      local state, rows = new_state(a, B), { 3, 1, 3, 2 }
      state:prefill(part(list, 1, 6))
      steps(state, list, 7, 9)
      local kept = state:fork()
      assert.are.equal(state, state:reorder(rows))
      assert.are.equal(4, state:batch())
      assert.are.equal(9, state:position())
      local more = { tensors(inputs(4, 2, 200 + number)) }
      local out = state:step(part(more, 1, 1))
      for to, from in ipairs(rows) do
        local one = kept:fork():reorder { from }
        assert.is_true(one:step(part(more, 1, 1, to)):tobytes() ==
          out:slice(1, to, to):tobytes())
      end
      assert.has_error(function() state:reorder { 5 } end)
      assert.has_error(function() state:reorder { 0 } end)
      assert.has_error(function() state:reorder {} end)
      assert.are.equal(4, state:batch())
    end)

    it("a state merged with that of the next segment is the state of both", function()
      for _, cut in ipairs { 1, 11 } do
        local both, first, second = new_state(a, B), new_state(a, B), new_state(a, B)
        both:prefill(part(list, 1, 20))
        first:prefill(part(list, 1, cut))
        second:prefill(part(list, cut + 1, 15))
        steps(second, list, 16, 20)
        local left = second:fork()
        assert.are.equal(first, first:merge(second))
        assert.are.equal(20, first:position())
        assert_close(array.of(both:step(part(list, 21, 21))),
          array.of(first:step(part(list, 21, 21))), DV, 1e-5, "the merged state")
        assert.is_true(steps(left, list, 21, 22) == steps(second, list, 21, 22))
      end
    end)

    it("an empty state merges as nothing", function()
      local state, judge = new_state(a, B), new_state(a, B)
      state:prefill(part(list, 1, 5))
      judge:prefill(part(list, 1, 5))
      state:merge(new_state(a, B))
      state = new_state(a, B):merge(state)
      assert_close(array.of(judge:step(part(list, 6, 6))), array.of(state:step(part(list, 6, 6))),
        nil, 1e-6, "it")
    end)

    it("a saved state goes on with the same bits", function()
      local state = new_state(a, B)
      state:prefill(part(list, 1, 6))
      steps(state, list, 7, 9)
      assert.is_true(state:save(path))
      local loaded = assert(pf.attention.load_state(path, { kernel = a.kernel or "exact" }))
      assert.are.equal(9, loaded:position())
      assert.are.equal(B, loaded:batch())
      if not a.exact then assert.are.equal(state:bytes(), loaded:bytes()) end
      assert.is_true(steps(state, list, 10, 12) == steps(loaded, list, 10, 12))
      assert.is_true(state:prefill(part(list, 13, L)):tobytes() ==
        loaded:prefill(part(list, 13, L)):tobytes())
    end)
  end)
end

describe("heads that forget", function()
  local softmax = { kernel = pf.kernel.softmax { head_dim = D, features = 16, seed = 4 } }
  local decay = pf.tensor { 0.3, 0.01 }
  for name, a in pairs { softmax = softmax, exact = { exact = true } } do
    it(name .. ": steps, merges and files keep the distances", function()
      local list = { tensors(inputs(2, 30, 301)) }
      local whole = trial.attend(a, list[1], list[2], list[3], { causal = true, decay = decay })
      local state, second = new_state(a, 2, decay), new_state(a, 2, decay)
      state:prefill(part(list, 1, 8))
      steps(state, list, 9, 12)
      second:prefill(part(list, 13, 18))
      steps(second, list, 19, 20)
      state:merge(second)
      assert.is_true(state:save(path))
      state = assert(pf.attention.load_state(path, { kernel = a.kernel or "exact",
        decay = decay }))
      local out = {}
      for t = 21, 30 do out[#out + 1] = state:step(part(list, t, t)) end
      assert_close(array.of(whole:slice(3, 21, 30)), array.of(pf.concat(out, 3)), 10 * DV, 1e-5,
        "the stream")
      local none, message, code = pf.attention.load_state(path, { kernel = a.kernel or "exact",
        decay = pf.tensor { 0.3, 0.02 } })
      assert.is_nil(none)
      assert.truthy(message:find("decay", 1, true))
      assert.are.equal("PF_EFORMAT", code)
    end)
  end
end)

describe("groups of heads", function()
  it("step and prefill alike: a head of keys for two of queries", function()
    local kernel = pf.kernel.softmax { head_dim = D, features = 16, seed = 4 }
    for _, a in ipairs { kernel, "exact", "relu" } do
      local state = pf.attention.state { kernel = a, heads = 1, head_dim = D, value_dim = DV }
      local random = array.random(7)
      local function draw(heads, width)
        return array.tensor(random:normals { 1, heads, 12, width })
      end
      local list = { draw(2, D), draw(1, D), draw(1, DV) }
      local parts = { state:prefill(part(list, 1, 5)) }
      for t = 6, 12 do parts[#parts + 1] = state:step(part(list, t, t)) end
      local out = pf.concat(parts, 3)
      for h = 1, 2 do
        local alone = pf.attention.state { kernel = a, heads = 1, head_dim = D, value_dim = DV }
        local want = alone:prefill(list[1]:slice(2, h, h), list[2], list[3])
        assert_close(array.of(want), array.of(out:slice(2, h, h)), nil, 1e-5, "head " .. h)
      end
    end
  end)
end)

-- ---- files that can't be taken -----------------------------------------------------------

describe("a file of a state", function()
  local options = { head_dim = D, features = 16, seed = 4 }
  local kernel = pf.kernel.softmax(options)

  local function saved()
    local state = new_state({ kernel = kernel }, 2)
    state:prefill(part({ tensors(inputs(2, 9, 400)) }, 1, 9))
    assert.is_true(state:save(path))
    local file <close> = assert(io.open(path, "rb"))
    return file:read "a"
  end

  local function refused(content, words, o)
    local file <close> = assert(io.open(path, "wb"))
    file:write(content)
    file:close()
    local none, message, code = pf.attention.load_state(path, o)
    assert.is_nil(none)
    assert.truthy(message:find(words or "", 1, true), message)
    assert.is_string(code)
    return message
  end

  it("says its kernel itself", function()
    saved()
    local state = assert(pf.attention.load_state(path))
    assert.are.equal(9, state:position())
  end)

  it("of another kernel is refused, and says why", function()
    local content = saved()
    local function other(name, more)
      local o = { head_dim = D, features = 16, seed = 4 }
      for key, value in pairs(more or {}) do o[key] = value end
      return { kernel = pf.kernel[name](o) }
    end
    refused(content, "projection", other("softmax", { seed = 5 }))
    refused(content, "kernel", other("softmax", { scale = 0.61 }))
    refused(content, "kernel", other("softmax", { features = 32 }))
    refused(content, "feature map", other "relu")
    refused(content, "kind of attention", { kernel = "exact" })
    refused(content, "custom", { kernel = pf.kernel.custom { map = function(x) return x end } })
    assert.truthy(pf.attention.load_state(path, other "softmax"))
  end)

  it("of a custom kernel needs that kernel", function()
    local function power(p)
      return pf.kernel.custom { map = function(x) return (x * p):exp() end }
    end
    local state = pf.attention.state { kernel = power(1) }
    assert.has_error(function() state:save(path) end)
    state:prefill(part({ tensors(inputs(1, 9, 401)) }, 1, 9))
    assert.is_true(state:save(path))
    local none, message = pf.attention.load_state(path)
    assert.is_nil(none)
    assert.truthy(message:find("custom", 1, true))
    none, message = pf.attention.load_state(path, { kernel = power(1.1) })
    assert.is_nil(none)
    assert.truthy(message:find("kernel", 1, true))
    assert.truthy(pf.attention.load_state(path, { kernel = power(1) }))
  end)

  it("that is damaged anywhere is refused", function()
    local content = saved()
    local random, header = array.random(9), string.unpack("<I8", content)
    local function below(n) return math.floor(random:uniform() * n) end
    for cut = 0, #content - 1, #content // 40 do refused(content:sub(1, cut)) end
    for i = 1, 60 do
      local at = i <= 20 and 9 + below(header) or 9 + header + below(#content - header - 8)
      local byte = content:byte(at) ~ (1 << below(7))
      local changed = content:sub(1, at - 1) .. string.char(byte) .. content:sub(at + 1)
      -- A blank of the header's padding may become another one.
      if not (content:byte(at) == 32 and at <= 8 + header) then refused(changed) end
    end
    refused(content .. "x")
    refused ""
  end)

  it("that holds something else, or is not there, says so", function()
    assert.is_true(pf.save(path, { s = pf.ones(2, 2) }))
    local none, message, code = pf.attention.load_state(path)
    assert.is_nil(none)
    assert.truthy(message:find("no state", 1, true))
    assert.are.equal("PF_EFORMAT", code)
    none, message, code = pf.attention.load_state "/no/such/file"
    assert.is_nil(none)
    assert.truthy(message:find("/no/such/file", 1, true))
    assert.is_string(code)
  end)
end)

describe("states of different kernels", function()
  it("don't merge", function()
    local function state(name, seed, B)
      return new_state({ kernel = pf.kernel[name] { head_dim = D, features = 16, seed = seed } }, B)
    end
    local one = state("softmax", 1, 2)
    for _, other in ipairs { state("softmax", 2, 2), state("relu", 1, 2), state("softmax", 1, 3),
      new_state({ exact = true }, 2) } do
      assert.has_error(function() one:merge(other) end)
    end
    one:merge(state("softmax", 1, 2))
  end)
end)

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
